"""Finetuning: a new run that starts from another one's best weights and averages from its first step.

Source: S. Merity, N. S. Keskar and R. Socher, "Regularizing and Optimizing LSTM Language Models", 2017,
arXiv:1708.02182, section 4: averaging from the start, and the end when validation is worse than the best of
all but the last `nonmono` epochs.
Differs from the original: masks stay as they are, for a restarted prune rate would tear down what was learnt.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from sparsernn.assemble import ENVIRONMENT, create, open_run
from sparsernn.recipe import load_recipe
from sparsernn.results import take_best
from sparsernn.training.run import Run

AVERAGING = ("optimizer.switch_epoch=0", "optimizer.stop_when_worse=true")
FIXED_MASKS = ("sparsity.name=static", "sparsity.update={every: 0}")


def start(source: Path, folder: Path, changes: Sequence[str] = (), data_dir: Path | None = None) -> Run:
    """A run in a new folder with the best weights and masks of `source`, before its first step.

    Args:
        source: the folder of the run to start from.
        folder: the folder of the new run.
        changes: settings to change, `key=value`; they win over those of finetuning.
        data_dir: where the corpus lies; None leaves it where it was.

    Raises:
        InputError: `source` is no run or has no best weights yet, or its optimizer does not average.
    """
    original = open_run(source, data_dir)
    take_best(original)
    settings = [f"name={original.recipe.name}-finetuned", *AVERAGING]
    if original.sparsifier.masks():
        settings += FIXED_MASKS
    recipe = load_recipe(source / "recipe.yaml", [*settings, *changes])
    run = create(recipe, folder, data_dir or _data_of(source))
    run.model.load_state_dict(original.model.state_dict())
    masks = original.sparsifier.masks()
    for name, mask in run.sparsifier.masks().items():
        mask.copy_(masks[name])
    run.sparsifier.finalize()
    run.save()
    return run


def _data_of(folder: Path) -> Path | None:
    """The data folder that the run in `folder` was given."""
    given = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8")).get("data_dir")
    return Path(given) if given else None
