"""Recipes: the dialect of YAML, inheritance, overrides, validation, and every shipped recipe."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsernn
from sparsernn.core.errors import InputError
from sparsernn.core.settings import DROP, dump, merge, override, parse
from sparsernn.runs.recipe import DESCRIPTION, Recipe, list_recipes, load_recipe, recipe_text

MINIMAL = "task: {name: language_modelling}\nmodel: {name: language_model}\noptimizer: sgd\n"


@pytest.fixture
def write(tmp_path: Path):
    """Write a recipe file and give its path back."""

    def writer(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return writer


# --- the dialect


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1.2e-6", 1.2e-6),
        ("40", 40),
        ("010", 10),
        ("-.5", -0.5),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2026-01-02", "2026-01-02"),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("drop", DROP),
        ("'drop'", "drop"),
        ("[1, 2.0, a]", [1, 2.0, "a"]),
        ("{a: drop}", {"a": DROP}),
    ],
)
def test_scalars_are_read_as_yaml_1_2_says(text, value):
    read = parse(text, "test")
    assert read == value
    assert type(read) is type(value)


def test_a_key_that_stands_twice_is_an_error():
    with pytest.raises(InputError, match=r"mine.*'epochs' stands twice \(line 3\)"):
        parse("epochs: 1\nseed: 2\nepochs: 3\n", "mine")


@pytest.mark.parametrize(
    "text", ["[1, 2", "a: b: c", "!!python/object/apply:os.getcwd []", "&a [*a, *b]", "{[1]: 2}"]
)
def test_what_is_not_plain_yaml_is_an_input_error(text):
    with pytest.raises(InputError, match="is not valid YAML"):
        parse(text, "mine")


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
)
words = st.text("abcdefghijklmnop_", min_size=1)
trees = st.dictionaries(
    words,
    st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(words, inner), max_leaves=8),
)


@settings(deadline=None)
@given(trees)
def test_what_is_dumped_is_read_back(tree):
    assert parse(dump(tree), "dumped") == (tree or {})


@settings(deadline=None)
@given(trees)
def test_merging_with_nothing_changes_nothing(tree):
    assert merge(tree, {}) == tree
    assert merge({}, tree) == tree


@settings(deadline=None)
@given(trees, trees)
def test_merging_the_same_twice_is_merging_once(base, over):
    once = merge(base, over)
    assert merge(once, over) == once


# --- inheritance


def test_mappings_merge_lists_replace_and_drop_removes(write):
    child = write(
        "base: selfish/lstm-ptb\n"
        "model: {hidden_sizes: [10], dropout: {input: drop}}\n"
        "sparsity: {prune_rate: drop}\n"
    )
    recipe = load_recipe(child)
    assert recipe.model["hidden_sizes"] == [10]
    assert recipe.model["embedding_size"] == 1500
    assert "input" not in recipe.model["dropout"]
    assert recipe.sparsity == {"name": "selfish", "density": 0.33}
    assert recipe.name == "mine"


def test_a_bare_component_name_replaces_the_whole_component(write):
    assert load_recipe(write("base: selfish/lstm-ptb\nsparsity: dense\n")).sparsity == {"name": "dense"}


def test_what_describes_one_recipe_is_not_inherited(write):
    recipe = load_recipe(write("base: selfish/lstm-ptb\n"))
    assert all(not getattr(recipe, key) for key in DESCRIPTION)


def test_a_base_may_be_a_file_beside_the_recipe(write):
    write(MINIMAL + "epochs: 3\n", "parent.yaml")
    assert load_recipe(write("base: parent.yaml\nseed: 7\n")).epochs == 3


def test_a_circle_of_bases_is_an_input_error(write):
    first = write("base: second.yaml\n", "first.yaml")
    write("base: first.yaml\n", "second.yaml")
    with pytest.raises(InputError, match="in a circle: first -> second -> first"):
        load_recipe(first)


# --- overrides


def test_overrides_set_any_depth_with_yaml_values():
    recipe = load_recipe("selfish/lstm-ptb", ["optimizer.lr=1e1", "model.layer.weight_drop=.5", "clip=null"])
    assert recipe.optimizer["lr"] == 10.0
    assert recipe.model["layer"] == {"name": "lstm", "weight_drop": 0.5}
    assert recipe.clip is None
    assert recipe.overrides == ("optimizer.lr=1e1", "model.layer.weight_drop=.5", "clip=null")


def test_a_component_can_be_replaced_and_then_set():
    recipe = load_recipe("selfish/lstm-ptb", ["sparsity=static", "sparsity.density=0.1"])
    assert recipe.sparsity == {"name": "static", "density": 0.1}


def test_a_component_of_another_kind_brings_its_own_settings_alone():
    """At any depth, and inside a larger value too; of the same kind, or renamed, it keeps what it is not told."""
    tree = {"task": {"name": "t", "corpus": {"name": "embedded", "variant": "topics"}, "window": 3}}
    file = {"name": "file", "path": "x"}
    for assignment in ("task.corpus={name: file, path: x}", "task={corpus: {name: file, path: x}}"):
        assert override(tree, [assignment]) == {"task": {"name": "t", "corpus": file, "window": 3}}
    assert override(tree, ["task={name: u, lag: 1}"]) == {"task": {"name": "u", "lag": 1}}
    assert override(tree, ["task.corpus={name: embedded, level: char}"])["task"]["corpus"] == {
        "name": "embedded",
        "variant": "topics",
        "level": "char",
    }
    assert override(tree, ["task.corpus.name=file"])["task"]["corpus"] == {
        "name": "file",
        "variant": "topics",
    }
    assert override(tree, ["task.corpus={name: file, variant: drop}"])["task"]["corpus"] == {"name": "file"}


def test_published_numbers_stay_only_with_what_was_published():
    assert not load_recipe("selfish/lstm-ptb", ["epochs=2"]).published
    assert load_recipe("selfish/lstm-ptb", ["threads=2"]).published["test_perplexity"] == 71.72


def test_override_leaves_its_argument_alone():
    tree = {"a": {"b": [1]}}
    override(tree, ["a.b=[2]", "a.c=3"])
    assert tree == {"a": {"b": [1]}}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epochs", "'epochs' is not a setting; write key=value"),
        ("=3", "write key=value"),
        ("a..b=3", "write key=value"),
        ("epoch=3", "no setting 'epoch'.*Did you mean 'epochs'"),
        ("lr=3", "no setting 'lr'.*Did you mean 'optimizer.lr'"),
        ("optimiser.lr=3", "no setting 'optimiser'.*Did you mean 'optimizer'"),
        ("epochs.x=3", "epochs is 100, which has no settings inside"),
        ("epochs=0", r"epochs is 0; it must be a whole number in \[1, "),
        ("epochs=1.5", "epochs is 1.5"),
        ("epochs=true", "epochs is True"),
        ("epochs=many", "epochs is 'many'"),
        ("seed=-1", "seed is -1"),
        ("clip=0", "clip is 0; it must be a finite number above 0"),
        ("clip=.nan", "clip is nan"),
        ("threads=0", "threads is 0"),
        ("log_every=0", "log_every is 0"),
        ("checkpoint_seconds=-1", "checkpoint_seconds is -1"),
        ("model=drop", "has no model"),
        ("sparsity=3", "sparsity is 3; it must be a name or a mapping"),
        ("optimizer.name=drop", "optimizer needs 'name'"),
        ("optimizer=[1", "is not valid YAML"),
        ("published.rank=1", "published has no setting 'rank'"),
        ("published.test_perplexity=low", "test_perplexity is 'low'"),
    ],
)
def test_a_fault_in_an_override_names_what_is_accepted(assignment, message):
    with pytest.raises(InputError, match=message):
        load_recipe("selfish/lstm-ptb", [assignment])


# --- files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "is not a recipe: it must be a mapping"),
        ("", "is not a recipe"),
        ("task: [", "is not valid YAML"),
        (MINIMAL + "epoch: 3\n", "has no setting 'epoch'.*Did you mean 'epochs'"),
        ("task: {name: x}\nmodel: {name: y}\n", "has no optimizer"),
        (MINIMAL + "sparsity: {density: 0.5}\n", "sparsity needs 'name'"),
        (MINIMAL + "base: [a]\n", "base is \\['a'\\]"),
        (
            MINIMAL + "base: selfish/lstm-pbt\n",
            "no recipe 'selfish/lstm-pbt'.*Did you mean 'selfish/lstm-ptb'",
        ),
    ],
)
def test_a_fault_in_a_file_is_one_sentence_that_names_the_file(write, text, message):
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(write(text))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="There is no recipe file"):
        load_recipe(tmp_path / "none.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as a recipe"):
        load_recipe(binary)


def test_defaults_fill_what_a_short_file_leaves_out(write):
    recipe = load_recipe(write(MINIMAL))
    assert (recipe.name, recipe.sparsity, recipe.boundary) == (
        "mine",
        {"name": "dense"},
        {"name": "truncate"},
    )


# --- the shipped recipes


def description_faults(recipe: Recipe) -> list[str]:
    """What a recipe that comes with the package lacks for a reader, in sentences; a user's may lack it."""
    faults = []
    if not recipe.about.endswith("."):
        faults.append(
            f"{recipe.name}: about is {recipe.about!r}; it must be a sentence that says what is run."
        )
    if not recipe.source.strip():
        faults.append(
            f"{recipe.name} has no source; write 'source: ...', the paper or code that it follows, "
            "or that it is this project's own (`base:` hands no source on)."
        )
    return faults


def test_a_recipe_without_source_is_answered_with_a_sentence(write):
    base = "base: selfish/lstm-ptb-small\nabout: As its base.\n"
    (said,) = description_faults(load_recipe(write(base)))
    assert said.startswith("mine has no source; write 'source: ...'")
    assert description_faults(load_recipe(write(base + "source: This project.\n"))) == []
    (said,) = description_faults(load_recipe(write("base: demo/dense\nsource: This project.\nabout: no\n")))
    assert "about is 'no'; it must be a sentence" in said


@pytest.mark.parametrize("name", list_recipes())
def test_each_shipped_recipe_loads_describes_itself_and_survives_a_round_trip(name, write):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert description_faults(recipe) == []
    again = load_recipe(write(recipe.to_yaml()))
    assert again == recipe
    assert Recipe.from_settings(recipe.settings()) == recipe


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_are_small_and_take_their_name_from_their_place(name):
    text = recipe_text(name)
    assert len(text.splitlines()) <= 45
    assert "name:" not in [line[:5] for line in text.splitlines()]


def test_the_seed_command_is_reproduced():
    recipe = load_recipe("selfish/lstm-ptb")
    assert recipe.model["hidden_sizes"] == [1500, 1500]
    assert recipe.model["dropout"] == {
        "embedding": 0,
        "input": 0.65,
        "hidden": 0.65,
        "output": 0.65,
        "locked": False,
    }
    assert recipe.optimizer == {"name": "snt_asgd", "lr": 40, "weight_decay": 1.2e-6, "nonmono": 5}
    assert recipe.sparsity == {"name": "selfish", "density": 0.33, "prune_rate": 0.7}
    assert (recipe.seed, recipe.epochs, recipe.clip) == (5, 100, 0.25)
    assert (recipe.task["batch_size"], recipe.task["window"]) == (20, 35)
    assert recipe.published["test_perplexity"] == 71.72


@pytest.mark.parametrize("family", ["selfish/lstm-ptb", "selfish/lstm-ptb-small"])
@pytest.mark.parametrize("method", ["dense", "static", "set", "rigl", "snfs"])
def test_a_sibling_differs_from_its_base_in_the_method_alone(family, method):
    base, sibling = load_recipe(family).settings(), load_recipe(f"{family}-{method}").settings()
    if (family, method) == ("selfish/lstm-ptb-small", "dense"):  # where each has the rate that suits it
        assert (base["optimizer"].pop("lr"), sibling["optimizer"].pop("lr")) == (40, 20)
    differing = {key for key in base | sibling if base.get(key) != sibling.get(key)}
    assert differing <= {"name", "sparsity", *DESCRIPTION}
    assert sibling["sparsity"]["name"] == method


def test_recipes_do_not_import_torch():
    code = "import sys, sparsernn; sparsernn.load_recipe('demo/dense'); print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(sparsernn.__file__).parents[1])}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize("clip", [{"norm": 0.25}, {"value": 5}, 0.25, None])
def test_clipping_is_by_norm_or_by_value(clip):
    assert load_recipe("selfish/lstm-ptb", [f"clip={json.dumps(clip)}"]).clip == clip


@pytest.mark.parametrize("clip", [{}, {"size": 1}, {"norm": 1, "value": 1}, {"value": 0}, {"value": None}])
def test_other_ways_to_clip_are_refused(clip):
    settings = load_recipe("selfish/lstm-ptb").settings()
    with pytest.raises(InputError, match=r"clip is .*; it must be a finite number above 0"):
        Recipe.from_settings({**settings, "clip": clip})


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"test_accuracy": 0.97, "valid_f1": 0, "train_loss": 0.1, "note": "a sentence"}, ""),
        ({"test_accuracy": 97.1}, r"published.test_accuracy is 97.1; it must be a finite number in \[0, 1\]"),
        ({"accuracy": 0.9}, "has no setting 'accuracy'"),
    ],
)
def test_numbers_of_every_metric_can_be_published(numbers, message):
    settings = {**load_recipe("selfish/lstm-ptb").settings(), "published": numbers}
    if not message:
        assert Recipe.from_settings(settings).published == numbers
        return
    with pytest.raises(InputError, match=message):
        Recipe.from_settings(settings)
