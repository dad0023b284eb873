"""What each weight reads: the second moments of its inputs, gathered while a model works.

A weight W (O, I) that is multiplied by inputs x_n makes the squared error sum_n |D x_n|^2 = tr(D H D^T), with
H = sum_n x_n x_n^T, when it changes by D. All that pruning needs to know of the data is this H. The gates of a
recurrent layer are rows of one weight and read the same: W_ih reads x_t, W_hh reads h_{t-1}, which is the layer's
output one step before, and the initial state at first.

The products are watched where torch carries them out, whoever's module asks for them; a parameter is known by its
place in memory. What is not seen (a kernel of one's own, a compiled graph, a weight computed from another one) is not
guessed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

WIDEST = 8192
"""Inputs of a weight up to which their second moments are kept: 512 MB in float64."""

RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
CELLS = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
PRODUCTS = ("mm", "matmul", "__matmul__", "__rmatmul__", "addmm", "linear")
OPERANDS = ("input", "mat1", "weight", "mat2", "other")
Recurrence = Callable[..., tuple[Tensor, ...]]
COPIES = ("contiguous", "clone", "detach", "mul", "__mul__", "__rmul__")


@dataclass
class Moments:
    """Second moments of what one weight reads.

    Attributes:
        gram: H (I, I) in float64 on the CPU; None until something was read, and where only its presence is asked for.
        rows: input vectors so far.
        lookups: rows that were looked up in it, as in an embedding.
    """

    gram: Tensor | None = None
    rows: int = 0
    lookups: int = 0

    def add(self, x: Tensor) -> None:
        """Count inputs x (..., I)."""
        flat = x.detach().reshape(-1, x.shape[-1]).cpu().double()
        self.rows += len(flat)
        if self.gram is None:
            self.gram = flat.new_zeros(flat.shape[1], flat.shape[1])
        self.gram.addmm_(flat.t(), flat)


class _Place(NamedTuple):
    name: str
    turned: bool
    tensor: Tensor


@dataclass
class _Places:
    """Where in memory the parameters lie, and the copies that are made of them on the way."""

    known: dict[int, _Place] = field(default_factory=dict)
    copies: dict[str, int] = field(default_factory=dict)

    def find(self, tensor: object) -> tuple[str, bool] | None:
        """The parameter that a tensor is the whole of, and whether it is turned (O, I) -> (I, O)."""
        if not isinstance(tensor, Tensor) or tensor.ndim != 2:
            return None
        place = self.known.get(_address(tensor))
        if place is None:
            return None
        there = place.tensor
        if tensor.shape == there.shape and tensor.stride() == there.stride():
            return place.name, place.turned
        turned = (tensor.shape[::-1], tensor.stride()[::-1]) == (there.shape, there.stride())
        return (place.name, not place.turned) if turned else None

    def settle(self) -> None:
        """Parameters may lie elsewhere by now: cuDNN has a layer's side by side from its first window on."""
        self.known = {_address(place.tensor): place for place in self.known.values()}

    def copied(self, found: tuple[str, bool] | None, result: object) -> None:
        """Know a copy of a parameter, or a multiple of it, too: the last of each, which is kept from being freed."""
        if (
            found is None
            or not isinstance(result, Tensor)
            or result.ndim != 2
            or self.find(result) is not None
        ):
            return
        name, turned = found
        self.known.pop(self.copies.get(name, 0), None)
        self.copies[name] = _address(result)
        self.known[_address(result)] = _Place(name, turned, result)


def _address(tensor: Tensor) -> int:
    return tensor.data_ptr() if tensor.layout == torch.strided and tensor.numel() else 0


class InputRecorder(TorchFunctionMode):
    """Inside it, every product with one of the parameters tells what the parameter read.

    Args:
        parameters: name -> weight (O, I); others are not watched.
        gather: False only notes which weights read something, in the order in which they did.

    Attributes:
        moments: name -> what was read so far, in the order of the first reading.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> with InputRecorder({"weight": layer.weight}) as recorder:
        ...     _ = layer(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        >>> recorder.moments["weight"].gram.tolist(), recorder.moments["weight"].rows
        ([[1.0, 2.0], [2.0, 5.0]], 2)
    """

    def __init__(self, parameters: Mapping[str, Tensor], gather: bool = True) -> None:
        super().__init__()
        self.gather = gather
        self.moments: dict[str, Moments] = {}
        places = {_address(p): _Place(name, False, p) for name, p in parameters.items() if p.ndim == 2}
        self._places = _Places({address: place for address, place in places.items() if address})

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Carry out, and note."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in RECURRENT:
            self._recurrent(func, args)
        elif name in CELLS:
            self._read(args[2], args[0])
            self._read(args[3], args[1][0] if name == "lstm_cell" else args[1])
        elif name == "embedding":
            self._lookup(args, kwargs)
        elif name in PRODUCTS:
            self._product(name, [*args, *(kwargs[k] for k in OPERANDS if k in kwargs)])
        elif name in COPIES and args and all(isinstance(other, int | float) for other in args[1:]):
            self._places.copied(self._places.find(args[0]), result)
        return result

    def _moments(self, name: str) -> Moments:
        return self.moments.setdefault(name, Moments())

    def _read(self, weight: object, x: Tensor) -> None:
        found = self._places.find(weight)
        if found is None or found[1]:
            return
        moments = self._moments(found[0])
        if self.gather:
            moments.add(x)
        else:
            moments.rows += x.numel() // max(x.shape[-1], 1)

    def _lookup(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        given = {**dict(zip(("input", "weight"), args, strict=False)), **kwargs}
        indices, weight = given.get("input"), given.get("weight")
        if isinstance(indices, Tensor) and isinstance(weight, Tensor) and indices.is_floating_point():
            indices, weight = (
                weight,
                indices,
            )  # torch.embedding and functional.embedding disagree on the order
        found = self._places.find(weight)
        if found is not None and isinstance(indices, Tensor):
            self._moments(found[0]).lookups += indices.numel()

    def _product(self, name: str, args: list[Any]) -> None:
        """x W^T in one of its spellings, or W x."""
        if name == "linear":
            self._read(args[1], args[0])
            return
        left, right = args[1:3] if name == "addmm" else args[:2]
        if name == "__rmatmul__":
            left, right = right, left
        found = self._places.find(right)
        if found is not None and found[1]:
            self._read(right.t(), left)
        elif isinstance(right, Tensor) and right.ndim > 1:
            self._read(left, right.transpose(-1, -2))
        elif isinstance(right, Tensor):
            self._read(left, right)

    def _recurrent(self, func: Recurrence, args: Sequence[Any]) -> None:
        """All layers and directions of one of torch's recurrent functions, one after the other."""
        call = _Call.of(func, args)
        self._places.settle()
        if not any(self._places.find(p) is not None for p in call.weights):
            return
        for layer in range(call.layers):
            x, directions = call.read(layer)
            for weight_ih, weight_hh, before in directions:
                self._read(weight_ih, x)
                self._read(weight_hh, before)


@dataclass
class _Call:
    """A call of torch's lstm, gru or rnn, that can be carried out layer by layer.

    `x` is (T, B, I), or (sum of lengths, I) where `sizes`, the sequences at each step, are given.
    """

    func: Recurrence
    x: Tensor
    sizes: Tensor | None
    state: tuple[Tensor, ...]
    weights: list[Tensor]
    biases: bool
    layers: int
    both: bool

    @classmethod
    def of(cls, func: Recurrence, args: Sequence[Any]) -> "_Call":
        """The call with these arguments."""
        packed = isinstance(
            args[3], list | tuple
        )  # (data, sizes, state, weights, ...) or (x, state, weights, ...)
        x, sizes, (state, weights, biases, layers, _, _, both) = args[0], None, args[1:8]
        if packed:
            sizes, (state, weights, biases, layers, _, _, both) = args[1], args[2:9]
        elif args[8]:
            x = x.transpose(0, 1)
        states = (state,) if isinstance(state, Tensor) else tuple(state)
        return cls(func, x, sizes, states, list(weights), biases, layers, both)

    def read(self, layer: int) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
        """Input of a layer, and of each direction W_ih, W_hh and h_{t-1}; moves on to the next layer."""
        ways = 1 + self.both
        each = len(self.weights) // (self.layers * ways)
        own = self.weights[layer * ways * each : (layer + 1) * ways * each]
        state = tuple(part[layer * ways : (layer + 1) * ways] for part in self.state)
        given = state if len(state) > 1 else state[0]
        settings = (own, self.biases, 1, 0.0, False, self.both)
        call = (
            (self.x, given, *settings, False)
            if self.sizes is None
            else (self.x, self.sizes, given, *settings)
        )
        x, self.x = self.x, self.func(*call)[0]
        halves = self.x.chunk(ways, -1)
        steps = [y.unbind(0) if self.sizes is None else torch.split(y, self.sizes.tolist()) for y in halves]
        before = [torch.cat(_before(steps[way], state[0][way], bool(way))) for way in range(ways)]
        return x, [(own[way * each], own[way * each + 1], before[way]) for way in range(ways)]


def _before(steps: Sequence[Tensor], first: Tensor, backward: bool) -> list[Tensor]:
    """h_{t-1} of each step, (sequences at t, H); `first` (B, H) is the state before a sequence's first one."""
    if not backward:
        return [first[: len(steps[0])], *(h[: len(now)] for h, now in pairwise(steps))]
    after = [*steps[1:], steps[-1][:0]]
    return [torch.cat([h, first[len(h) : len(now)]]) for h, now in zip(after, steps, strict=True)]


@contextmanager
def at_work(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and the plain loop in layers that have one; afterwards all as it was.

    On the plain loop (`naive`) the products of a cell are torch's own, so that they can be seen.
    """
    training = {module: module.training for module in model.modules()}
    hidden: list[Any] = [module for module in model.modules() if getattr(module, "naive", None) is False]
    model.eval()
    for module in hidden:
        module.naive = True
    try:
        with torch.no_grad():
            yield
    finally:
        for module in hidden:
            module.naive = False
        for module, mode in training.items():
            module.training = mode


def inputs_seen(
    model: nn.Module, parameters: Mapping[str, Tensor], work: Callable[[], None]
) -> dict[str, Moments]:
    """Which of the parameters read something when the model works, in the order in which they did; without H."""
    recorder = InputRecorder(parameters, gather=False)
    with at_work(model), recorder:
        work()
    return recorder.moments


def moments_of(model: nn.Module, name: str, parameter: Tensor, work: Callable[[], None]) -> Moments:
    """What one parameter reads when the model works."""
    recorder = InputRecorder({name: parameter})
    with at_work(model), recorder:
        work()
    return recorder.moments[name]
