"""What each kind of step does, in torch: the twin of steps.c.

Each takes the operands y, a, b, c, views (rows, B) of the stores, and the step; it writes into y, and where a layer
has a memory into c.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparsernn.deploy.step_list import Step

Twin = Callable[[Tensor, Tensor, Tensor, Tensor, Step], object]


def _affine(y: Tensor, a: Tensor, b: Tensor, c: Tensor, step: Step) -> None:
    assert step.first is not None
    assert step.vector is not None
    made = step.first.twin() @ a + step.vector.unsqueeze(1)
    y.copy_(made if step.second is None else made + step.second.twin() @ b)


def _modrelu(y: Tensor, a: Tensor, b: Tensor, c: Tensor, step: Step) -> None:
    y.copy_(a.sign() * (a.abs() + b).relu())


def _lstm(h: Tensor, a: Tensor, b: Tensor, c: Tensor, step: Step) -> None:
    i, f, g, o = a.chunk(4)
    c.mul_(f.sigmoid()).add_(i.sigmoid() * g.tanh())
    torch.mul(o.sigmoid(), c.tanh(), out=h)


def _gru(h: Tensor, a: Tensor, b: Tensor, c: Tensor, step: Step) -> None:
    (r, z, n), (own_r, own_z, own_n) = a.chunk(3), b.chunk(3)
    keep = (z + own_z).sigmoid()
    fresh = (n + (r + own_r).sigmoid() * own_n).tanh()
    h.copy_((1 - keep) * fresh + keep * h)


def _highway(s: Tensor, a: Tensor, b: Tensor, c: Tensor, step: Step) -> None:
    h, t = a.chunk(2)
    s.add_((h.tanh() - s) * t.sigmoid())


def _free_highway(s: Tensor, a: Tensor, b: Tensor, c: Tensor, step: Step) -> None:
    h, t, carry = a.chunk(3)
    s.copy_(h.tanh() * t.sigmoid() + s * carry.sigmoid())


def _masters(y: Tensor, a: Tensor, b: Tensor, c: Tensor, step: Step) -> None:
    into, forget = (z.softmax(0).cumsum(0) for z in a.chunk(2))
    wide = len(y) // (2 * step.size)
    y.copy_(torch.cat([1 - into, forget]).repeat_interleave(wide, 0))


def _ordered(h: Tensor, a: Tensor, b: Tensor, c: Tensor, step: Step) -> None:
    (out, cell, into, forget), (i, f) = a.chunk(4), b.chunk(2)
    w = f * i
    keep, write = forget.sigmoid() * w + (f - w), into.sigmoid() * w + (i - w)
    c.copy_(keep * c + write * cell.tanh())
    torch.mul(out.sigmoid(), c.tanh(), out=h)


def _pool(gates: int) -> Twin:
    def pool(h: Tensor, a: Tensor, b: Tensor, c: Tensor, step: Step) -> None:
        z, f, *others = a.chunk(gates)
        write = step.factor
        if others[1:]:
            keep, opened = 1 - (1 - f.sigmoid()) * write, others[1].sigmoid() * write
        else:
            opened = f.sigmoid() * write
            keep = 1 - opened
        c.copy_(keep * c + opened * z.tanh())
        if others:
            torch.mul(others[0].sigmoid(), c, out=h)

    return pool


def _norm(y: Tensor, a: Tensor, b: Tensor, c: Tensor, step: Step) -> None:
    base = c if step.size else 0
    y.copy_(base - torch.cat([a, b]).logsumexp(0, keepdim=True))


def _mix(y: Tensor, a: Tensor, b: Tensor, c: Tensor, step: Step) -> None:
    mixed = (a.view(step.size, *y.shape) + b.unsqueeze(1)).logsumexp(0)
    y.copy_(torch.logaddexp(mixed, torch.full_like(mixed, step.factor)))


TWINS: dict[str, Twin] = {
    "affine": _affine,
    "copy": lambda y, a, b, c, step: y.copy_(a),
    "tanh": lambda y, a, b, c, step: y.copy_(a.tanh()),
    "relu": lambda y, a, b, c, step: y.copy_(a.relu()),
    "modrelu": _modrelu,
    "lstm": _lstm,
    "gru": _gru,
    "highway": _highway,
    "free_highway": _free_highway,
    "masters": _masters,
    "ordered": _ordered,
    "pool_f": _pool(2),
    "pool_fo": _pool(3),
    "pool_ifo": _pool(4),
    "norm": _norm,
    "shift": lambda y, a, b, c, step: y.add_(b),
    "mix": _mix,
}
"""All but those that read words or lengths."""
