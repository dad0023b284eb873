"""Several LSTMs side by side over one window, as one LSTM of as many times more rows.

On a graphics card a product of one small LSTM leaves most of the card without work, and every LSTM more is as many
launches more. Here a step of all of them is two launches: a product in batches, and the gates. Narrower LSTMs get
zeros for the units that they lack, which stay 0 and give nothing.
"""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import torch
from torch import Tensor

from sparsernn.core.devices import moved
from sparsernn.core.torch_releases import is_exporting
from sparsernn.kernels.lstm_kernel import Part
from sparsernn.nn.cells.lstm_gates import LSTMGates
from sparsernn.nn.drive import loop_choice
from sparsernn.nn.drive.captured_loop import CapturedLoops
from sparsernn.nn.drive.cell import Stage
from sparsernn.nn.drive.flat_weights import joined
from sparsernn.nn.drive.recurrent import turned, within
from sparsernn.nn.drive.scan import scan
from sparsernn.nn.dropout import drop_weight

GATES = 4
Shapes = tuple[tuple[int, ...], ...]


def read(
    parts: Sequence[Part],
    x: Tensor,
    h: Tensor,
    c: Tensor,
    drop: float = 0.0,
    valid: Tensor | None = None,
    loops: CapturedLoops | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A window, all LSTMs at once.

    Args:
        parts: the LSTMs; those that read backwards come with the same units as those that read forwards.
        x: (T, B, I).
        h: (D, B, H) for D directions.
        c: likewise.
        drop: probability in [0, 1) with which each recurrent weight is dropped, drawn once.
        valid: bool (T, B, 1), where a sequence goes on; None for everywhere.
        loops: that capture the loop, where all sequences are as long.

    Returns:
        y (T, B, D H), and h and c after the window.

    Example:
        >>> ones = [torch.ones(4, 1), torch.ones(4, 1), torch.zeros(4), torch.zeros(4)]
        >>> parts = [Part(range(0, 1), range(0, 1), False, *ones), Part(range(1, 2), range(1, 2), False, *ones)]
        >>> state = torch.zeros(1, 2, 2)
        >>> read(parts, torch.ones(3, 2, 2), state, state)[0].shape
        torch.Size([3, 2, 2])
    """
    ordered = sorted(parts, key=lambda part: part.backwards)
    directions, batch = len(h), x.shape[1]
    width = max(part.w_hh.shape[1] for part in ordered)
    w_ih, w_hh = _stacked([p.w_ih for p in ordered]), _stacked([p.w_hh for p in ordered])
    # times 1, or autograd would let both biases have pieces of one gradient, which a clip would scale twice
    bias = _stacked([p.b_ih for p in ordered]) + _stacked([p.b_hh for p in ordered]) * 1.0
    recurrent = drop_weight(w_hh, drop, training=True)
    order = None if valid is None else turned(valid, len(x))
    # in this order, so that the gradient of the weights lies as they do
    u = torch.baddbmm(bias.unsqueeze(-1), w_ih, _inputs(ordered, x, directions, order).mT)
    u = u.view(*u.shape[:2], *x.shape[:2]).permute(2, 0, 3, 1).flatten(1, 2)
    state = tuple(_spread(part, ordered, width) for part in (h, c))
    rows = None if valid is None else valid.repeat(1, len(ordered), 1)
    stages = (Stage(recurrent, LSTMGates()),)
    y, last = (
        scan(stages, u, state, rows) if loops is None or rows is not None else loops.scan(stages, u, state)
    )
    gathered = _gathered(y, ordered, directions, batch)
    h, c = (_gathered(part.unsqueeze(0), ordered, directions, batch).squeeze(1) for part in last)
    ahead, *others = gathered.unbind(0)
    return torch.cat([ahead, *(_from_the_end(back, order) for back in others)], -1), h, c


def read_where_faster(
    parts: Sequence[Part],
    x: Tensor,
    h: Tensor,
    c: Tensor,
    drop: float,
    lengths: Tensor | None,
    loops: CapturedLoops | None = None,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """As `read`, or None where one LSTM after the other is as fast, or a graph for other programs is made.

    Args:
        parts: as `read` takes them; on a CUDA device.
        x: likewise.
        h: likewise.
        c: likewise.
        drop: likewise.
        lengths: valid steps of each sequence, (B,) on the CPU; None for all.
        loops: as `read` takes them.
    """
    if is_exporting() or not x.numel() or not pays(parts, x, h, c):
        return None
    valid = None if lengths is None else moved(within(lengths, *x.shape[:2]), x.device)
    return read(parts, x, h, c, drop, valid, loops)


def pays(parts: Sequence[Part], x: Tensor, h: Tensor, c: Tensor) -> bool:
    """Whether `read` takes clearly less time than one call of cuDNN for each LSTM: measured, once for each shape."""
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *(w for p in parts for w in p[3:])))
    sizes = tuple(part[:3] for part in parts)
    kind = ("block_lstm", sizes, x.shape[1:], x.dtype, learns)

    @cache
    def own() -> list[Part]:  # with weights as cuDNN wants them, made where there is something to measure
        flat = [joined([weight.detach() for weight in part[3:]]) for part in parts]
        return [Part(*part[:3], *weights) for part, weights in zip(parts, flat, strict=True)]

    ways = {
        "one by one": lambda: _worked(_one_by_one, own(), x, h, c, learns),
        "at once": lambda: _worked(read, own(), x, h, c, learns),
    }
    return loop_choice.fastest(kind, len(x), ways, x.device) == "at once"


def _one_by_one(parts: Sequence[Part], x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    """The outputs of every LSTM, side by side; forwards all of them, which takes as long."""
    found = []
    for part in parts:
        side = slice(int(part.backwards), int(part.backwards) + 1)
        start = tuple(t[side, :, part.span.start : part.span.stop].contiguous() for t in (h, c))
        inputs = x[..., part.window.start : part.window.stop]
        found.append(torch.lstm(inputs, start, list(part[3:]), True, 1, 0.0, True, False, False)[0])
    return (torch.cat(found, -1),)


def _worked(
    way: Callable[[Sequence[Part], Tensor, Tensor, Tensor], tuple[Tensor, ...]],
    parts: Sequence[Part], x: Tensor, h: Tensor, c: Tensor, learns: bool,
) -> None:  # fmt: skip
    """A window, and back where gradients are wanted; without dropouts, which would move the generator on."""
    with torch.set_grad_enabled(learns):
        x, h, c = (t.detach().requires_grad_(learns) for t in (x, h, c))
        own = [Part(*part[:3], *(w.detach().requires_grad_(learns) for w in part[3:])) for part in parts]
        y = way(own, x, h, c)[0]
        if learns:
            torch.autograd.grad(y, [x, *(w for part in own for w in part[3:])], torch.ones_like(y))


def _stacked(weights: Sequence[Tensor]) -> Tensor:
    """Weights (4h, ...) of each LSTM -> (N, 4 h_max, ...), each gate filled up with zeros."""
    shapes: Shapes = tuple(tuple(w.shape) for w in weights)
    if len(set(shapes)) == 1:
        return torch.stack(list(weights))
    rows, columns = (
        max(sizes) for sizes in zip(*(s if len(s) > 1 else (*s, 1) for s in shapes), strict=True)
    )
    flat = torch.cat([w.flatten() for w in weights])
    places = _places(shapes, rows, columns, flat.device)
    full = flat.new_zeros(len(weights) * rows * columns).index_copy(0, places, flat)
    return full.view(len(weights), rows, *([columns] if len(shapes[0]) > 1 else []))


@lru_cache(maxsize=64)
def _places(shapes: Shapes, rows: int, columns: int, device: torch.device) -> Tensor:
    """Where the numbers of weights lie among those of the full ones."""
    numbers = torch.arange(len(shapes) * rows * columns).view(len(shapes), GATES, -1, columns)
    found = [
        own[:, : shape[0] // GATES, : shape[1] if len(shape) > 1 else 1].flatten()
        for own, shape in zip(numbers, shapes, strict=True)
    ]
    return moved(torch.cat(found), device)


def _from_the_end(x: Tensor, order: Tensor | None) -> Tensor:
    """x (T, B, F) from each sequence's end on, and such a one from its beginning; no order: all are of T steps."""
    return x.flip(0) if order is None else x.gather(0, order.expand_as(x))


def _inputs(parts: Sequence[Part], x: Tensor, directions: int, order: Tensor | None) -> Tensor:
    """What each LSTM reads, in the order in which it does: (N, T B, i_max); columns that it lacks meet zeros."""
    own = len(parts) // directions
    columns = _columns(tuple((part.window.start, part.window.stop) for part in parts[:own]), x.device)
    read = x.index_select(-1, columns)
    sides = [read] if directions == 1 else [read, _from_the_end(read, order)]
    return torch.cat([side.view(x.shape[0] * x.shape[1], own, -1).transpose(0, 1) for side in sides])


@lru_cache(maxsize=64)
def _columns(windows: Shapes, device: torch.device) -> Tensor:
    """The inputs of each window, its last one once more where others are wider."""
    widest = max(stop - start for start, stop in windows)
    found = [torch.arange(start, start + widest).clamp_(max=stop - 1) for start, stop in windows]
    return moved(torch.cat(found), device)


@lru_cache(maxsize=64)
def _units(widths: tuple[int, ...], device: torch.device) -> Tensor | None:
    """Where the units of one direction lie among those of LSTMs of one width; None for where they are."""
    widest = max(widths)
    if min(widths) == widest:
        return None
    return moved(torch.cat([torch.arange(n * widest, n * widest + w) for n, w in enumerate(widths)]), device)


def _spread(state: Tensor, parts: Sequence[Part], width: int) -> Tensor:
    """(D, B, H) -> (N B, h_max)."""
    directions, batch, _ = state.shape
    units = _units(_widths(parts, directions), state.device)
    if units is not None:
        full = state.new_zeros(directions, batch, len(parts) // directions * width)
        state = full.index_copy(-1, units, state)
    return state.reshape(directions, batch, -1, width).transpose(1, 2).reshape(-1, width)


def _gathered(y: Tensor, parts: Sequence[Part], directions: int, batch: int) -> Tensor:
    """(T, N B, h_max) -> (D, T, B, H)."""
    sides = y.view(len(y), directions, -1, batch, y.shape[-1]).permute(1, 0, 3, 2, 4).flatten(-2)
    units = _units(_widths(parts, directions), y.device)
    return sides if units is None else sides.index_select(-1, units)


def _widths(parts: Sequence[Part], directions: int) -> tuple[int, ...]:
    return tuple(len(part.span) for part in parts[: len(parts) // directions])
