"""Finetuning: a new run that starts from another one's best weights and averages from its first step.

Source: S. Merity, N. S. Keskar and R. Socher, "Regularizing and Optimizing LSTM Language Models", 2017,
arXiv:1708.02182, section 4: averaging from the start, and the end when validation is worse than the best of
all but the last `nonmono` epochs.
Differs from the original: masks stay as they are, for a restarted prune rate would tear down what was learnt.
"""

from collections.abc import Sequence
from pathlib import Path

from sparsernn.assemble import create, data_of, open_run
from sparsernn.errors import InputError
from sparsernn.recipe import load_recipe
from sparsernn.results import take_best
from sparsernn.training.run import Run, load_weights, weights

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
    data, vocabulary = data_dir or data_of(source), original.task.corpus.vocabulary
    return create(recipe, folder, data, vocabulary, begin=lambda run: _take_over(original, run))


def _take_over(original: Run, run: Run) -> None:
    """The best weights and masks of `original` become the beginning of `run`."""
    load_weights(run.model, weights(original.model), original.home)
    masks, own = original.sparsifier.masks(), run.sparsifier.masks()
    if masks.keys() != own.keys():
        raise InputError(
            f"the masks of {original.home} cover {len(masks)} tensors and those of the new run {len(own)}; "
            "finetuning keeps the masks, so leave sparsity as it is."
        )
    for name, mask in own.items():
        mask.copy_(masks[name])
    run.sparsifier.finalize()
