"""The recipes of AWD-LSTM and of layers sparse by construction: sizes, commands, and what is refused."""

import re
from pathlib import Path

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.core.registry import make
from sparsernn.core.settings import parse
from sparsernn.models import MODELS, LanguageModel
from sparsernn.nn import BlockEmbedding
from sparsernn.runs.assembly import assemble
from sparsernn.runs.recipe import DESCRIPTION, list_recipes, load_recipe
from sparsernn.tasks.language import LanguageModelling

PTB, WIKITEXT = 10_000, 33_278
# recipe -> parameters; the first three as the published code counts them, the others by hand from the sizes
SIZES = {
    "blocks/lstm-ptb-dense": 24_222_000,
    "blocks/lstm-ptb": 23_823_300,
    "blocks/lstm-ptb-all": 7_070_560,
    "awd/lstm-ptb": 24_222_000 - 400,
    "awd/lstm-wt2": 24_222_000 - 400 + (WIKITEXT - PTB) * 401,
    "awd/lstm-ptb-small": 2_715_920,
    "blocks/lstm-ptb-small": 2_715_920,
    "blocks/lstm-ptb-small-all": 2_715_920,
}
HALF, THIRD = 0.5, 0.3333333333


def block(a: float, b: float) -> dict:
    """The spec of a layer with the parameters of a smaller one."""
    return {"name": "block_lstm", "reduce": [a, b]}


def hidden(f: float) -> list[dict]:
    """The published mode that leaves the embedding alone."""
    return [block(1, f), block(f, f), block(f, 1)]


# What learning to recite compares: embedding size, hidden size, layers, density of the embedding, parameters.
RECITED = [
    (400, 1150, "lstm", 1, 24_222_000),
    (200, 575, "lstm", 1, 7_068_500),
    (200, 1150, hidden(HALF), 1, 7_068_504),
    (400, 1150, block(HALF, HALF), HALF, 7_070_560),
    (133, 383, "lstm", 1, 3_585_861),
    (133, 1150, hidden(THIRD), 1, 3_590_101),
    (400, 1150, block(THIRD, THIRD), THIRD, 3_594_680),
]


def parameters(model: torch.nn.Module) -> int:
    """How many there are."""
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_the_models_have_the_published_sizes(name):
    recipe = load_recipe(name)
    words = WIKITEXT if recipe.task["corpus"]["name"] == "wikitext-2" else PTB
    with torch.device("meta"):
        model = make("model", MODELS, recipe.model, vocabulary_size=words)
    assert parameters(model) == SIZES[name]


@pytest.mark.parametrize(("embedding", "width", "layer", "density", "total"), RECITED)
@pytest.mark.parametrize("geometry", ["geometric", "greedy"])
def test_the_published_sizes_of_learning_to_recite(embedding, width, layer, density, total, geometry):
    table = "dense" if density == 1 else {"name": "block", "density": density, "geometry": geometry}
    with torch.device("meta"):
        model = LanguageModel(
            PTB,
            embedding,
            [width, width, embedding],
            layer=layer,
            head={"name": "linear", "idle_prior": True},
            tied=True,
            embedding=table,
        )
    assert parameters(model) == total


def test_the_layers_of_the_wide_model_are_the_published_ones():
    with torch.device("meta"):
        model = make("model", MODELS, load_recipe("blocks/lstm-ptb").model, vocabulary_size=PTB)
    assert [parameters(layer) for layer in model.layers] == [6_741_300, 10_589_200, 2_482_400]
    assert [len(layer.windows) for layer in model.layers] == [3, 3, 2]


def test_the_original_commands_are_reproduced():
    ptb, wt2 = load_recipe("awd/lstm-ptb"), load_recipe("awd/lstm-wt2")
    assert (ptb.seed, ptb.epochs, ptb.clip, ptb.task["batch_size"]) == (141, 500, 0.25, 20)
    assert (wt2.seed, wt2.epochs, wt2.clip, wt2.task["batch_size"]) == (1882, 750, 0.25, 80)
    kept = {"embedding": 0.1, "output": 0.4, "locked": True}
    assert ptb.model["dropout"] == kept | {"input": 0.4, "hidden": 0.25}
    assert wt2.model["dropout"] == kept | {"input": 0.65, "hidden": 0.2}
    for recipe in (ptb, wt2, load_recipe("blocks/lstm-ptb-dense")):
        assert (recipe.task["window"], recipe.task["alpha"], recipe.task["beta"]) == (70, 2.0, 1.0)
        assert recipe.optimizer == {"name": "nt_asgd", "lr": 30, "weight_decay": 1.2e-6, "nonmono": 5}
        assert recipe.model["layer"] == {"name": "lstm", "weight_drop": 0.5}
        assert recipe.sparsity == {"name": "dense"}
    assert (ptb.published["test_perplexity"], wt2.published["test_perplexity"]) == (58.8, 65.6)


def test_the_wide_model_differs_from_its_baseline_in_the_model_alone():
    for wide, dense in [
        ("blocks/lstm-ptb", "blocks/lstm-ptb-dense"),
        ("blocks/lstm-ptb-small", "awd/lstm-ptb-small"),
    ]:
        a, b = load_recipe(wide).settings(), load_recipe(dense).settings()
        differing = {key for key in a | b if a.get(key) != b.get(key)}
        assert differing <= {"name", "model", *DESCRIPTION}
        assert {k for k in a["model"] if a["model"][k] != b["model"][k]} == {"hidden_sizes", "layer"}


@pytest.mark.parametrize("name", [n for n in list_recipes() if n.split("/")[0] in ("awd", "blocks")])
def test_a_block_embedding_gets_its_frequent_words_last(name):
    recipe = load_recipe(name)
    if recipe.model.get("embedding", {}):
        assert recipe.task["corpus"]["order"] == "up"


def test_an_order_in_which_frequent_words_would_be_short_is_refused(tiny_recipe, tiny_corpus):
    model = {
        "name": "language_model",
        "embedding_size": 8,
        "hidden_sizes": [8],
        "tied": True,
        "embedding": {"name": "block", "blocks": 4},
    }
    task = {"name": "language_modelling", "batch_size": 4, "eval_batch_size": 2, "window": 9}
    corpus = {"name": "folder", "path": str(tiny_corpus)}

    def built(**order):
        return assemble(
            tiny_recipe(model=model, task=task | {"corpus": corpus | order}, sparsity={"name": "dense"})
        )

    with pytest.raises(InputError, match=r"task\.corpus\.order is 'first'; it must be 'up'"):
        built()
    for order in ("up", "down", "random"):
        assert isinstance(built(order=order).model.embedding, BlockEmbedding)
    run = built(order="up")
    counts = torch.bincount(run.task.corpus.splits["train"], minlength=run.model.vocabulary_size)
    lengths = (run.model.embedding.dense() != 0).sum(1)
    assert lengths[counts.argmax()] == 8
    assert bool((lengths.diff() >= 0).all())
    assert bool((counts.diff() >= 0).all())


def test_words_counted_by_the_table_itself_need_no_order(tiny_corpus):
    from sparsernn.data import CORPORA

    task = LanguageModelling(CORPORA["folder"](tiny_corpus), batch_size=4, eval_batch_size=2)
    words = task.sizes["vocabulary_size"]
    model = LanguageModel(words, 8, [8], embedding={"name": "block", "blocks": 4}, tied=True)
    counts = torch.bincount(task.corpus.splits["train"], minlength=words)
    model.embedding = BlockEmbedding(words, 8, blocks=4, counts=counts)
    task.check_model(model)


def test_the_examples_of_the_page_run():
    page = (Path(__file__).parents[1] / "docs" / "blocks.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(examples) == 2
    names: dict = {}
    for example in examples:
        exec(compile(example, "blocks.md", "exec"), names)
    settings = parse(re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)[0], "blocks.md")
    with torch.device("meta"):
        model = LanguageModel(PTB, **settings["model"])
    assert parameters(model.embedding) == 2_000_000
