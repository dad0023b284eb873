"""How far back a layer can be taught: the gradient of a score against the time lag."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sparsernn.core.states import tensors
from sparsernn.nn.drive.cell import StagedCell, step
from sparsernn.nn.drive.layer import Layer
from sparsernn.nn.drive.recurrent import Recurrent


def gradient_by_lag(layer: Layer, x: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """The norm of the gradient that arrives at the state, lag by lag, mean over the sequences, (T,) float64.

    Entry k is the norm of d score / d state k steps before the end, over all tensors of the state; 0 is the last.

    Args:
        layer: one layer; its parameters, gradients and mode stay as they are. Weight drop draws anew at each step
            where the layer is in training mode.
        x: (T, B, I).
        score: outputs (T, B, H) -> a number, such as the loss of a read-out of the last step.

    Example:
        With an orthogonal matrix and no nonlinearity nothing is lost on the way:

        >>> from sparsernn.nn.cells.elman import Elman
        >>> layer = Elman(2, 4, map="orthogonal", nonlinearity="none")
        >>> norms = gradient_by_lag(layer, torch.randn(6, 3, 2), lambda y: y[-1].sum())
        >>> bool(torch.allclose(norms, norms[0].expand(6), rtol=1e-4))
        True
    """
    with torch.enable_grad():
        states = list(_states(layer, x))
        total = score(torch.stack([state[0] for state in states]))
        flat = [part for state in states for part in state]
        gradients = torch.autograd.grad(total, flat, allow_unused=True)
    parts = len(states[0])
    squares = [_square(g, like) for g, like in zip(gradients, flat, strict=True)]
    summed = torch.stack(squares).view(len(states), parts, -1).sum(1)
    return summed.sqrt().mean(1).flip(0)


def _states(layer: Layer, x: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The state after every step; a recurrent matrix is made once."""
    # what needs no gradient (a frozen layer) would break the chain at the first step
    state = tuple(part.detach().requires_grad_() for part in tensors(layer.initial_state(x.shape[1])))
    if isinstance(layer, Recurrent) and isinstance(layer.cell, StagedCell):
        stages = layer.cell.stages(x.shape[1])
        for u in layer.cell.project(x).unbind(0):
            state = step(stages, u, state)
            yield state
        return
    for t in range(len(x)):
        _, state = layer(x[t : t + 1], state)
        yield state


def _square(gradient: Tensor | None, like: Tensor) -> Tensor:
    """Per sequence, (B,); nothing arrives at the last state's parts that the score does not read."""
    if gradient is None:
        return torch.zeros(len(like), dtype=torch.float64, device=like.device)
    return gradient.double().square().sum(-1)
