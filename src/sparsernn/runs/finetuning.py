"""Finetuning: a new run that starts from another one's best weights and averages from its first step.

The weights that it starts from are its first best ones: an epoch has to beat their validation loss, and where none
does, they stay. A finetuned run can be finetuned again.

Source: S. Merity, N. S. Keskar and R. Socher, "Regularizing and Optimizing LSTM Language Models", 2017,
arXiv:1708.02182, section 4: averaging from the start, and the end when validation is worse than the best of
all but the last `nonmono` epochs.
Differs from the original: masks stay as they are, for a restarted prune rate would tear down what was learnt.

A run that a penalty made sparse (W. Wen et al., 2018, arXiv:1709.05027) goes on without the penalty, its zeros fixed,
and with the optimizer that it has; so does one that is finetuned with another `sparsity`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.runs.artifacts import take_best
from sparsernn.runs.assembly import create, data_of, open_run
from sparsernn.runs.checkpoint import save_checkpoint
from sparsernn.runs.event_log import EventLog
from sparsernn.runs.recipe import Recipe, load_recipe
from sparsernn.runs.run import BEST, Run, load_weights, weights

AVERAGING = {"optimizer.switch_epoch": "0", "optimizer.stop_when_worse": "true"}
FIXED_MASKS = ("sparsity.name=static", "sparsity.update={every: 0}")
FIXED_ZEROS = ("sparsity=frozen",)
BEFORE_THE_FIRST = -1
"""`position.epoch` of a best checkpoint counts from the epoch that made it; no epoch made the first one."""


def start(
    source: Path,
    folder: Path,
    changes: Sequence[str] = (),
    data_dir: Path | None = None,
    tick: Callable[[float], None] = lambda fraction: None,
) -> Run:
    """A run in a new folder with the best weights and masks of `source`, before its first step.

    Its `position.best` is the validation criterion of those weights, and they are its best checkpoint.

    Args:
        source: the folder of the run to start from.
        folder: the folder of the new run.
        changes: settings to change, `key=value`; they win over those of finetuning.
        data_dir: where the data lie; None leaves them where they were.
        tick: told the fraction done of the validation of the weights to start from.

    Raises:
        InputError: `source` is no run or has no best weights yet, or its optimizer does not average.
    """
    original = open_run(source, data_dir, "cpu")  # its weights and masks are all that is asked of it
    best = take_best(original)
    recipe = _recipe(original, source, changes)

    def begin(run: Run) -> None:
        _take_over(original, run)
        first_best(run, folder, best, tick)

    return create(recipe, folder, data_dir or data_of(source), dict(original.task.vocabularies), begin)


def next_name(name: str) -> str:
    """What a run is called after one more finetuning.

    >>> next_name("small"), next_name("small-finetuned"), next_name("small-finetuned2")
    ('small-finetuned', 'small-finetuned2', 'small-finetuned3')
    """
    found = re.fullmatch(r"(.*-finetuned)(\d*)", name)
    return f"{found[1]}{int(found[2] or 1) + 1}" if found else f"{name}-finetuned"


def _recipe(original: Run, source: Path, changes: Sequence[str]) -> Recipe:
    """The recipe of `source` with the settings of finetuning where `changes` do not say otherwise."""
    given = {change.partition("=")[0].strip() for change in changes}
    averages, by_zeros = original.optimizer.finetunes, original.sparsifier.in_zeros
    fixed = FIXED_ZEROS if by_zeros else FIXED_MASKS if original.sparsifier.masks() else ()
    plain = by_zeros or "sparsity" in given  # no finetuning by averages
    # After the changes: one of them may put another optimizer in place of the whole old one.
    wanted = averages or not plain or "optimizer" in given
    averaging = [f"{key}={value}" for key, value in AVERAGING.items() if wanted and key not in given]
    name = f"name={next_name(original.recipe.name)}"
    recipe = load_recipe(source / "recipe.yaml", [name, *fixed, *changes, *averaging])
    kept = recipe.optimizer["name"] == original.recipe.optimizer["name"]
    if kept and not averages and not plain:
        raise InputError(
            f"finetuning averages the weights from its first step, and the optimizer '{recipe.optimizer['name']}' "
            "keeps no averages; name one that does, such as optimizer=nt_asgd optimizer.lr=5."
        )
    return recipe


def _take_over(original: Run, run: Run) -> None:
    """The best weights and masks of `original` become the beginning of `run`."""
    load_weights(run.model, weights(original.model), original.home)
    if not (original.sparsifier.in_zeros and run.sparsifier.in_zeros):
        _copy_masks(original, run)
    run.sparsifier.finalize()


def _copy_masks(original: Run, run: Run) -> None:
    masks, own = original.sparsifier.masks(), run.sparsifier.masks()
    if masks.keys() != own.keys():
        raise InputError(
            f"the masks of {original.home} cover {len(masks)} tensors and those of the new run {len(own)}; "
            "finetuning keeps the masks, so leave sparsity as it is."
        )
    for name, mask in own.items():
        mask.copy_(masks[name])


def first_best(
    run: Run, folder: Path, best: Mapping[str, Json], tick: Callable[[float], None]
) -> dict[str, float]:
    """Score the weights to start from and write them as the best so far; `best`: what was known about them.

    The score is the run's first record, "before": epoch 0 of its curves, and what its epochs have to beat.
    """
    scores = run.task.evaluate(run.model, "valid", tick=tick)
    run.position.best = run.task.criterion(scores)
    tree = {
        **best,
        "recipe": run.recipe.name,
        "model": weights(run.model),
        "sparsifier": {"masks": run.sparsifier.masks()},
        "valid": dict(scores),
        "position": asdict(replace(run.position, epoch=BEFORE_THE_FIRST)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder / BEST, tree)
    record = {"event": "before", "epoch": 0, "step": 0, "valid": dict(scores)}
    EventLog(folder / "metrics.jsonl").append({**record, "averaged": best["averaged"], "best": True})
    return dict(scores)
