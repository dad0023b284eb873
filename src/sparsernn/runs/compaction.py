"""A run without its dead units: a new run folder whose model is smaller and puts out the same.

Everything that belongs to the removed units goes with them: weights, masks, averages, the optimizer's buffers, the
carried state. The new run evaluates, generates, resumes and is finetuned like the old one. Masks of single weights
stay as they are, and the checkpoints store what they leave over (`training.zeros`).

Which units go: those that the best weights do not need. A run that is not at its end trains on from its last weights,
so that only those go that these (and their averages) do not need either.

Source: W. Wen et al., "Learning Intrinsic Sparse Structures within Long Short-Term Memory", 2018, arXiv:1709.05027.
"""

import copy
from pathlib import Path

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.deploy.latency import measure_latency
from sparsernn.deploy.measurement import macs_per_token
from sparsernn.deploy.proof import Proof, prove
from sparsernn.deploy.shrink import Compaction, check_tolerance, count, nothing, units_of
from sparsernn.runs.artifacts import has_latency, measure, quicker_threads, take_best
from sparsernn.runs.assembly import MissingData, check_free, open_run, open_weights
from sparsernn.runs.checkpoint import load_checkpoint, save_checkpoint
from sparsernn.runs.compact_folder import built, resized_recipe, write
from sparsernn.runs.removable_units import Settings, dead_in_run, smaller
from sparsernn.runs.run import BEST, LAST, Run

__all__ = ["Settings", "compact_run"]

BATCHES = (1, 10)
"""Texts read at once where latency is measured: one, and as many as the published measurement has."""


def compact_run(source: Path, folder: Path, settings: Settings | None = None) -> tuple[Run, dict[str, Json]]:
    """Write a smaller run beside `source`.

    Args:
        source: the folder of a run with a best checkpoint.
        folder: of the new run.
        settings: what is asked for.

    Returns:
        The new run with its best weights in the model, and the record "compact" that its metrics end with: layers
        [{name, before, after}], parameters, bytes of both checkpoints, operations and latency per token, each
        [before, after]; `difference`, the largest one between the outputs in float64 on `batches` batches of
        `numbers` numbers; `weak`, how many units were not 0.

    Raises:
        InputError: nothing can be removed and no weight is masked, the outputs would change, or the smaller model
            cannot be written as a recipe.
    """
    settings = settings or Settings()
    check_tolerance(settings.tol, exact=not settings.tol)
    check_free(folder)
    original = _opened(source, settings.data_dir)
    state = copy.deepcopy(original.state())
    gone, weak = dead_in_run(original, settings)
    before = original.model
    after, done = smaller(before, gone, weak)
    if done is None and not original.sparsifier.masks():
        raise InputError(nothing(units_of(before)))
    recipe = resized_recipe(original, after)
    proof = prove(original.task, before, built(recipe, original.task, after))
    if not (proof.holds or settings.tol):
        raise InputError(
            f"the smaller model's outputs differ by {max(proof.difference, proof.loss):.2g} in float64, so nothing "
            "was written; some layer reads the removed units in a way that its units do not say."
        )
    run = write(original, folder, recipe, (after, done), state, settings)
    record = _record(original, run, done, proof, settings)
    _finish(original, run, record)
    return run, record


def _opened(source: Path, data_dir: Path | None) -> Run:
    """The run with its data, or where these cannot be had without: then the proof is on random input.

    On the CPU, where the kernels are whose latency is told.
    """
    try:
        return open_run(source, data_dir, "cpu")
    except MissingData:
        if data_dir is not None:
            raise
        return open_weights(source)


def _record(
    original: Run, run: Run, done: Compaction | None, proof: Proof, settings: Settings
) -> dict[str, Json]:
    """The record "compact"; the best weights are in both models afterwards."""
    _repack(run)
    take_best(run)
    groups = units_of(original.model)
    widths = done.widths if done else [(group.name, group.width, group.width) for group in groups]
    pairs = [(name, original.home / name, run.home / name) for name in (BEST, LAST)]
    return {
        "event": "compact",
        "epoch": run.position.epoch,
        "step": run.position.step,
        "source": original.recipe.name,
        "criterion": settings.criterion,
        "tol": settings.tol,
        "weak": sum(done.weak) if done else 0,
        "layers": [{"name": name, "before": old, "after": new} for name, old, new in widths],
        "kept": [kept.nonzero().squeeze(1).tolist() for kept in done.keep] if done else [],
        "parameters": [count(original.model), count(run.model)],
        "bytes": {name: [old.stat().st_size, new.stat().st_size] for name, old, new in pairs},
        "difference": proof.difference,
        "loss_difference": proof.loss,
        "batches": proof.batches,
        "numbers": proof.numbers,
        "read": "random input" if original.without_data else "training data",
        **_per_token(original, run, settings.repeats),
    }


def _per_token(original: Run, run: Run, repeats: int) -> dict[str, Json]:
    """Operations and latency of a token or time step, for models that read them one by one."""
    if run.model.reads == "sequences" or not has_latency(run):
        return {}
    models = {"before": original.model, "after": run.model}
    macs = [
        macs_per_token(model, r.sparsifier.masks())
        for model, r in zip(models.values(), (original, run), strict=True)
    ]
    if not repeats:
        return {"macs_per_token": macs}
    with quicker_threads(original.model):
        rows = [row for batch in BATCHES for row in measure_latency(models, batch, repeats=repeats)]
    return {"macs_per_token": macs, "latency": rows}


def _finish(original: Run, run: Run, record: dict[str, Json]) -> None:
    """Write the record, and what a run that has ended has besides."""
    run.events.append(record)
    if original.events.knows("complete"):
        run.events.append(measure(run))
        run.events.append({"event": "complete"})
    _repack(run)


def _repack(run: Run) -> None:
    """Write the last state again, in its place behind all records and without its zeros."""
    tree = load_checkpoint(run.home / LAST) | {"history": {"metrics_bytes": run.events.size()}}
    save_checkpoint(run.home / LAST, tree, packed=True)
