"""Recipes that nobody writes by hand: each is one sentence, soon."""

import time

import pytest

from sparsernn.core.errors import InputError
from sparsernn.core.settings import parse
from sparsernn.runs.assembly import assemble
from sparsernn.runs.recipe import Recipe, load_recipe

BASE = "task: {name: a}\nmodel: {name: b}\noptimizer: {name: sgd, lr: 1}\n"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)
DOCUMENTS = {
    "threads": f"{BASE}threads: {'9' * 20}\n",
    "epochs": f"{BASE}epochs: {'9' * 90}\n",
    "digits": f"{BASE}seed: {'9' * 5000}\n",
    "digits with a sign": f"{BASE}seed: -{'9' * 5000}\n",
    "seconds": f"{BASE}checkpoint_seconds: {'9' * 90}\n",
    "log": f"{BASE}log_every: {'9' * 90}\n",
    "clip": f"{BASE}clip: .inf\n",
    "list in itself": f"{BASE}about: &a [*a]\n",
    "mapping in itself": f"published: &a {{y: *a}}\n{BASE}",
    "document in itself": "&a {task: *a}",
    "key in itself": f"{BASE}? &a [*a]\n: 1\n",
    "nested lists": f"{BASE}about: {'[' * 3000}{']' * 3000}\n",
    "nested mappings": f"{BASE}about: {'{a: ' * 300}1{'}' * 300}\n",
    "nested blocks": BASE + "".join(f"{' ' * k}a:\n" for k in range(200)),
    "keys": "\n".join(f"key{k}: 1" for k in range(60_000)),
    "fewer keys": BASE + "\n".join(f"key{k}: 1" for k in range(6_000)),
    "aliases": LAUGHS + BASE,
    "unhashable key": f"{BASE}? [a, b]\n: 1\n",
    "twice": f"{BASE}seed: 1\nseed: 2\n",
    "no name": f"name: null\n{BASE}",
    "empty": "",
    "a list": "[1, 2]",
    "zero bytes": "a: \0",
    "escape": 'a: "\\ud800"',
    "tag": "a: !!python/object:os.system x",
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_hostile_recipe_is_one_sentence_and_soon(name, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(DOCUMENTS[name], encoding="utf-8", errors="surrogatepass")
    started = time.perf_counter()
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500
    assert time.perf_counter() - started < 8  # seconds; a quadratic one took 25


@pytest.mark.parametrize(
    "change",
    ["name=", "name=''", "threads=99999999999999999999", "threads=0", f"seed={'9' * 5000}", "epochs=1000001"],
)
def test_a_hostile_override_is_one_sentence(change):
    with pytest.raises(InputError) as caught:
        load_recipe("demo/selfish", [change])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", ["0", "-1", ".inf", ".nan", "1e39", "'fast'", "true", "null"])
def test_learning_rates_have_bounds(rate):
    with pytest.raises(InputError, match=r"lr|schedule"):
        assemble(load_recipe("demo/selfish", [f"optimizer.lr={rate}"]))


@pytest.mark.parametrize("momentum", ["1", "5", "-0.1", ".nan", "'much'"])
@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_momentum_has_bounds(name, momentum):
    with pytest.raises(InputError, match="momentum"):
        assemble(load_recipe("demo/selfish", [f"optimizer={{name: {name}, lr: 1, momentum: {momentum}}}"]))


def test_a_mapping_without_a_name_is_one_sentence():
    with pytest.raises(InputError, match="has no name"):
        Recipe.from_settings({"task": {"name": "a"}, "model": {"name": "b"}, "optimizer": {"name": "c"}})


def test_aliases_that_do_no_harm_are_read():
    assert parse("a: &a [1, 2]\nb: *a\n", "example") == {"a": [1, 2], "b": [1, 2]}
