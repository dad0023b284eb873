"""In how many bits products are taken: float32, TF32 or bfloat16.

Weights, masks, averages, the optimizer's buffers, norms, losses and carried states are float32 whatever is chosen.
With bfloat16 torch's autocast rounds the operands of products in training steps, and what it hands on from them;
evaluation is float32. Loops and kernels of this library that have no rounded form are called through `exactly`,
which keeps them in float32.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from sparsernn.core.device_names import PrecisionName
from sparsernn.core.errors import InputError

KINDS = ("cpu", "cuda")
SIXTEEN = (torch.float16, torch.bfloat16)
T = TypeVar("T")
P = ParamSpec("P")


class Precision:
    """How the training steps of a run multiply.

    Args:
        name: "float32"; "tf32", float32 whose products keep 10 bits after the point on NVIDIA devices of 2020 and
            later; "bfloat16", whose numbers keep 7.
        device: where the run computes.

    Raises:
        InputError: "tf32" elsewhere than on a CUDA device.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with Precision("bfloat16", torch.device("cpu")).step(layer):
        ...     torch.mm(torch.ones(1, 2), layer.weight).dtype, layer(torch.ones(1, 2)).dtype
        (torch.bfloat16, torch.float32)
    """

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        if name == "tf32" and device.type != "cuda":
            raise InputError(
                f"precision is 'tf32', which is a way of NVIDIA's devices to multiply, and the run computes on "
                f"'{device}'; take float32 or bfloat16."
            )
        self.name, self.device = name, device
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
            torch.backends.cudnn.allow_tf32 = name == "tf32"

    def check(self, model: nn.Module) -> None:
        """Before training.

        Raises:
            InputError: bfloat16, and a part of the model is to multiply its existing weights only, which it does in
                float32.
        """
        asked = [name for name, part in model.named_modules() if getattr(part, "product", "") == "sparse"]
        if self.name == "bfloat16" and asked:
            raise InputError(
                f"precision is 'bfloat16', but '{asked[0]}' has product: sparse, whose kernels multiply in float32; "
                "take precision: float32 or product: dense."
            )

    @contextmanager
    def step(self, model: nn.Module) -> Iterator[None]:
        """Inside it products are taken as chosen, and what the model gives is in float32 for losses and penalties."""
        if self.name != "bfloat16":
            yield
            return
        hook = model.register_forward_hook(lambda module, given, output: widened(output))
        try:
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                yield
        finally:
            hook.remove()


def rounding(device: torch.device) -> torch.dtype | None:
    """What operands of products are rounded to now on a device; None: they are not.

    >>> rounding(torch.device("cpu"))
    """
    on = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None


def exactly(function: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Call a function without rounding: what is given to it in 16 bits comes in float32. Nothing happens elsewhere.

    >>> with torch.autocast("cpu", dtype=torch.bfloat16):
    ...     exactly(torch.mm, torch.ones(1, 1, dtype=torch.bfloat16), torch.ones(1, 1)).dtype
    torch.float32
    """
    if not any(map(torch.is_autocast_enabled, KINDS)):
        return function(*given, **named)
    wide = {name: widened(value) for name, value in named.items()}
    with ExitStack() as off:
        for kind in KINDS:
            off.enter_context(torch.autocast(kind, enabled=False))
        return function(*map(widened, given), **wide)


def widened(tree: Any) -> Any:
    """Tensors of 16 bits in float32, alone or in lists, tuples, named tuples and dataclasses; all else as it is.

    >>> widened((torch.ones(1, dtype=torch.bfloat16), None))
    (tensor([1.]), None)
    """
    if isinstance(tree, Tensor):
        return tree.float() if tree.dtype in SIXTEEN else tree
    if isinstance(tree, list):
        return [widened(part) for part in tree]
    if isinstance(tree, tuple):
        parts = [widened(part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    if is_dataclass(tree) and not isinstance(tree, type):
        before = {f.name: getattr(tree, f.name) for f in fields(tree)}
        after = {name: widened(value) for name, value in before.items()}
        same = all(after[name] is value for name, value in before.items())
        return tree if same else replace(tree, **after)
    return tree
