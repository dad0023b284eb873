"""Every shipped recipe on a pretended accelerator, from assembling to resuming, with the real training loop."""

from dataclasses import replace

import pytest
from pretended_cuda import pretended

from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.loop import train
from sparsernn.runs.recipe import list_recipes, load_recipe
from test_recipes_train import data, tiny_model, tiny_task, trainable  # noqa: F401 - a fixture

SETTINGS = ["epochs=2", "log_every=1", "threads=1", "checkpoint_seconds=0", "device=cuda"]

FETCHED = {}


def tiny(name, folder, *overrides):
    """A recipe in small, as `test_recipes_train` has it, for the device."""
    recipe = load_recipe(name, [*SETTINGS, *overrides])
    settings = {"task": tiny_task(recipe.task, folder), "model": tiny_model(recipe.model)}
    if "block" in recipe.sparsity:
        settings["sparsity"] = {**recipe.sparsity, "block_fallback": True}
    if recipe.boundary.get("synthesizer_from"):
        settings["boundary"] = {k: v for k, v in recipe.boundary.items() if k != "synthesizer_from"}
    return replace(recipe, **settings)


@pytest.mark.parametrize("name", [name for name in list_recipes() if trainable(name)])
def test_it_runs_on_the_device_alone(name, data, tmp_path):  # noqa: F811
    recipe = tiny(name, data)
    with pretended() as device:
        run = create(recipe, tmp_path / "run")
        scores = train(run)
        assert run.position.step >= 2
        assert scores["loss"] > 0
        again = open_run(tmp_path / "run")
        assert again.position == run.position
        print(device.fetched, device.waits)
