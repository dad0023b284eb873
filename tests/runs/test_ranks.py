"""Two processes train the run of one: the same losses and masks, resumed to the bit, ended cleanly."""

import json

import pytest
import torch
from rank_pair import Pair
from test_resume import assert_same_run
from torch import distributed

from sparsernn.core.errors import InputError
from sparsernn.gradients.truncate import Truncate
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.checkpoint import load_checkpoint
from sparsernn.runs.loop import train
from sparsernn.runs.ranks import Alone, Ranks, buckets
from sparsernn.runs.recipe import Recipe
from sparsernn.runs.run import LAST
from sparsernn.tasks import Task

pytestmark = [
    pytest.mark.skipif(not distributed.is_available(), reason="torch was built without torch.distributed"),
]

PLAIN = {"name": "language_model", "embedding_size": 8, "hidden_sizes": [12, 10]}
DROPPED = {**PLAIN, "dropout": {"input": 0.2, "hidden": 0.2, "output": 0.2}}
SPARSE = {
    "name": "language_model",
    "embedding_size": 8,
    "hidden_sizes": [12, 16],
    "layer": {"name": "lstm", "product": "sparse"},
    "head": {"name": "linear", "product": "sparse"},
}
MEASURED = {
    **SPARSE,
    "layer": {"name": "lstm", "product": "auto"},
    "head": {"name": "linear", "product": "auto"},
}
SGD = {"name": "sgd", "lr": 1.0}
SELFISH = {"name": "selfish", "density": 0.4, "prune_rate": 0.5}
OFTEN = {"name": "rigl", "density": 0.4, "update": {"every": 3, "unit": "step"}}
SOON = {"every": 2, "unit": "step"}
MOST_PRESETS = {
    "set": {"update": SOON},
    "dsr": {"update": SOON},
    "static": {},
    "hyperpruning": {},
    "gradual": {"update": SOON},
    "one_shot": {},
    "rewind": {},
}
"""The others are tried with optimizers and settings of their own."""
FLAT = {"name": "synthetic_gradient", "synthesizer": {"name": "elementwise", "axis": "flat"}}
NARROW = {"name": "mlp", "hidden_sizes": [6]}
FAMILIES = {
    "dense": {"model": PLAIN, "optimizer": SGD},
    "selfish, snt_asgd": {
        "model": PLAIN,
        "optimizer": {"name": "snt_asgd", "lr": 5.0, "switch_epoch": 1},
        "sparsity": SELFISH,
    },
    "rigl": {"model": PLAIN, "optimizer": SGD, "sparsity": OFTEN},
    "rigl, sparse products": {"model": SPARSE, "optimizer": SGD, "sparsity": OFTEN},
    "snfs": {
        "model": PLAIN,
        "optimizer": {"name": "adam", "lr": 0.01},
        "sparsity": {"name": "snfs", "density": 0.4},
    },
    **{
        name: {"model": PLAIN, "optimizer": SGD, "sparsity": {"name": name, "density": 0.4, **more}}
        for name, more in MOST_PRESETS.items()
    },
    "iss": {
        "model": PLAIN,
        "optimizer": SGD,
        "sparsity": {"name": "iss", "strength": 0.01, "threshold": 0.01, "freeze_dead": True},
    },
    "orthogonal recurrence": {
        "task": {"name": "adding", "length": 8, "batch_size": 4, "iterations": 12, "eval_sequences": 8},
        "model": {
            "name": "sequence_model",
            "hidden_sizes": [8],
            "layer": {"name": "elman", "nonlinearity": "modrelu", "map": {"name": "orthogonal"}},
        },
        "optimizer": {"name": "adam", "lr": 0.01},
    },
    "streams that are not divided evenly": {
        "task": {"batch_size": 5, "alpha": 2.0, "beta": 1.0},
        "sparsity": {"name": "iss", "strength": 0.01, "threshold": 0.01, "freeze_dead": True},
    },
    "synthetic gradients": {
        "optimizer": {"name": "adam", "lr": 0.01},
        "boundary": {"name": "synthetic_gradient", "switch_epochs": [2], "synthesizer": NARROW},
    },
    "synthetic gradients, as published": {
        "task": {"batch_size": 3},
        "boundary": {
            "name": "synthetic_gradient",
            "faithful": True,
            "synthesizer": {"name": "elementwise", "cell": "gru", "hidden": 4, "axis": "time"},
        },
    },
    "synthetic gradients in a running unit": {
        "task": {"batch_size": 3},
        "boundary": {"name": "synthetic_gradient", "scale": "rms", "synthesizer": NARROW},
    },
    "tagging": {
        "task": {"name": "tagging", "corpus": {"name": "python-roles", "sentences": 60}, "batch_size": 7},
        "model": {"name": "tagger", "embedding_size": 6, "hidden_size": 5},
        "optimizer": {"name": "adam", "lr": 0.02},
        "sparsity": {"name": "selfish", "density": 0.4, "prune_rate": 0.5},
    },
    "forecast": {
        "task": {
            "name": "series",
            "corpus": {"name": "table", "target": "y", "group": "id", "columns": ["x", "y"]},
            "goal": "forecast",
            "batch_size": 7,
        },
        "model": {"name": "sequence_model", "hidden_sizes": [6]},
        "optimizer": {"name": "adam", "lr": 0.01},
    },
    "question answering": {
        "task": {
            "name": "question_answering",
            "corpus": {"name": "python-questions", "paragraphs": 30},
            "limits": {"context": 60, "question": 12, "letters": 5},
            "batch_size": 37,
        },
        "model": {
            "name": "bidaf",
            "word_size": 6,
            "hidden_size": 4,
            "character_cnn": {"embedding_size": 3, "filters": 4, "width": 3},
        },
        "optimizer": {"name": "adam", "lr": 0.01},
    },
    "task without a state": {
        "task": {"name": "adding", "length": 8, "batch_size": 4, "iterations": 12, "eval_sequences": 8},
        "model": {"name": "sequence_model", "hidden_sizes": [8]},
        "optimizer": {"name": "adam", "lr": 0.01},
    },
}


def write_table(file):
    """Series of different lengths, so that parts of a batch have different numbers of targets."""
    rows = [f"g{k},{(k * t) % 5},{(k + t * t) % 7}" for k in range(24) for t in range(4 + k % 6)]
    file.write_text("\n".join(["id,x,y", *rows]) + "\n")
    return str(file)


@pytest.fixture(scope="module")
def settings(tiny_corpus, tmp_path_factory):
    """A function of changes -> the settings of a tiny recipe; those of a task without a name are changes of its."""
    rows = write_table(tmp_path_factory.mktemp("table") / "rows.csv")

    def build(task=None, **changes):
        task = task or {}
        if task.get("name") == "series":
            task = {**task, "corpus": {**task["corpus"], "path": rows}}
        return {
            "name": "together",
            "seed": 3,
            "epochs": 2,
            "clip": 0.25,
            "log_every": 1,
            "checkpoint_seconds": 1000,
            "threads": 1,
            "task": task
            if "name" in task
            else {
                "name": "language_modelling",
                "corpus": {"name": "folder", "path": str(tiny_corpus)},
                "batch_size": 4,
                "eval_batch_size": 2,
                "window": 30,
                **task,
            },
            "model": PLAIN,
            "optimizer": SGD,
            **changes,
        }

    return build


@pytest.fixture(scope="module")
def dropped(settings):
    """Settings with dropouts, random windows and averages: what makes two ranks' states differ, and a long memory."""
    optimizer = {"name": "snt_asgd", "lr": 5.0, "switch_epoch": 1}
    return settings(model=DROPPED, task={"random_windows": True}, optimizer=optimizer, sparsity=SELFISH)


@pytest.fixture(scope="module")
def first(settings, dropped, tmp_path_factory):
    """Everything that two processes can do in one life; the last job is the death of one."""
    place = tmp_path_factory.mktemp("ranks")
    stop = {"do": "stop", "at": 5}
    spoiled, measured = settings(sparsity=OFTEN), settings(model=MEASURED, sparsity=OFTEN)
    jobs = [
        *({"folder": str(place / name), "recipe": settings(**changes)} for name, changes in FAMILIES.items()),
        *(
            {"folder": str(place / f"measured {rank}"), "recipe": measured, "measured": rank}
            for rank in range(2)
        ),
        {"folder": str(place / "whole"), "recipe": dropped},
        {"folder": str(place / "stopped"), "recipe": dropped, **stop},
        {"folder": str(place / "evaluating"), "recipe": dropped, **stop, "at": 7, "evaluation": True},
        {"folder": str(place / "spoiled"), "recipe": spoiled, "masks": True},
        {"folder": str(place / "odd"), "recipe": settings(task={"batch_size": 1})},
        {"folder": str(place / "flat"), "recipe": settings(boundary=FLAT)},
        {
            "folder": str(place / "killed"),
            "recipe": dropped,
            "do": "vanish",
            "at": 11,
        },
    ]
    return Pair(place, jobs)


@pytest.fixture(scope="module")
def second(first):
    """Two new processes that go on with what was stopped."""
    names = ("stopped", "evaluating", "killed")
    before = {
        name: [first.became(name, rank) for rank in range(2 if name != "killed" else 1)] for name in names
    }
    pair = Pair(first.place, [{"folder": str(first.place / name)} for name in names])
    pair.before = before
    return pair


@pytest.fixture
def in_float64():
    """What the workers compute in."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def figures(folder, event, *path):
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    found = [record for record in records if record["event"] == event]
    for key in path:
        found = [record[key] for record in found]
    return found


def synthetic(folder):
    """What is said of the synthesizer, step by step."""
    return [{k: v for k, v in step.items() if k.startswith("sg_")} for step in figures(folder, "step")]


@pytest.mark.parametrize("name", FAMILIES)
def test_two_ranks_train_the_run_of_one(name, first, settings, tmp_path, in_float64):
    train(create(Recipe.from_settings(settings(**FAMILIES[name])), tmp_path / "one"))
    one, two = tmp_path / "one", first.place / name
    for path in (
        ("step", "loss"),
        ("step", "grad_norm"),
        ("epoch", "train_loss"),
        ("epoch", "valid", "loss"),
    ):
        alone, together = figures(one, *path), figures(two, *path)
        assert len(alone) >= 2
        assert together == pytest.approx(alone, rel=1e-9), path
    for alone, together in zip(synthetic(one), synthetic(two), strict=True):
        assert together == pytest.approx(alone, rel=1e-7)
        assert name.startswith("synthetic") or not alone
    mine, theirs = (load_checkpoint(folder / LAST) for folder in (one, two))
    masks = mine["sparsifier"].get("masks", {})
    moves = name.split(",")[0] in ("selfish", "rigl", "snfs", "tagging", *MOST_PRESETS)
    assert bool(masks) is moves
    for key, mask in masks.items():
        assert torch.equal(mask, theirs["sparsifier"]["masks"][key]), key
    for key, weight in mine["model"].items():
        assert torch.allclose(weight, theirs["model"][key], rtol=1e-7, atol=1e-9), key
    assert [event["tensors"].keys() for event in figures(two, "rewire")] == [
        event["tensors"].keys() for event in figures(one, "rewire")
    ]


@pytest.mark.parametrize("name", [*FAMILIES, "whole"])
def test_both_ranks_come_to_the_same(name, first):
    one, other = (first.became(name, rank) for rank in range(2))
    assert one["scores"] == other["scores"]
    assert one["masks"] == other["masks"]


@pytest.mark.parametrize("rank", range(2))
def test_what_multiplies_faster_is_found_out_once_for_all(rank, first):
    """Of two processes that would choose otherwise; whichever is heard, weights have one shape and the run is one."""
    one, other = (first.became(f"measured {rank}", of) for of in range(2))
    assert "error" not in one
    assert len(one["products"]) == 3
    assert one["products"] == other["products"]
    assert one["masks"] == other["masks"]
    told = [
        figures(first.place / name, "step", "loss") for name in (f"measured {rank}", "rigl, sparse products")
    ]
    assert told[0] == pytest.approx(told[1], rel=1e-9)


def test_ranks_draw_other_dropouts(first):
    assert first.became("whole", 0)["drawn"] != first.became("whole", 1)["drawn"]
    assert [record["processes"] for record in figures(first.place / "whole", "start")] == [2]


@pytest.mark.parametrize("name", ["stopped", "evaluating", "killed"])
def test_a_resumed_run_is_the_undisturbed_one_to_the_bit(name, first, second):
    assert_same_run(second.place / name, first.place / "whole")
    for rank in range(2):
        assert second.became(name, rank) == first.became("whole", rank)


def test_a_signal_to_one_rank_stops_all_at_the_same_step(second):
    assert second.before["stopped"] == [{"stopped": 5}] * 2
    told = second.before["evaluating"]
    assert told[0] == told[1]
    assert told[0]["stopped"] >= 7


def test_the_death_of_one_rank_ends_the_other_in_a_sentence(first, second):
    assert first.codes == [2, 9], first.complaints
    told = second.before["killed"][0]
    assert told["kind"] == "Lost"
    assert "another process of this run has ended" in told["error"]


def test_other_masks_end_the_run(first):
    for rank in range(2):
        assert "process 1 has other masks than process 0" in first.became("spoiled", rank)["error"]
    assert len(figures(first.place / "spoiled", "rewire")) == 1


def test_what_cannot_be_divided_is_refused(first):
    for rank in range(2):
        assert "batch_size is 1, which 2 processes cannot share" in first.became("odd", rank)["error"]
        assert "one row of all sequences, which 2 processes cannot" in first.became("flat", rank)["error"]


def test_another_number_of_processes_is_refused(second, in_float64):
    run = open_run(second.place / "whole")
    with pytest.raises(InputError, match=r"by 2 processes so far and 1 would go on.*nproc-per-node"):
        train(run)
    with pytest.raises(InputError, match="by 1 process so far and 2 would"):
        Ranks(1, 2).own([], step=1)
    assert Ranks(1, 2).own([], step=0) is None


def test_tasks_that_say_nothing_of_parts_are_refused(monkeypatch):
    monkeypatch.setattr(Task, "__abstractmethods__", frozenset())
    with pytest.raises(
        InputError, match="4 processes were started, and this task does not say how its batches are divided"
    ):
        Task().check_parts(4)


def test_a_program_that_knows_of_one_process_is_refused_in_several(settings, tmp_path, monkeypatch):
    run = create(Recipe.from_settings(settings()), tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(
        InputError, match=r"2 processes were started .* 'sparsernn train', 'resume' and 'finetune'"
    ):
        train(run)


def test_every_process_has_an_accelerator_of_its_own(monkeypatch):
    """Where the default one is this process's, no other may be asked for; the CPU is everybody's."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(Task, "__abstractmethods__", frozenset())
    monkeypatch.setattr(Task, "check_parts", lambda self, count: None)
    for device in ("cpu", "cuda:1"):
        Ranks(1, 2).check(Task(), Truncate(), torch.device(device))
    with pytest.raises(InputError, match="the device is 'cuda:0' and every process has one of its own"):
        Ranks(1, 2).check(Task(), Truncate(), torch.device("cuda:0"))


def test_no_tensor_is_left_out_of_the_buckets_and_kinds_are_apart():
    tensors = [torch.zeros(k + 1, dtype=(torch.float32, torch.float64)[k % 2]) for k in range(9)]
    found = list(buckets(tensors, size=40))
    assert sorted(id(t) for bucket in found for t in bucket) == sorted(map(id, tensors))
    assert all(len({t.dtype for t in bucket}) == 1 for bucket in found)
    assert all(len(bucket) == 1 or sum(t.nbytes for t in bucket) <= 40 for bucket in found)
    Alone().sum(tensors)
    assert not any(tensor.any() for tensor in tensors)
