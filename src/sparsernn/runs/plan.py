"""What a run is going to do, before it starts: tensors, sizes, steps, time."""

import torch

from sparsernn.core.devices import described
from sparsernn.core.plain import Json
from sparsernn.kernels.library import missing
from sparsernn.runs.epoch_kinds import phase_rows
from sparsernn.runs.estimate import estimated_seconds
from sparsernn.runs.run import Run
from sparsernn.structure.gates import GateBlock, gate_blocks
from sparsernn.structure.weight_places import ChoosesProducts


def plan(run: Run, measure: bool = True) -> dict[str, Json]:
    """Plain data about a run that has not started.

    Args:
        run: from `assemble` or `create`; it is left exactly as it came.
        measure: try a few batches, forward and backward, to estimate the time; without, `estimated_seconds` is None.

    Returns:
        tensors: [{name, shape, numel, active, density, gates, gate_rows, gate_density}] of every parameter, gates
        being their names, gate_rows {name: [first, one past the last]}, gate_density {name: active fraction};
        parameters_total, parameters_active; parameters_idle, which never change; boundary: [{name, shape,
        numel}] of what is trained beside the model, such as a synthesizer; masked_total, masked_active;
        products: [{module, setting, sparse, seconds}] of the modules that choose how to multiply with masked weights,
        as `ProductChoice` has it; clip_over, where gradients are clipped;
        examples, scored targets per split; note, what a reader of the figures must know of the data, "" for nothing;
        counts, what they are called; vocabularies {name: size}; metric;
        steps, epochs, steps_per_epoch; phases, see `phase_rows`; device; no_kernels, why the run computes on the
        CPU without the compiled kernels, "" where it does not; precision; cuda_graphs; estimated_seconds for the
        whole run on this machine.
    """
    seconds = estimated_seconds(run, run.task.steps_per_epoch(run.recipe.seed)) if measure else None
    masks, gates = run.sparsifier.masks(), gate_blocks(run.model)
    tensors = [
        _row(name, p, masks.get(name), gates.get(name, ())) for name, p in run.model.named_parameters()
    ]
    masked = [row for row in tensors if row["name"] in masks]
    steps_per_epoch = run.task.steps_per_epoch(run.recipe.seed)
    steps = steps_per_epoch * run.recipe.epochs
    return {
        "tensors": tensors,
        "parameters_total": sum(row["numel"] for row in tensors),
        "parameters_active": sum(row["active"] for row in tensors),
        "parameters_idle": sum(p.numel() for p in run.model.parameters() if not p.requires_grad),
        "boundary": [
            {"name": name, "shape": list(p.shape), "numel": p.numel()}
            for name, p in run.boundary.parameters().items()
        ],
        "masked_total": sum(row["numel"] for row in masked),
        "masked_active": sum(row["active"] for row in masked),
        "examples": dict(run.task.examples),
        "note": str(run.task.info.get("note") or ""),
        "counts": run.task.counts,
        "vocabularies": {name: len(vocabulary) for name, vocabulary in run.task.vocabularies.items()},
        "metric": run.task.metric,
        "steps": steps,
        "epochs": run.recipe.epochs,
        "steps_per_epoch": steps_per_epoch,
        "phases": phase_rows(
            run.boundary.phases(), run.schedule.cycles(run.recipe.epochs), run.recipe.epochs
        ),
        "device": described(run.device),
        "no_kernels": missing() if run.device.type == "cpu" else "",
        "precision": run.precision.name,
        "cuda_graphs": any(getattr(part, "captured", False) for part in run.model.modules()),
        "products": _products(run),
        "clip_over": None if run.recipe.clip is None else run.recipe.clip_over,
        "estimated_seconds": seconds,
    }


def _products(run: Run) -> list[dict[str, Json]]:
    named = ((name, m) for name, m in run.model.named_modules() if isinstance(m, ChoosesProducts))
    choices = ((name, m.product_choice()) for name, m in named)
    return [{"module": name, **choice._asdict()} for name, choice in choices if choice is not None]


def _row(
    name: str, p: torch.Tensor, mask: torch.Tensor | None, gates: tuple[GateBlock, ...]
) -> dict[str, Json]:
    active = p.numel() if mask is None else int(mask.sum())
    return {
        "name": name,
        "shape": list(p.shape),
        "numel": p.numel(),
        "active": active,
        "density": active / p.numel() if p.numel() else 1.0,  # a strip of a block embedding may be empty
        "gates": [block.name for block in gates],
        "gate_rows": {block.name: [block.start, block.stop] for block in gates},
        "gate_density": {block.name: _density(mask, block) for block in gates},
    }


def _density(mask: torch.Tensor | None, block: GateBlock) -> float:
    return 1.0 if mask is None else float(mask[block.start : block.stop].double().mean())
