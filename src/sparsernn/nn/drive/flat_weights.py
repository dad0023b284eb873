"""The weights of a fused kernel in one piece of memory, as cuDNN reads them.

torch copies weights that lie apart together at every call, and warns of it. Here parameters are laid side by side
once and stay there, whatever is written into them (steps of optimizers, masks); a recurrent weight that is dropped
anew for every window is written into its place among them.
"""

import weakref
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sparsernn.core.autograd_context import Context
from sparsernn.core.precision import rounding
from sparsernn.nn.dropout import drop_weight

MODES = {"lstm": 2, "gru": 3}
"""What cuDNN calls them (cudnnRNNMode_t)."""

PER_DIRECTION = 4
"""Weights of inputs and of the state, and their biases, in this order."""


class _Use:
    """That a window which was forwarded has not gone back yet."""


class _Dropped(torch.autograd.Function):
    """Weight drop, written into a place that is there."""

    @staticmethod
    def forward(ctx: Context, weight: Tensor, p: float, place: Tensor, use: _Use) -> Tensor:
        kept = _kept(weight, p)
        torch.mul(weight, kept, out=place)
        ctx.use, ctx.kept = use, kept
        return place.detach()

    @staticmethod
    def backward(ctx: Context, d: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.use = None  # nothing reads the place any more: what reads it has come before
        return d * ctx.kept, None, None, None


class FlatWeights:
    """Lays the weights of one layer side by side, where it runs on cuDNN.

    Args:
        kind: "lstm" or "gru".

    Example:
        >>> weights = [nn.Parameter(torch.ones(n)) for n in (4, 4, 2, 2)]
        >>> FlatWeights("lstm").gathered(weights)[0] is weights[0]      # on the CPU nothing is done
        True
    """

    def __init__(self, kind: Literal["lstm", "gru"]) -> None:
        self.mode = MODES[kind]
        self._addresses: list[int] = []
        self._places: list[Tensor] = []
        self._uses: weakref.WeakSet[_Use] = weakref.WeakSet()

    def __getstate__(self) -> dict[str, object]:
        """Copies lie elsewhere, and are laid side by side when they are used."""
        return {"mode": self.mode}

    def __setstate__(self, state: dict[str, object]) -> None:
        mode = state["mode"]
        assert isinstance(mode, int)
        self.mode, self._addresses, self._places, self._uses = mode, [], [], weakref.WeakSet()

    def gathered(self, given: Sequence[Tensor], drop: float = 0.0) -> list[Tensor]:
        """The weights as a kernel takes them, of one direction or two.

        Args:
            given: for each direction those of inputs and state, and their biases.
            drop: probability in [0, 1) with which single weights of the state are dropped, once for this call.
        """
        weights = list(given)
        if not _by_cudnn(weights):
            return _dropped(weights, drop) if drop else weights
        made_here = any(not isinstance(w, nn.Parameter) for w in weights)  # and not to be kept
        # of a window before that has not gone back, what it dropped stays
        if made_here or (drop and len(self._uses)):
            drops = [drop > 0 and k % PER_DIRECTION == 1 for k in range(len(weights))]
            return joined([w * _kept(w, drop) if d else w for w, d in zip(weights, drops, strict=True)])
        if not drop:
            self._lay(weights)
            return weights
        own = weights[1::PER_DIRECTION]
        if [_form(place) for place in self._places] != [_form(weight) for weight in own]:
            self._places = [torch.empty_like(weight) for weight in own]
        laid, use = list(weights), _Use()
        laid[1::PER_DIRECTION] = self._places
        self._lay(laid)
        self._uses.add(use)
        made = list(weights)
        made[1::PER_DIRECTION] = [
            _Dropped.apply(w, drop, place, use)  # type: ignore[no-untyped-call]
            for w, place in zip(weights[1::PER_DIRECTION], self._places, strict=True)
        ]
        return made

    def _lay(self, laid: list[Tensor]) -> None:
        """Side by side, unless they lie there."""
        if self._addresses == [t.data_ptr() for t in laid]:
            return
        inputs, hidden = laid[0].shape[1], laid[1].shape[1]
        with torch.no_grad():
            torch._cudnn_rnn_flatten_weight(
                laid, PER_DIRECTION, inputs, self.mode, hidden, 0, 1, False, len(laid) > PER_DIRECTION
            )
        self._addresses = [t.data_ptr() for t in laid]


def _kept(weight: Tensor, p: float) -> Tensor:
    """What a weight is multiplied with to be dropped: drawn in one way, whichever way the layer takes."""
    return torch.empty_like(weight, requires_grad=False).bernoulli_(1 - p).div_(1 - p)


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device


def _dropped(weights: Sequence[Tensor], p: float) -> list[Tensor]:
    return [drop_weight(w, p, k % PER_DIRECTION == 1) for k, w in enumerate(weights)]


def _by_cudnn(weights: Sequence[Tensor]) -> bool:
    """Whether cuDNN is going to read these; in 16 bits torch makes a piece of its own, from copies."""
    first = weights[0]
    if not (first.is_cuda and rounding(first.device) is None and first.numel()):
        return False
    alike = all(w.is_cuda and w.dtype == first.dtype for w in weights)
    return alike and bool(torch.backends.cudnn.is_acceptable(first.detach()))  # type: ignore[no-untyped-call]


def joined(weights: Sequence[Tensor]) -> list[Tensor]:
    """Copies of them in one piece of memory, in the order in which cuDNN has them, with gradients to each.

    Example:
        >>> first, second = joined([torch.ones(2, 1), torch.zeros(3)])
        >>> second.data_ptr() - first.data_ptr() == 2 * first.element_size()
        True
    """
    order = sorted(range(len(weights)), key=lambda k: k % PER_DIRECTION > 1)  # the biases after all others
    flat = torch.cat([weights[k].flatten() for k in order])
    parts = torch.split(flat, [weights[k].numel() for k in order])
    made = dict(zip(order, parts, strict=True))
    return [made[k].view_as(weight) for k, weight in enumerate(weights)]
