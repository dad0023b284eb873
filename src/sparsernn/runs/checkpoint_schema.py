"""What must be in a run's two checkpoints before anything is taken from them: keys, types, shapes, finite numbers.

A checksum says that a file is as it was written. It does not say that it was written for this run, or by this
library; a tensor of one row would be copied into every row without a word.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields

import torch
from torch import Tensor

from sparsernn.contracts import Optimizer
from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.saved_tree import Types, misfit, wrong_keys

LAST_KEYS: dict[str, Types] = {
    "recipe": str,
    "model": Mapping,
    "optimizer": Mapping,
    "sparsifier": Mapping,
    "boundary": Mapping,
    "position": Mapping,
    "generators": Mapping,
    "history": Mapping,
}
BEST_KEYS: dict[str, Types] = {
    "recipe": str,
    "model": Mapping,
    "sparsifier": Mapping,
    "averaged": bool,
    "valid": Mapping,
    "position": Mapping,
}
NUMBER = (int, float)


def told(error: BaseException) -> str:
    """An error in a few words, for the middle of a sentence.

    >>> told(KeyError("state")), told(ValueError("one line\\nand more"))
    ("KeyError: 'state'", 'ValueError: one line')
    """
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200].rstrip('.')}"


def check_keys(tree: Mapping[str, Json], wanted: Mapping[str, Types], source: object) -> None:
    """Raise InputError unless each key is there with a value of its type.

    >>> check_keys({"recipe": "small"}, {"recipe": str}, "last")
    """
    if why := wrong_keys(tree, wanted):
        raise InputError(f"{source} {why}, so it is not this kind of checkpoint.")


def check_position(position: Mapping[str, Json], kind: type, source: object) -> None:
    """Raise InputError unless `position` is one of the dataclass `kind`, with numbers of the right sign."""
    known = {field.name for field in fields(kind)}
    for name, value in position.items():
        fits = name in known and (
            isinstance(value, Mapping) or value is None or isinstance(value, (bool, *NUMBER))
        )
        if not fits:
            raise InputError(f"{source} says '{name}' is {str(value)[:60]!r}, which is no place in a run.")
    for name in ("epoch", "window", "step"):
        value = position.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < (-1 if name == "epoch" else 0):
            raise InputError(f"{source} says '{name}' is {str(value)[:60]!r}; it must be a whole number.")


def check_tensors(saved: object, own: Mapping[str, Tensor], source: object, finite: bool = True) -> None:
    """Raise InputError unless the saved tensors have the names, types and shapes of the own, and are finite.

    >>> check_tensors({"w": torch.zeros(2)}, {"w": torch.zeros(3)}, "last")
    Traceback (most recent call last):
    ...
    sparsernn.core.errors.InputError: last holds another model: 'w' has shape (2,) there and (3,) here.
    """
    if not isinstance(saved, Mapping):
        raise InputError(f"{source} holds a {type(saved).__name__} where tensors by name are needed.")
    if own.keys() != saved.keys():
        odd = sorted(map(str, own.keys() ^ saved.keys()))[0]
        raise InputError(f"{source} holds another model: the tensor '{odd}' is on one side only.")
    for name, tensor in own.items():
        _check_tensor(name, saved[name], tensor, source)
        if finite:
            check_finite(name, saved[name], source)


def _check_tensor(name: str, saved: object, own: Tensor, source: object) -> None:
    if why := misfit(saved, own):
        raise InputError(f"{source} holds another model: '{name}' {why}.")


def check_finite(name: str, tensor: Tensor, source: object) -> None:
    """Raise InputError where a number is NaN or infinite."""
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(
            f"{source} cannot be used: '{name}' holds numbers that are NaN or infinite, so nothing can be computed "
            "with it."
        )


def check_state(state: object, own: object, source: object, path: str = "") -> None:
    """Compare a nested state with one of the same object: where both have a tensor, type and shape are the same.

    Raises:
        InputError: they are not, or a number is not finite.
    """
    for place, tensor in _tensors(state, path):
        check_finite(place, tensor, source)
    if isinstance(own, Mapping) and isinstance(state, Mapping):
        for key in own.keys() & state.keys():
            check_state(state[key], own[key], source, f"{path}/{key}")
    elif isinstance(own, Tensor) and state is not None:
        _check_tensor(path, state, own, source)


def check_buffers(state: Mapping[str, Json], optimizer: Optimizer, source: object) -> None:
    """What an optimizer keeps beside a parameter is of its shape, or one number."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, held in state["state"].items():
        for name, value in held.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameters[int(number)].shape:
                raise InputError(
                    f"{source} holds another model: the optimizer's '{name}' of parameter {number} has shape "
                    f"{tuple(value.shape)}."
                )
            if isinstance(value, float) and math.isnan(value):
                raise InputError(f"{source} cannot be used: the optimizer's '{name}' is NaN.")


def _tensors(tree: object, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _tensors(value, f"{path}/{key}")
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from _tensors(value, f"{path}/{number}")
