"""Where a run computes, and the one place that moves things there.

A run has one device. Its model is moved before anything is built on its parameters, so that states, masks, averages
and whatever else is made like a parameter lies beside it. Random numbers that decide (weights, masks, batches) are
drawn on the CPU and then moved: a seed means the same everywhere. Dropouts draw from the device's own generator.
"""

import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from sparsernn.core.checks import check_value
from sparsernn.core.device_names import DeviceName
from sparsernn.core.errors import InputError
from sparsernn.core.states import alike

CPU = torch.device("cpu")
STAYING = frozenset(["lengths"])
"""Fields that the CPU reads: how long the sequences of a padded batch are, which torch asks for there."""
RESIDENT_UP_TO = 2**30
"""Bytes of data that are kept on the device for a whole run; more are sent batch by batch."""


def chosen(name: str) -> torch.device:
    """The device that a recipe or a command asks for.

    Args:
        name: "auto" ("cuda" where there is one, else "cpu"), "cpu", "cuda" (the current one, which is the first
            unless the program or torchrun chose another), "cuda:0", "cuda:1" ..., or "mps".

    Raises:
        InputError: another word, or a device that this machine does not have.

    Example:
        >>> chosen("cpu")
        device(type='cpu')
    """
    check_value("the device", name, DeviceName)
    if name == "auto":
        return chosen("cuda") if torch.cuda.is_available() else CPU
    if name == "mps" and not torch.backends.mps.is_available():
        raise _absent(name, "torch finds no Metal device here")
    if not name.startswith("cuda"):
        return torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise _absent(name, "torch finds no CUDA device here")
    index = int(name.partition(":")[2] or torch.cuda.current_device())
    if index >= count:
        raise _absent(name, f"torch finds {count} here, counted from 0")
    return torch.device("cuda", index)


def _absent(name: str, why: str) -> InputError:
    return InputError(
        f"the device is '{name}', but {why}; 'cpu' is always there and 'auto' takes what is there."
    )


def wait_for(device: torch.device) -> None:
    """Until all that was sent to a device is done, where work is sent ahead; for those who take the time.

    >>> wait_for(torch.device("cpu"))
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def same_bits() -> None:
    """Ask torch for algorithms that give the same bits every time, from now on, or an error where it has none.

    cuBLAS reads its part from the environment when it is first used.

    >>> import os
    >>> same_bits()
    >>> torch.are_deterministic_algorithms_enabled(), "CUBLAS_WORKSPACE_CONFIG" in os.environ
    (True, True)
    >>> torch.use_deterministic_algorithms(False)
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def described(device: torch.device) -> str:
    """A device in words, for plans and records: with its name where it has one.

    >>> described(torch.device("cpu"))
    'cpu'
    """
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are; the CPU for one that has none.

    >>> device_of(nn.Linear(1, 1)), device_of(nn.Tanh())
    (device(type='cpu'), device(type='cpu'))
    """
    first = next(module.parameters(), None)
    return CPU if first is None else first.device


T = TypeVar("T")


def moved(tree: T, device: torch.device) -> T:
    """A tree with its tensors on a device; what holds none of them comes back as it is.

    Args:
        tree: tensors, lists, tuples, named tuples, mappings and dataclasses of such in any nesting. Fields
            that are called `lengths` stay where they are.
        device: tensors that are there already are not copied. Copies to a CUDA device are not waited for.

    Example:
        >>> batch = {"words": torch.zeros(2), "scale": 1.0, "state": (torch.ones(1), None)}
        >>> moved(batch, torch.device("cpu"))["words"] is batch["words"]
        True
    """
    return cast(T, _moved(tree, device))


def _moved(tree: object, device: torch.device) -> object:
    if isinstance(tree, Tensor):
        # only towards CUDA is it safe not to wait: the numbers are put aside at once, and its work is done in order
        return tree if tree.device == device else tree.to(device, non_blocking=device.type == "cuda")
    if isinstance(tree, Mapping):
        return {key: _moved(value, device) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_moved(value, device) for value in tree]
    if isinstance(tree, tuple):
        names = getattr(tree, "_fields", ("",) * len(tree))
        pairs = list(zip(names, tree, strict=True))
        parts = [value if name in STAYING else _moved(value, device) for name, value in pairs]
        if all(new is old for new, old in zip(parts, tree, strict=True)):
            return tree
        return alike(tree, parts)
    if is_dataclass(tree) and not isinstance(tree, type):
        before = {f.name: getattr(tree, f.name) for f in fields(tree) if f.name not in STAYING}
        after = {name: _moved(value, device) for name, value in before.items()}
        return tree if all(after[name] is before[name] for name in after) else replace(tree, **after)
    return tree


def resident(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Data that are read all the time: on the device where they fit, where they are otherwise.

    >>> resident({"train": torch.arange(3)}, torch.device("cpu"))
    {'train': tensor([0, 1, 2])}
    """
    size = sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors.values()}.values())
    if size > RESIDENT_UP_TO:
        return dict(tensors)
    known: dict[int, Tensor] = {}  # splits may be one tensor under several names
    return {name: known.setdefault(id(t), moved(t, device)) for name, t in tensors.items()}


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global generators that a run on this device draws from, each on the CPU.

    >>> sorted(generator_states(torch.device("cpu")))
    ['torch']
    """
    own = {} if device.type == "cpu" else {device.type: generator_state(device)}
    return {"torch": torch.get_rng_state(), **own}


def set_generator_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Let the generators go on from there; one whose state is not among them (another device's run) stays.

    >>> set_generator_states(generator_states(torch.device("cpu")), torch.device("cpu"))
    """
    torch.set_rng_state(states["torch"])
    if device.type != "cpu" and device.type in states:
        set_generator_state(states[device.type], device)


def generator_state(device: torch.device) -> Tensor:
    """The state of the global generator that draws on this device, on the CPU.

    >>> generator_state(torch.device("cpu")).equal(torch.get_rng_state())
    True
    """
    if device.type == "cpu":
        return torch.get_rng_state()
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.mps.get_rng_state()


def set_generator_state(state: Tensor, device: torch.device) -> None:
    """Let the generator that draws on this device go on from a state of such a one.

    >>> set_generator_state(generator_state(torch.device("cpu")), torch.device("cpu"))
    """
    if device.type == "cpu":
        torch.set_rng_state(state)
    elif device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.mps.set_rng_state(state)
