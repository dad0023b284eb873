"""Checkpoints with a good checksum and wrong parts: one sentence from every command, nothing half taken."""

import shutil

import pytest
import torch
from typer.testing import CliRunner

from sparsernn.cli.app import app
from sparsernn.runs.checkpoint import load_checkpoint, save_checkpoint

COMMANDS = {
    "last": (["evaluate"], ["generate"], ["bench", "--repeats", "1"], ["pack"], ["resume"]),
    "best": (["evaluate"], ["generate"], ["pack"], ["compact", "--repeats", "0"], ["compare", "--topology"]),
}


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="sparsernn")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_corpus):
    folder = tmp_path_factory.mktemp("runs") / "run"
    small = ("epochs=1", "model.embedding_size=8", "model.hidden_sizes=[8]", "threads=1")
    small += (
        f"task.corpus={{name: folder, path: {tiny_corpus}}}",
        "task.batch_size=4",
        "optimizer={name: adam, lr: 0.01}",
    )
    done = invoke("train", "demo/selfish", *small, "--out", folder)
    assert done.exit_code == 0, done.output
    log = folder / "metrics.jsonl"
    log.write_text("".join(x for x in log.open() if '"complete"' not in x))
    return folder


def leaf(tree, path):
    for key in path[:-1]:
        tree = tree[key]
    return tree, path[-1]


WEIGHT = ("model", "layers.0.weight_hh")
MASK = ("sparsifier", "masks", "layers.0.weight_hh")
SPOILS = {
    "missing": lambda old: None,
    "text": lambda old: "text",
    "number": lambda old: 3,
    "list": lambda old: [old],
    "one row": lambda old: old[:1].clone(),
    "int8": lambda old: old.to(torch.int8),
    "float64": lambda old: old.double(),
    "NaN": lambda old: (
        torch.full_like(old, float("nan")) if old.is_floating_point() else old.double() * float("nan")
    ),
}


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("part", [WEIGHT, MASK])
@pytest.mark.parametrize("which", ["last", "best"])
def test_a_wrong_tensor(trained, tmp_path, which, part, spoil):
    def change(tree):
        holder, key = leaf(tree, part)
        holder[key] = SPOILS[spoil](holder[key])
        if holder[key] is None:
            del holder[key]

    check(trained, tmp_path, which, change)


KEYS = [
    "model",
    "sparsifier",
    "position",
    "optimizer",
    "boundary",
    "generators",
    "history",
    "valid",
    "averaged",
]


@pytest.mark.parametrize("value", ["missing", "text", None, [], 7])
@pytest.mark.parametrize("key", KEYS)
def test_a_wrong_part(trained, tmp_path, key, value):
    for which in ("last", "best"):
        tree = load_checkpoint(trained / f"{which}.safetensors")
        if key in tree:
            check(
                trained,
                tmp_path / which,
                which,
                lambda t: t.pop(key) if value == "missing" else t.update({key: value}),
            )


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (("optimizer", "state"), {}),
        (("optimizer", "state", 0, "exp_avg"), torch.zeros(1, 8)),
        (("optimizer", "state", 0, "exp_avg"), torch.tensor(float("nan"))),
        (("optimizer", "param_groups"), []),
        (("position", "epoch"), "one"),
        (("position", "step"), -4),
        (("position", "step"), 1.5),
        (("position", "surprise"), 1),
        (("generators", "torch"), torch.zeros(3)),
        (("history", "metrics_bytes"), "many"),
        (("carried",), torch.tensor(float("inf"))),
    ],
)
def test_a_wrong_state(trained, tmp_path, part, value):
    tree = load_checkpoint(trained / "last.safetensors")
    holder, key = leaf(tree, part)
    if isinstance(holder, dict) and key not in holder and "optimizer" in part:
        pytest.skip("this state is empty")

    def change(tree):
        holder, key = leaf(tree, part)
        holder[key] = value

    check(trained, tmp_path, "last", change, allowed=part == ("optimizer", "state"))


@pytest.mark.parametrize(("source", "target"), [("last", "best"), ("best", "last")])
def test_one_copied_over_the_other(trained, tmp_path, source, target):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.copy(folder / f"{source}.safetensors", folder / f"{target}.safetensors")
    refused(folder, target)


def check(trained, tmp_path, which, change, allowed=False):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    file = folder / f"{which}.safetensors"
    tree = load_checkpoint(file)
    change(tree)
    save_checkpoint(file, tree)
    if not allowed:
        refused(folder, which)


def refused(folder, which):
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    for words in COMMANDS[which]:
        if words == ["resume"] and '"test"' in (folder / "metrics.jsonl").read_text():
            continue  # it is complete, and says so
        done = invoke(
            words[0], folder, *words[1:], *(["--out", folder.parent / "out"] if words[0] == "compact" else [])
        )
        assert done.exit_code == 2, (words, done.output, done.exception)
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert f"{which}.safetensors" in done.stderr
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
