"""What torch's functions do to the features in the last axis of a tensor, as far as that is known for sure."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn import functional


@dataclass(frozen=True)
class Value:
    """What a node holds: "features" in the last of `rank` axes (None: not known), or something that has them."""

    kind: str
    rank: int | None = None


FEATURES = "features"

KEEP_ZERO = frozenset(
    [
        "relu",
        "tanh",
        "dropout",
        "gelu",
        "silu",
        "leaky_relu",
        "elu",
        "selu",
        "relu6",
        "softsign",
        "neg",
        "abs",
        "sin",
        "square",
        "contiguous",
        "clone",
        "detach",
        "float",
        "double",
        "half",
        "bfloat16",
        "cpu",
        "cuda",
        "to",
        "type_as",
    ]
)
"""Functions and methods that change each number by itself, and leave a 0 as it is."""

KEEP_ZERO_MODULES = (
    nn.Dropout,
    nn.Identity,
    nn.ReLU,
    nn.Tanh,
    nn.GELU,
    nn.SiLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.ReLU6,
    nn.Softsign,
)

ALIGNED = frozenset(["add", "sub", "mul", "truediv", "div"])
REDUCED = frozenset(["sum", "mean", "amax"])
PLAIN_FACTS = frozenset(["device", "dtype", "ndim", "dim", "is_cuda", "requires_grad"])


def attribute_of(node: fx.Node) -> str:
    """Which attribute is asked for; "" where none is."""
    return str(node.args[1]) if node.op == "call_function" and node.target is getattr else ""


HOMES: tuple[object, ...] = (torch, functional, operator, nn.utils.rnn)


def name_of(node: fx.Node) -> str:
    """The name of one of torch's functions, or of a method; "" for functions of others."""
    if node.op == "call_method":
        return str(node.target)
    name = getattr(node.target, "__name__", "")
    known = node.op == "call_function" and any(getattr(home, name, None) is node.target for home in HOMES)
    return name if known or attribute_of(node) else ""


def is_before_last(axis: object, rank: int | None) -> bool:
    """Whether an axis is none of the features: negative ones are; others where the number of axes is known."""
    if isinstance(axis, bool) or not isinstance(axis, int):
        return False
    return axis <= -2 or (axis >= 0 and rank is not None and axis < rank - 1)


def _less(rank: int | None, by: int = 1) -> int | None:
    return None if rank is None else rank - by


def taken(index: object, rank: int | None) -> Value | None:
    """Features after indexing; None where their own axis is, or may be, indexed."""
    entries = list(index) if isinstance(index, tuple) else [index]
    if entries[-1] is None or any(isinstance(e, list | bool) for e in entries):
        return None
    if Ellipsis in [e for e in entries if not isinstance(e, fx.Node)]:
        whole = entries[-1] == slice(None) and entries[-1] is not Ellipsis
        return Value(FEATURES) if whole or entries[-1] is Ellipsis else None
    axes = [e for e in entries if e is not None]
    if len(axes) == rank and axes[-1] == slice(None):
        axes = axes[:-1]
    if any(isinstance(e, fx.Node) for e in axes):  # a mask, or tensors of positions
        return Value(FEATURES) if len(axes) < (rank or 2) else None
    if rank is None or len(axes) >= rank:
        return None
    gone, new = sum(isinstance(e, int) for e in axes), sum(e is None for e in entries)
    return Value(FEATURES, rank - gone + new)


def rearranged(
    name: str, rest: Sequence[object], options: Mapping[str, object], rank: int | None
) -> Value | None:
    """Features after a function of axes."""
    if name == "permute":
        order = list(rest[0]) if rest and isinstance(rest[0], list | tuple) else rest
        last = order[-1] if order else None
        return Value(FEATURES, len(order)) if last in (-1, len(order) - 1) else None
    if name in ("transpose", "swapaxes"):
        axes = [*rest, *options.values()]
        return (
            Value(FEATURES, rank) if len(axes) == 2 and all(is_before_last(a, rank) for a in axes) else None
        )
    if name == "flatten":
        end = options.get("end_dim", rest[1] if len(rest) > 1 else -1)
        return Value(FEATURES) if is_before_last(end, rank) else None
    axis = options.get("dim", rest[0] if rest else None)
    if name == "squeeze" or name in REDUCED:
        kept = options.get("keepdim", rest[1] if len(rest) > 1 else False)
        return Value(FEATURES, rank if kept else _less(rank)) if is_before_last(axis, rank) else None
    if name == "unsqueeze":
        return Value(FEATURES, _less(rank, -1)) if is_before_last(axis, rank) else None
    if name == "max":
        return Value("maximum") if is_before_last(axis, rank) else None
    return None
