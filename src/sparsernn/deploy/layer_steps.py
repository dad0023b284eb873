"""How each kind of layer is written as steps: a few products, then one fused element-wise step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sparsernn.core.plain import Part
from sparsernn.deploy.autotune import hold
from sparsernn.deploy.step_list import Place, Step, StepList
from sparsernn.kernels.weight_formats import Format
from sparsernn.nn import GRU, LSTM, ONLSTM, QRNN, RHN, BlockLSTM, Elman
from sparsernn.nn.cells.elman import ElmanCell
from sparsernn.nn.cells.onlstm import ONLSTMCell
from sparsernn.nn.cells.rhn import RHNCell
from sparsernn.nn.drive.layer import Layer
from sparsernn.nn.maps import Dense


class HeldWeights:
    """Matrices in the formats that their products are fastest in.

    Args:
        masks: name -> bool tensor.
        products: "auto", the name of a format for all, or name -> format; see `runtime`.
        int8: whether "auto" may round.
        batch: columns that "auto" tunes for.

    Attributes:
        held: name -> its `Format`.
        other_names: name -> the one that masks and products know it by.
    """

    def __init__(
        self, masks: Mapping[str, Tensor], products: str | Mapping[str, str], int8: bool, batch: int
    ) -> None:
        self.masks, self.products, self.int8, self.batch = masks, products, int8, batch
        self.held: dict[str, Format] = {}
        self.other_names: dict[str, str] = {}

    def take(self, name: str, weight: Tensor) -> Format:
        """The matrix (R, C) of this name."""
        return self._take(name, name, weight, slice(None))

    def take_rows(self, name: str, weight: Tensor, rows: slice, number: int) -> Format:
        """Some rows of it, held as NAME:number."""
        return self._take(name, f"{name}:{number}", weight, rows)

    def _take(self, name: str, part: str, weight: Tensor, rows: slice) -> Format:
        known = self.other_names.get(name, name)
        mask = self.masks.get(known)
        product = self.products if isinstance(self.products, str) else self.products.get(known, "auto")
        kept = None if mask is None else mask[rows]
        self.held[part] = hold(weight[rows], kept, product, int8=self.int8, batch=self.batch)
        return self.held[part]


def plain(tensor: Tensor) -> Tensor:
    """A copy in float32 on the CPU."""
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()


Build = Callable[[StepList, HeldWeights, Part, str, Place], Place]
"""(list, weights, layer, the layer's name, what it reads) -> what it puts out, with the state's places entered."""


def _lstm(steps: StepList, weights: HeldWeights, layer: Part, name: str, x: Place) -> Place:
    size = layer.weight_hh.shape[1]
    h, c, gates = steps.room(size), steps.room(size), steps.room(4 * size)
    steps.states.append((h, c))
    steps.add(
        Step(
            "affine",
            gates,
            x,
            h,
            vector=plain(layer.bias_ih + layer.bias_hh),
            first=weights.take(f"{name}.weight_ih", layer.weight_ih),
            second=weights.take(f"{name}.weight_hh", layer.weight_hh),
        ),
        Step("lstm", h, gates, c=c),
    )
    return h


def block_lstm(
    steps: StepList, weights: HeldWeights, layer: BlockLSTM, name: str, x: Place, suffix: str = ""
) -> tuple[Place, Place]:
    """One direction of a block LSTM: (h, c). Components know nothing of each other: no thread waits between."""
    spans = layer.hidden_spans(suffix)
    h, c = steps.room(spans[-1].stop), steps.room(spans[-1].stop)
    products, cells = [], []
    for n, (window, span) in enumerate(zip(layer.windows, spans, strict=True)):
        if not span:
            continue
        w_ih, w_hh, b_ih, b_hh = layer.weights(n, suffix)
        own, gates = h.part(span.start, len(span)), steps.room(4 * len(span))
        first = weights.take(f"{name}.weight_ih_{n}{suffix}", w_ih)
        second = weights.take(f"{name}.weight_hh_{n}{suffix}", w_hh)
        read = x.part(window.start, len(window))
        bias = plain(b_ih + b_hh)
        products.append(Step("affine", gates, read, own, vector=bias, first=first, second=second, wait=False))
        cells.append(Step("lstm", own, gates, c=c.part(span.start, len(span)), wait=False))
    products[-1].wait = cells[-1].wait = True
    steps.add(*products, *cells)
    return h, c


def _block_lstm(steps: StepList, weights: HeldWeights, layer: BlockLSTM, name: str, x: Place) -> Place:
    h, c = block_lstm(steps, weights, layer, name, x)
    steps.states.append((h, c))
    return h


def _gru(steps: StepList, weights: HeldWeights, layer: GRU, name: str, x: Place) -> Place:
    size = layer.hidden_size
    h, read, own = steps.room(size), steps.room(3 * size), steps.room(3 * size)
    steps.states.append((h,))
    for target, source, kind, wait in ((read, x, "ih", False), (own, h, "hh", True)):
        matrix = weights.take(f"{name}.weight_{kind}", getattr(layer, f"weight_{kind}"))
        bias = plain(getattr(layer, f"bias_{kind}"))
        steps.add(Step("affine", target, source, vector=bias, first=matrix, wait=wait))
    steps.add(Step("gru", h, read, own))
    return h


def _rhn(steps: StepList, weights: HeldWeights, layer: RHN, name: str, x: Place) -> Place:
    cell: Part = layer.cell
    s, pre = steps.room(cell.hidden_size), steps.room(len(cell.gates) * cell.hidden_size)
    _enter(steps, layer, (s,))
    for level in range(cell.depth):
        own = f"weight_hh_{level}"
        matrix = weights.take(f"{name}.cell.{own}", getattr(cell, own))
        bias = getattr(cell, f"bias_hh_{level}")
        if level:
            steps.add(Step("affine", pre, s, vector=plain(bias), first=matrix))
        else:
            first = weights.take(f"{name}.cell.weight_ih", cell.weight_ih)
            both = plain(cell.bias_ih + bias)
            steps.add(Step("affine", pre, x, s, vector=both, first=first, second=matrix))
        steps.add(Step("highway" if cell.coupled else "free_highway", s, pre))
    return s


def _onlstm(steps: StepList, weights: HeldWeights, layer: ONLSTM, name: str, x: Place) -> Place:
    cell: Part = layer.cell
    size, chunks = cell.hidden_size, cell.chunks
    h, c, masters = steps.room(size), steps.room(size), steps.room(2 * size)
    pre = steps.room(2 * chunks + 4 * size)
    _enter(steps, layer, (h, c))
    scale = 1.0 if cell.rescale_drop else 1.0 - cell.weight_drop  # see ONLSTMCell: what its evaluation reads
    first = weights.take(f"{name}.cell.weight_ih", cell.weight_ih)
    second = weights.take(f"{name}.cell.weight_hh", cell.weight_hh * scale)
    bias = plain(cell.bias_ih + cell.bias_hh)
    steps.add(
        Step("affine", pre, x, h, vector=bias, first=first, second=second),
        Step("masters", masters, pre.part(0, 2 * chunks), size=chunks, rows=size),
        Step("ordered", h, pre.part(2 * chunks, 4 * size), masters, c),
    )
    return h


RULES = {"none": "copy", "tanh": "tanh", "relu": "relu", "modrelu": "modrelu"}


def _elman(steps: StepList, weights: HeldWeights, layer: Elman, name: str, x: Place) -> Place:
    cell: Part = layer.cell
    h, pre = steps.room(cell.hidden_size), steps.room(cell.hidden_size)
    _enter(steps, layer, (h,))
    own = f"{name}.cell.map.weight" if isinstance(cell.map, Dense) else f"{name}.cell.map"
    first, second = weights.take(f"{name}.cell.weight_ih", cell.weight_ih), weights.take(own, cell.map())
    bias = torch.zeros(cell.hidden_size) if cell.bias_ih is None else plain(cell.bias_ih)
    steps.add(Step("affine", pre, x, h, vector=bias, first=first, second=second))
    rule = RULES[cell.nonlinearity]
    steps.add(
        Step("modrelu", h, pre, steps.constant(plain(cell.bias_modrelu)))
        if rule == "modrelu"
        else Step(rule, h, pre)
    )
    return h


def _qrnn(steps: StepList, weights: HeldWeights, layer: QRNN, name: str, x: Place) -> Place:
    size, inputs = layer.hidden_size, layer.input_size
    c, pre = steps.room(size), steps.room(len(layer.gates) * size)
    h = steps.room(size) if "o" in layer.pooling else c
    seen, earlier = x, []
    if layer.window > 1:  # the last inputs, the latest first
        seen = steps.room(layer.window * inputs)
        parts = [seen.part(back * inputs, inputs) for back in range(layer.window)]
        steps.add(*(Step("copy", parts[k], parts[k - 1]) for k in range(layer.window - 1, 0, -1)))
        steps.add(Step("copy", parts[0], x))
        earlier = parts[:-1]
    steps.states.append((c, *earlier))
    matrix, bias = weights.take(f"{name}.weight_ih", layer.weight_ih), plain(layer.bias_ih)
    steps.add(
        Step("affine", pre, seen, vector=bias, first=matrix),
        Step(f"pool_{layer.pooling}", h, pre, c=c, factor=1.0 - layer.zoneout),
    )
    return h


def _enter(steps: StepList, layer: Part, state: tuple[Place, ...]) -> None:
    """The state's places, with what they begin with where that was learnt."""
    steps.states.append(state)
    steps.constants += [(place, plain(start)) for place, start in zip(state, layer.start, strict=False)]


BUILD: dict[type, Build] = {
    LSTM: _lstm,
    GRU: _gru,
    RHN: _rhn,
    ONLSTM: _onlstm,
    Elman: _elman,
    QRNN: _qrnn,
    BlockLSTM: _block_lstm,
}
CELLS: dict[type, type] = {RHN: RHNCell, ONLSTM: ONLSTMCell, Elman: ElmanCell}
BACKWARDS = ("reverse", "bidirectional")
TURNED = (*BACKWARDS, "batch_first", "naive")


def reads_backwards(model: nn.Module) -> bool:
    """Whether a layer of a model reads from the end, so that what is said to a step depends on what comes after it.

    Example:
        >>> reads_backwards(nn.ModuleList([QRNN(3, 5)])), reads_backwards(nn.ModuleList([QRNN(3, 5, reverse=True)]))
        (False, True)
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Layer)]
    return any(getattr(layer, name, False) for layer in layers for name in BACKWARDS)


def written(layer: nn.Module) -> bool:
    """Whether a layer of a stack can be written as steps: no version of another's, and from left to right.

    Example:
        >>> written(GRU(3, 5)), written(QRNN(3, 5, reverse=True)), written(nn.GRU(3, 5))
        (True, False, False)
    """
    kind: type = type(layer)
    straight = not any(getattr(layer, name, False) for name in TURNED)
    return kind in BUILD and straight and type(getattr(layer, "cell", None)) is CELLS.get(kind, type(None))
