"""Every layer, head, embedding, task, optimizer, sparsifier, boundary: compacted exactly, or refused in a sentence.

The cases are made from the registries: a new member is tried with its default settings, and fails here until it says
its sizes or is listed in `REFUSED`.
"""

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.deploy.proof import prove
from sparsernn.gradients import BOUNDARIES
from sparsernn.nn import EMBEDDINGS, HEADS, LAYERS, BlockLSTM
from sparsernn.nn.maps import MAPS
from sparsernn.optim import OPTIMIZERS
from sparsernn.report import load_run
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.compaction import Settings, compact_run
from sparsernn.runs.loop import train
from sparsernn.runs.recipe import Recipe
from sparsernn.runs.reporter import Reporter
from sparsernn.sparsity import SPARSIFIERS
from sparsernn.tasks import TASKS
from test_recipes_train import data, tiny_task  # noqa: F401 - `data` is a fixture

LANGUAGE = {"name": "language_modelling", "corpus": {"order": "up"}, "eval_batch_size": 2}
WIDE = {"name": "language_model", "embedding_size": 20, "hidden_sizes": [20, 10]}
TIED = WIDE | {"hidden_sizes": [10, 20], "tied": True}


def with_layers(layer):
    """A language model of two such layers."""
    return {"model": WIDE | {"layer": layer}}


BLOCKS = {"name": "block_lstm", "blocks": 4, "density": 0.5}
LAYER_CASES = {
    **{name: with_layers(name) for name in LAYERS},
    **{f"elman {name}": with_layers({"name": "elman", "map": name}) for name in MAPS},
    "elman modrelu": with_layers(
        {"name": "elman", "nonlinearity": "modrelu", "learn_initial_state": True, "input_bias": False}
    ),
    **{f"qrnn {p}": with_layers({"name": "qrnn", "window": 2, "pooling": p}) for p in ("f", "fo", "ifo")},
    "qrnn tied": {"model": TIED | {"layer": {"name": "qrnn", "window": 3}}},
    "qrnn of one width": {"model": WIDE | {"hidden_sizes": [20, 20], "layer": {"name": "qrnn", "window": 2}}},
    "rhn uncoupled": with_layers({"name": "rhn", "depth": 2, "coupled": False, "learn_initial_state": True}),
    "onlstm small chunks": with_layers({"name": "onlstm", "chunk_size": 5}),
    "blocks": with_layers(BLOCKS),
    "blocks reduced": with_layers({"name": "block_lstm", "reduce": [0.5, 0.8]}),
    # all that the first component of the second layer reads is dead
    "blocks without inputs": with_layers(["gru", {"name": "block_lstm", "blocks": 4, "density": 0.25}]),
    "blocks tied": {"model": TIED | {"layer": BLOCKS, "embedding": {"name": "block", "blocks": 4}}},
    "mixed": {"model": WIDE | {"layer": [BLOCKS, "gru"]}},
}
HEAD_CASES = {
    **{
        f"{head} of {embedding}{', tied' * tied}": {
            "model": (TIED if tied else WIDE) | {"head": head, "embedding": embedding}
        }
        for head in HEADS
        for embedding in EMBEDDINGS
        for tied in (False, True)
    },
    "idle prior": {"model": TIED | {"head": {"name": "linear", "idle_prior": True}}},
    "split": {"model": TIED | {"head": {"name": "split", "splits": [3, 7]}}},
    "greedy strips": {
        "model": TIED | {"embedding": {"name": "block", "blocks": 5, "geometry": "greedy"}},
    },
    # 10 units fall to 8, which is 2 x 4: what "auto" would then take for no projection
    "mixture auto": {
        "model": WIDE | {"embedding_size": 4, "head": {"name": "mixture", "experts": 2, "projection": "auto"}}
    },
    "mixture in parts": {
        "model": WIDE
        | {"embedding_size": 5, "head": {"name": "mixture", "experts": 2, "projection": "never"}}
    },
    **{
        f"one expert{kind}": {
            "model": base
            | {"embedding_size": base["hidden_sizes"][-1]}
            | {"head": {"name": "mixture", "experts": 1, "projection": "never", "floor": floor}}
        }
        for kind, base, floor in (("", WIDE, 0.0), (", tied", TIED, 1e-8), (", floor", WIDE, 1e-8))
    },
}
MODELS_OF = {
    "language_model": WIDE,
    "sequence_model": {"name": "sequence_model", "hidden_sizes": [12, 9]},
    "tagger": {"name": "tagger", "embedding_size": 10, "hidden_size": 8, "layers": 2},
    "bidaf": {
        "name": "bidaf",
        "word_size": 6,
        "hidden_size": 8,
        "character_cnn": {"embedding_size": 3, "filters": 4, "width": 3},
        "groups": "all",
    },
}
TAGGING = {"name": "tagging", "order": "up"}
TASK_CASES = {
    **{name: {"task": {"name": name}} for name in TASKS if name != "language_modelling"},
    **{
        f"tagging, {name}": {"task": TAGGING, "model": MODELS_OF["tagger"] | settings}
        for name, settings in {
            "blocks": {"layer": {"name": "block_lstm", "blocks": 2, "density": 0.75}},
            "mixed": {"layer": ["lstm", {"name": "block_lstm", "reduce": [0.5, 0.6]}]},
            "one layer, strips": {"layers": 1, "embedding": {"name": "block", "blocks": 5}},
        }.items()
    },
    "bidaf, six groups": {
        "task": {"name": "question_answering"},
        "model": MODELS_OF["bidaf"] | {"groups": "six"},
    },
}
PENALTIES = {"iss": {"strength": 1e-3}, "l1": {"strength": 1e-4}}
TOGETHER = {"together": {"of": [{"name": name, **settings} for name, settings in PENALTIES.items()]}}
CHAIN = {"chain": {"of": [{"name": "rigl", "density": 0.5}, {"name": "iss", "strength": 1e-3}]}}
STRENGTHS = {**PENALTIES, **TOGETHER, **CHAIN, "dense": {}, "frozen": {}}
BASES = {"alternating": {"base": 1}}
TRAINING_CASES = {
    **{f"optimizer {name}": {"optimizer": {"name": name, "lr": 0.1}} for name in OPTIMIZERS},
    **{
        f"sparsity {name}": {"sparsity": {"name": name, **STRENGTHS.get(name, {"density": 0.5})}}
        for name in SPARSIFIERS
    },
    **{f"boundary {name}": {"boundary": {"name": name, **BASES.get(name, {})}} for name in BOUNDARIES},
    "blocks and a penalty": {**with_layers(BLOCKS), "sparsity": {"name": "iss", "strength": 1e-3}},
    "blocks without inputs and a penalty": {
        **LAYER_CASES["blocks without inputs"],
        "sparsity": {"name": "iss", "strength": 1e-3},
    },
    "blocks tied and a penalty": {
        **LAYER_CASES["blocks tied"],
        "sparsity": {"name": "iss", "strength": 1e-3},
    },
    "blocks tied and masks": {**LAYER_CASES["blocks tied"], "sparsity": {"name": "rigl", "density": 0.5}},
    "blocks and masks": {**with_layers(BLOCKS), "sparsity": {"name": "rigl", "density": 0.5}},
    "blocks without inputs and masks": {
        **LAYER_CASES["blocks without inputs"],
        "sparsity": {"name": "rigl", "density": 0.5},
    },
    "strips and averages": {
        "model": TIED | {"embedding": "block"},
        "optimizer": {"name": "nt_asgd", "lr": 0.1, "switch_epoch": 0},
    },
}
CASES = {**LAYER_CASES, **HEAD_CASES, **TASK_CASES, **TRAINING_CASES}

STRUCTURED = "cannot be told apart; only the map 'dense' has a row and a column for each"
REFUSED = {
    **{f"elman {name}": STRUCTURED for name in MAPS if name != "dense"},
    "mixture in parts": "no unit below it can be removed; use projection: always",
    "one expert, floor": "projection is 'never', but the last hidden size is 7 and not experts x embedding_size",
    "split of block, tied": "head 'split' is unknown; known: linear, mixture",
}
"""What is refused, by compaction or already when the run is made, and what is said."""

UNLIKE = ("sparsity ", "boundary ", *(name for name in CASES if name.endswith("and masks")))
"""Training goes on otherwise than in the wide model: masks are drawn anew, and synthesizers begin anew."""


class Stop(Reporter):
    """Stops a run after its second step."""

    def step(self, status):
        if status["step"] == 2:
            raise KeyboardInterrupt


def tiny(task, folder):
    """The task on the tiny data, four batches or more."""
    if task["name"] == "pixels":
        write_digits(folder)
        return {**task, "images": {"name": "digits", "path": str(folder)}, "batch_size": 8}
    small = tiny_task({"corpus": {}} | task if task["name"] == "recitation" else task, folder)
    if "window" in small:
        return {**small, "window": 2}
    return {**small, "iterations": 4} if "iterations" in small else {**small, "batch_size": 1}


def write_digits(folder):
    """Fifty pictures of noise."""
    rows = torch.randint(10, (50, 65), generator=torch.Generator().manual_seed(0)).tolist()
    (folder / "digits.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))


def recipe_of(case, folder):
    """The case on the tiny data, one epoch long."""
    task = case.get("task", LANGUAGE)
    settings = {
        "name": "tiny",
        "seed": 3,
        "epochs": 1,
        "clip": None,
        "log_every": 1,
        "checkpoint_seconds": 3600,
        "threads": 1,
        "optimizer": {"name": "sgd", "lr": 0.1},
        "sparsity": {"name": "dense"},
        "model": model_for(task["name"]),
    }
    return Recipe.from_settings({**settings, **case, "task": tiny(task, folder)})


def model_for(task):
    """A tiny model for a task's data."""
    known = {"tagging": "tagger", "question_answering": "bidaf"}
    reads_words = task in ("language_modelling", "recitation")
    return MODELS_OF[known.get(task, "language_model" if reads_words else "sequence_model")]


def bury(model):
    """Every fourth unit is dead; where there are blocks also the first quarter, which is a component or a window."""
    blocks = any(isinstance(module, BlockLSTM) for module in model.modules())
    for group in model.units():
        group.zero(torch.arange(1, group.width, 4))
        group.zero(torch.arange(group.width // 4 if blocks else 0))


def stopped(recipe, folder):
    """A run of two steps with dead units, its best weights those that it stopped with."""
    run = create(recipe, folder)
    bury(run.model)
    with pytest.raises(KeyboardInterrupt):
        train(run, Stop())
    bury(run.model)
    run.save()
    run.save_best(run.task.evaluate(run.model, "valid"))
    return run


def try_all(case, folder, home):
    """Compact the run of a case, open it, compare, train both to the end -> the step losses of both."""
    source = stopped(recipe_of(case, folder), home / "source")
    _, record = compact_run(source.home, home / "small", Settings(repeats=0))
    assert record["parameters"][1] < record["parameters"][0]
    runs = wide, small = open_run(source.home), open_run(home / "small")
    assert prove(wide.task, wide.model, small.model).holds
    scores = [run.task.evaluate(run.model, "valid")["loss"] for run in runs]
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)
    for run in runs:
        train(run)
    return [[e["loss"] for e in load_run(run.home).of("step")] for run in runs]


@pytest.mark.parametrize("name", CASES)
def test_it_is_compacted_exactly_and_goes_on_or_is_refused_in_a_sentence(name, data, tmp_path):  # noqa: F811
    if name in REFUSED:
        with pytest.raises(InputError) as error:
            try_all(CASES[name], data, tmp_path)
        assert REFUSED[name] in str(error.value)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "small").exists()
        return
    wide, small = try_all(CASES[name], data, tmp_path)
    assert len(small) == len(wide) > 2
    if not name.startswith(UNLIKE):
        assert small == pytest.approx(wide, rel=1e-4)
