"""A trained run pruned: a new run folder whose best weights are the pruned ones, with masks that stay.

It begins where finetuning begins: no step done, its first best weights those that it starts from. So it is evaluated,
packed and finetuned like any other sparse run, and `resume` trains it with the settings of the original.
"""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from sparsernn.core.checks import check_value
from sparsernn.core.devices import moved
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Size
from sparsernn.core.plain import Json
from sparsernn.runs.artifacts import take_best
from sparsernn.runs.assembly import check_free, create, data_of, open_run
from sparsernn.runs.event_log import EventLog
from sparsernn.runs.finetuning import first_best
from sparsernn.runs.recipe import Recipe
from sparsernn.runs.run import Run, load_weights, weights
from sparsernn.sparsity.trained.trained_pruning import Pruned, PruneSettings, prune_by_work

BATCHES = 16
"""Training batches to look at unless said otherwise."""
OF_THE_ORIGINAL = ("command", "published", "obtained")
Tick = Callable[[str, float], None]
"""Told what is being done, and the fraction done."""


def prune_run(
    source: Path,
    folder: Path,
    settings: PruneSettings,
    *,
    batches: int = BATCHES,
    data_dir: Path | None = None,
    device: str | None = None,
    tick: Tick = lambda what, fraction: None,
) -> tuple[Run, dict[str, Json]]:
    """Write a pruned run beside `source`.

    Args:
        source: the folder of a run with a best checkpoint.
        folder: of the new run.
        settings: what is pruned, how much and how.
        batches: training batches to look at, at least 1; the first ones of the first epoch, in evaluation mode.
        data_dir: where the data lie; None: where they lay.
        device: where the model works meanwhile; the CPU if not given.
        tick: told "valid" or "prune", and the fraction done.

    Returns:
        The new run, before its first step, and its record "prune": method, density, `scores` of the validation split
        [before, after], metric, seconds, batches, and `tensors` [{name, shape, active, method, why, error}].

    Raises:
        InputError: no run, no best weights, no data, or what `sparsity.trained.trained_pruning.prune` refuses.
    """
    check_value("batches", batches, Size)
    if source.is_file():
        raise InputError(f"{source} is a file; give the folder of the run that it was made of.")
    check_free(folder)
    original = open_run(source, data_dir, device or "cpu")
    best = take_best(original)
    before = original.task.evaluate(original.model, "valid", tick=lambda done: tick("valid", done))
    pruned = prune_by_work(
        original.model, settings, lambda: _read(original, batches), lambda done: tick("prune", done)
    )
    original.task.load_state_dict({})  # what was added up is of no epoch
    record: dict[str, Json] = {}

    def begin(run: Run) -> None:
        load_weights(run.model, weights(original.model), source)
        for name, mask in run.sparsifier.masks().items():
            mask.copy_(pruned.masks[name])
        run.sparsifier.finalize()
        after = first_best(run, folder, best, lambda done: tick("valid", done))
        record.update(_record(original, pruned, settings, batches), scores=[before, after])
        EventLog(folder / "metrics.jsonl").append(record)

    where, vocabularies = data_dir or data_of(source), dict(original.task.vocabularies)
    return create(_recipe(original, settings), folder, where, vocabularies, begin, None, "cpu"), record


def _read(run: Run, batches: int) -> None:
    """The model reads training batches as in an epoch, its state carried from one to the next."""
    state = None
    for batch in islice(run.task.batches(run.recipe.seed, 0), batches):
        state = run.model.initial_state(run.task.batch_size) if state is None else state
        state = run.task.loss(run.model, moved(batch, run.device), state)[2]


def _recipe(original: Run, settings: PruneSettings) -> Recipe:
    """The settings of the original, but for masks that stay; what was published is not about this model."""
    asked = {
        "density": settings.density,
        "block": settings.block if settings.block == "auto" else list(settings.block or (1, 1)),
        "include": list(settings.include),
        "exclude": list(settings.exclude),
        "densities": dict(settings.densities),
        "block_fallback": settings.block_fallback,
    }
    usual = {"block": [1, 1], "include": ["*"], "exclude": [], "densities": {}, "block_fallback": False}
    given = {key: value for key, value in asked.items() if usual.get(key) != value}
    tree = original.recipe.settings() | {
        "name": f"{original.recipe.name}-pruned",
        "sparsity": {"name": "static", **given},
    }
    return Recipe.from_settings({key: value for key, value in tree.items() if key not in OF_THE_ORIGINAL})


def _record(original: Run, pruned: Pruned, settings: PruneSettings, batches: int) -> dict[str, Json]:
    return {
        "event": "prune",
        "epoch": 0,
        "step": 0,
        "source": original.recipe.name,
        "method": settings.method,
        "density": pruned.summary()["masked_density"],
        "metric": original.task.metric,
        "seconds": pruned.seconds,
        "batches": 0 if settings.method == "magnitude" else batches,
        "tensors": [
            {
                "name": row.name,
                "shape": list(row.shape),
                "active": row.active,
                "method": row.method,
                "why": row.why,
                "error": row.error,
            }
            for row in pruned.tensors
        ],
    }
