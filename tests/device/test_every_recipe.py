"""Every shipped recipe on a pretended accelerator, from assembling to resuming, with the real training loop."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from pretended_cuda import is_here, pretended

from sparsernn.core.states import tensors
from sparsernn.data.digit_images import IMAGES, Images
from sparsernn.runs.assembly import assemble, create, open_run
from sparsernn.runs.loop import train
from sparsernn.runs.recipe import list_recipes, load_recipe
from test_recipes_train import data, tiny_model, tiny_task  # noqa: F401 - a fixture

SETTINGS = ["epochs=2", "log_every=1000", "threads=1", "checkpoint_seconds=1000000", "device=cuda"]

FETCHED = {
    "runs/checkpoint.py": "checkpoints are files",
    "runs/ledger.py": "losses and gradient norms of the steps since they were last read",
    "runs/plan.py": "how many weights there are, told before the first step",
    "tasks/": "scores of a split, and records for the report",
    "sparsity/dynamic/": "a mask update chooses on the CPU, so that it chooses the same on every device",
    "sparsity/optimizer_state.py": "whether a mask update grew weights, whose averages then begin anew",
    "sparsity/penalties/group_lasso.py": "which units are dead, for the record of an epoch",
    "sparsity/penalties/group_norms.py": "which weights belong to a group already, before the first step",
    "sparsity/sparsifier.py": "how many zeros there are, for the record of an epoch",
    "gradients/gradient_share.py": "a figure of a step's record",
    "gradients/quality.py": "figures of a step's record",
    "gradients/synthetic_gradients.py": "the size of a gradient, where estimates are in units of it",
    "nn/maps/exponential.py": "how often a matrix is squared follows from its norm",
    "nn/words/split_softmax.py": "how many words are in each class, which decides how large products are",
    "nn/maps/map_contract.py": "how far a map is from orthogonal, for the record of an epoch",
    "nn/maps/map_records.py": "what a map looks like, for the report",
    "nn/maps/spectra.py": "what a map looks like, for the report",
}
"""Parts of the library in which numbers come back to the CPU, and why they must."""

WAITED_FOR = {
    "runs/ledger.py": "the figures of a step, here where an epoch ends",
    "sparsity/dynamic/": "a mask update that is due",
    "sparsity/optimizer_state.py": "the same",
    "gradients/synthetic_gradients.py": "the unit of estimates that are measured in gradients",
    "nn/maps/exponential.py": "the norm of the matrix, once for each map",
    "nn/words/split_softmax.py": "how many words are in each class",
}
"""What a training step waits for at most, besides nothing, and why it must."""

NOT_ALWAYS = ("runs/ledger.py", "sparsity/")
"""Of these, what comes at the end of an epoch and at mask updates; of the others a step waits for one."""


def setup_of(name):
    """What makes a recipe's run another one than that of most others: parts by name, and their settings but sizes."""
    recipe = load_recipe(name)
    model = {key: recipe.model.get(key) for key in ("name", "layer", "head", "embedding")}
    sparsity = {key: value for key, value in recipe.sparsity.items() if key != "density"}
    parts = [model, recipe.optimizer["name"], sparsity, recipe.boundary, recipe.task["name"]]
    return json.dumps(parts, sort_keys=True)


def distinct():
    """One recipe of each set-up."""
    return sorted({setup_of(name): name for name in list_recipes()[::-1]}.values())


def parts_of(name):
    """The members of registries, and the settings of the sparsifier and the boundary, that a recipe puts together."""
    recipe = load_recipe(name)
    found = {
        f"task {recipe.task['name']}",
        f"model {recipe.model['name']}",
        f"optimizer {recipe.optimizer['name']}",
    }
    for kind in ("layer", "head", "embedding"):
        specs = recipe.model.get(kind)
        for spec in specs if isinstance(specs, list) else [specs]:
            settings = spec if isinstance(spec, dict) else {"name": spec}
            found |= {f"{kind} {settings['name']} {key}" for key in settings} | {
                f"{kind} {settings.get('map')}"
            }
    for kind, spec in (("sparsity", recipe.sparsity), ("boundary", recipe.boundary)):
        found |= {f"{kind} {spec['name']} {key}" for key in spec}
    return found


def shared_out():
    """All distinct set-ups; those that bring nothing which an earlier one has not are slow tests."""
    seen = set()
    for name in distinct():
        parts = parts_of(name)
        yield pytest.param(name, marks=[] if parts - seen else [pytest.mark.slow])
        seen |= parts


def tiny(name, folder, *overrides):
    """A recipe in small, as `test_recipes_train` has it, for the device."""
    recipe = load_recipe(name, [*SETTINGS, *overrides])
    task = tiny_task(recipe.task, folder)
    if task["name"] == "pixels":
        task = {**recipe.task, "images": "digits", "batch_size": 5, "eval_batch_size": 3}
    settings = {"task": task, "model": tiny_model(recipe.model)}
    if "block" in recipe.sparsity:
        settings["sparsity"] = {**recipe.sparsity, "block_fallback": True}
    if recipe.boundary.get("synthesizer_from"):
        settings["boundary"] = {k: v for k, v in recipe.boundary.items() if k != "synthesizer_from"}
    return replace(recipe, **settings)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    """Ten of nine pixels, in place of those that a package brings."""

    def pictures(data_dir=None):
        random = torch.Generator().manual_seed(0)
        pixels = {split: torch.randint(17, (n, 9), generator=random).byte() for split, n in PICTURES.items()}
        labels = {split: torch.arange(n) % 10 for split, n in PICTURES.items()}
        return Images(pixels, labels, 16, {"name": "digits", "sha256": dict.fromkeys(PICTURES, "0" * 64)})

    monkeypatch.setitem(IMAGES, "digits", pictures)


PICTURES = {"train": 10, "valid": 4, "test": 4}


def left_behind(tree, path="") -> Iterator[str]:
    """Where in a state there are tensors of more than one number that are not on the device."""
    if isinstance(tree, torch.Tensor):
        if tree.dim() and not is_here(tree):
            yield path
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from left_behind(value, f"{path}/{key}")
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from left_behind(value, f"{path}/{number}")
    elif is_dataclass(tree):
        yield from left_behind({f.name: getattr(tree, f.name) for f in fields(tree)}, path)


GENERATORS = ("/sparsifier/generator", "/boundary/dice", "/boundary/before/1")
"""Of a run's state, what is the CPU's: the states of generators."""


def check_places(run):
    """Everything that a run computes with is on the device."""
    state = {key: value for key, value in run.state().items() if key not in ("generators", "position")}
    assert [place for place in left_behind(state) if not place.startswith(GENERATORS)] == []
    assert all(is_here(p) for p in run.boundary.parameters().values())
    assert all(is_here(mask) for mask in run.sparsifier.masks().values())
    assert all(is_here(t) for t in tensors(run.model.initial_state(2)))


def watched(run, device, seen):
    """Let a run's task note what the CPU waits for between two batches, which is what one step waits for."""
    own = run.task.batches

    def batches(*args):
        for number, batch in enumerate(own(*args)):
            if number > 1:  # the loop is one batch ahead
                seen.append(dict(device.waits))
            device.waits.clear()
            yield batch
        seen.append(dict(device.waits))

    run.task.batches = batches


@pytest.mark.parametrize("name", list(shared_out()))
def test_it_runs_on_the_device_alone(name, data, tmp_path):  # noqa: F811
    recipe = tiny(name, data)
    masks = assemble(recipe, device="cpu").sparsifier.masks()
    with pretended() as device:
        run = create(recipe, tmp_path / "run")
        check_places(run)
        first = run.sparsifier.masks()
        assert all(torch.equal(first[name].cpu(), mask) for name, mask in masks.items())

        steps = []
        watched(run, device, steps)
        run.recipe = replace(recipe, epochs=1)
        assert train(run)["loss"] > 0
        check_places(run)
        if hasattr(run.sparsifier, "update"):
            run.sparsifier.update()
            check_places(run)

        again = open_run(tmp_path / "run")
        assert again.position == run.position
        check_places(again)
        watched(again, device, steps)
        train(again)
        assert again.position.step >= 2
        fetched = set(device.fetched)
        check_places(again)
        assert [place for place in fetched if place and not place.startswith(tuple(FETCHED))] == []
        assert device.scattered == []
        assert steps
        often = [
            [p for (_, p), n in step.items() for _ in range(n) if p and not p.startswith(NOT_ALWAYS)]
            for step in steps
        ]
        assert [places for places in often if len(places) > 1] == []
        waits = {place for step in steps for _, place in step}
        assert [place for place in waits if place and not place.startswith(tuple(WAITED_FOR))] == []
