"""How far synthetic gradients agree with the real ones of a longer horizon: measured offline, windows by windows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsernn.contracts import Batch, Model, State, Task
from sparsernn.gradients.quality import Readings
from sparsernn.gradients.synthetic_gradients import SyntheticGradient


def future_gradient(
    model: Model,
    task: Task,
    batches: Sequence[Batch],
    state: State,
    boundary: SyntheticGradient,
    gamma: float = 1.0,
) -> Tensor:
    """The gradient of the windows ahead with respect to a state, by backpropagation through all of them.

    Args:
        model, task: as in training; with dropout on, the gradient is that of one sample of masks.
        batches: the windows that follow, in order; what is beyond them is left out.
        state: at their start.
        boundary: says which parts of the state count, and in which unit.
        gamma: factor on each further window, as the synthesizer's target has it.

    Returns:
        (B, D), in the synthesizer's unit, which is taken from the first window.
    """
    unit = boundary.unit(batches[0].targets.numel())
    state, leaves = boundary.parts.leaves(state)
    total = torch.zeros(())
    for ahead, batch in enumerate(batches):
        _, objective, state = task.loss(model, batch, state)
        total = total + gamma**ahead * objective
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    whole = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]
    return boundary.parts.join(whole) * unit


def probe(
    model: Model,
    task: Task,
    boundary: SyntheticGradient,
    batches: Sequence[Batch],
    horizon: int = 5,
    gamma: float | None = None,
) -> dict[str, float]:
    """Cosine, R^2 and ratio of sizes of the synthesizer's answers and the gradients of `horizon` windows.

    The one honest measure of a synthesizer: its own target is bootstrapped, and so partly its own opinion.

    Args:
        model, task: as in training; the model's mode decides on dropouts. Nothing of the run is changed.
        boundary: with the synthesizer; its memory begins anew.
        batches: windows in order, more than `horizon`, from the initial state on.
        horizon: windows that the gradient reaches ahead, at least 1.
        gamma: factor on each further window; None: the boundary's own.

    Returns:
        `cosine`, `r2`, `rms_ratio` over all cuts between the windows, without those that are nearer to the end than
        the horizon.
    """
    readings, memory = Readings(), None
    gamma = boundary.settings.gamma if gamma is None else gamma
    state = model.initial_state(task.batch_size)
    for k in range(len(batches)):
        if k and k + horizon <= len(batches):
            ahead = batches[k : k + horizon]
            true = future_gradient(model, task, ahead, state, boundary, gamma)
            estimate, memory = boundary.estimate(state, memory)
            readings.add(estimate, true)
        with torch.no_grad():
            state = task.loss(model, batches[k], state)[2]
    taken = readings.take()
    return {name.removeprefix("sg_"): v for name, v in taken.items() if name != "sg_injected"}
