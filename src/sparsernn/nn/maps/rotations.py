"""An orthogonal or unitary recurrent matrix as layers of planar rotations."""

import math
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sparsernn.core.autograd_context import Context, differentiable_once
from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import AtLeast, Multiple, Size
from sparsernn.nn.maps.map_contract import RecurrentMap, orthogonality_error


class Turn(NamedTuple):
    """A layer of rotations of disjoint pairs: units from `start` to H - start, each with the one `distance` on."""

    start: int
    distance: int

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the first and the second members' rows of x (H, M), each (groups, distance, M)."""
        inner = x[self.start : len(x) - self.start]
        first, second = inner.view(-1, 2, self.distance, x.shape[1]).unbind(1)
        return first, second

    def shaped(self, values: Tensor) -> Tensor:
        """One value per pair as a factor for `halves`."""
        return values.view(-1, self.distance, 1)


def turns(size: int, capacity: int | None) -> list[Turn]:
    """The layers, the first applied first: `capacity` tunable ones, or those of the fast Fourier transform.

    Example:
        >>> turns(8, None)
        [Turn(start=0, distance=4), Turn(start=0, distance=2), Turn(start=0, distance=1)]
        >>> turns(8, 3)
        [Turn(start=0, distance=1), Turn(start=1, distance=1), Turn(start=0, distance=1)]
    """
    if capacity is None:
        return [Turn(0, size >> k) for k in range(1, size.bit_length())]
    return [Turn(layer % 2, 1) for layer in range(capacity)]


def _rotate(first: Tensor, second: Tensor, cos: Tensor, sin: Tensor) -> None:
    """(a, b) <- (cos a - sin b, sin a + cos b), in place."""
    before = first.clone()
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).addcmul_(before, sin)


class _Layers(torch.autograd.Function):
    """All layers on x (H, M). Each can be undone, so that backward stores the result alone, not every layer's."""

    @staticmethod
    def forward(
        ctx: Context, x: Tensor, angle: Tensor, phase: Tensor | None, last: Tensor | None, layers: list[Turn]
    ) -> Tensor:
        y = x.clone(memory_format=torch.contiguous_format)
        parts = _parts(layers, len(x))
        for turn, part in zip(layers, parts, strict=True):
            first, second = turn.halves(y)
            if phase is not None:
                second.mul_(turn.shaped(_unit(phase[part])))
            _rotate(first, second, turn.shaped(angle[part].cos()), turn.shaped(angle[part].sin()))
        if last is not None:
            y.mul_(_unit(last)[:, None])
        ctx.save_for_backward(y, angle, phase, last)
        ctx.layers = layers
        return y

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, angle, phase, last = ctx.saved_tensors
        width = y.shape[1]
        both = torch.cat((y, grad), 1)  # what is undone to the states is undone to their gradients
        of_angle = torch.empty_like(angle)
        of_phase, of_last = (None if p is None else torch.empty_like(p) for p in (phase, last))
        if last is not None and of_last is not None:
            of_last.copy_(-_inner(both[:, width:], both[:, :width], imaginary=True))
            both.mul_(_unit(-last)[:, None])
        parts = _parts(ctx.layers, len(y))
        for turn, part in zip(reversed(ctx.layers), reversed(parts), strict=True):
            first, second = turn.halves(both)
            (a, ga), (b, gb) = ((h[..., :width], h[..., width:]) for h in (first, second))
            of_angle[part] = (_inner(gb, a) - _inner(ga, b)).flatten()
            _rotate(first, second, turn.shaped(angle[part].cos()), -turn.shaped(angle[part].sin()))
            if phase is not None and of_phase is not None:
                of_phase[part] = -_inner(gb, b, imaginary=True).flatten()
                second.mul_(turn.shaped(_unit(-phase[part])))
        return both[:, width:], of_angle, of_phase, of_last, None


def _inner(g: Tensor, x: Tensor, imaginary: bool = False) -> Tensor:
    """sum(conj(g) x) over the last dimension, its real or imaginary part."""
    total = (g.conj() * x).sum(-1)
    return total.imag if imaginary else total.real if total.is_complex() else total


def _unit(phase: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(phase), phase)


def _parts(layers: list[Turn], size: int) -> list[slice]:
    """Which parameters belong to which layer."""
    borders = [0]
    for turn in layers:
        borders.append(borders[-1] + (size - 2 * turn.start) // 2)
    return [slice(*pair) for pair in pairwise(borders)]


class Rotations(RecurrentMap):
    """V = D F_L ... F_2 F_1, each F a layer of rotations of disjoint pairs of units: the map of EURNN.

        a' = cos(t) a - exp(i p) sin(t) b,   b' = sin(t) a + exp(i p) cos(t) b,   D = diag(exp(i w))

    with phases p and w in complex mode only. H layers of the tunable style reach all of SO(H), or U(H).

    source: Li Jing, Yichen Shen, Tena Dubcek, John Peurifoy, Scott Skirlo, Yann LeCun, Max Tegmark, Marin Soljacic,
    "Tunable Efficient Unitary Neural Networks (EUNN) and their application to RNNs", 2017, arXiv:1612.05231.

    Differs from the original: angles begin in U(-pi, pi) instead of U(-3.14, 3.14).

    Args:
        hidden_size: H; even for the tunable style, a power of two for "fft".
        style: "tunable" (neighbours, in turn from unit 0 and from unit 1) or "fft" (distances H/2, H/4 ... 1).
        capacity: L, even, 2 to H; 2 where it is null. For the tunable style only.
        complex: unitary instead of orthogonal; V and the states are complex.

    Parameters: `angle`, one per pair (L (H-1)/2 or H/2 log2 H); in complex mode `phase` as many, and `last` (H,).

    Raises:
        InputError: a size or capacity outside what is said above, an unknown style.

    Example:
        >>> map = Rotations(8, style="fft")
        >>> map.angle.shape, torch.allclose(map.rotate(torch.eye(8)).T, map())
        (torch.Size([12]), True)
    """

    @checked
    def __init__(
        self,
        hidden_size: Size,
        *,
        style: Literal["tunable", "fft"] = "tunable",
        capacity: Annotated[int, AtLeast(2), Multiple(2)] | None = None,
        complex: bool = False,
    ) -> None:
        super().__init__(hidden_size)
        _check(hidden_size, style, capacity)
        self.style, self.complex = style, complex
        self.layers = turns(hidden_size, None if style == "fft" else capacity or 2)
        count = _parts(self.layers, hidden_size)[-1].stop
        self.angle = nn.Parameter(_any_angle(count))
        self.register_parameter("phase", nn.Parameter(_any_angle(count)) if complex else None)
        self.register_parameter("last", nn.Parameter(_any_angle(hidden_size)) if complex else None)

    def forward(self) -> Tensor:
        """V (H, H); complex in complex mode."""
        return self._run(torch.eye(self.hidden_size, device=self.angle.device))

    def rotate(self, h: Tensor) -> Tensor:
        """The layers, one after another, on states h (B, H): h V', at a cost of B H L instead of B H^2."""
        return self._run(h.mT).mT

    def _run(self, columns: Tensor) -> Tensor:
        kind = self.angle.dtype.to_complex() if self.complex else self.angle.dtype
        result: Tensor = _Layers.apply(  # type: ignore[no-untyped-call]
            columns.to(kind), self.angle, self.phase, self.last, self.layers
        )
        return result

    def manifold_error(self) -> float:
        """The largest entry of |V^H V - I|."""
        with torch.no_grad():
            return orthogonality_error(self())


def _any_angle(count: int) -> Tensor:
    return (torch.rand(count) * 2 - 1) * math.pi


def _check(size: int, style: str, capacity: int | None) -> None:
    if style == "fft" and (size < 2 or size & (size - 1)):
        raise InputError(f"hidden_size is {size}; the style fft needs a power of two from 2 on.")
    if style == "fft" and capacity is not None:
        raise InputError(f"capacity is {capacity}; the style fft has log2 H layers and takes none.")
    if style == "tunable" and size % 2:
        raise InputError(f"hidden_size is {size}; the tunable style needs an even number.")
    if style == "tunable" and capacity is not None and capacity > size:
        raise InputError(f"capacity is {capacity}; it must be even and at most the hidden size, {size}.")
