"""Whether a saved state is one of the sparsifier that is to go on from it, before anything is taken from it."""

from collections.abc import Collection, Mapping
from typing import NoReturn

from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.core.saved_tree import misfit, wrong_keys


def check_keys(state: object, wanted: Collection[str], *, more: bool = False) -> None:
    """Refuse the state of another kind of sparsifier in one sentence.

    Args:
        state: what was saved.
        wanted: the keys that a state of this kind has.
        more: whether others are fine.

    Raises:
        InputError: it is no mapping, or has other keys.

    Example:
        >>> check_keys({"masks": {}}, [])
        Traceback (most recent call last):
        sparsernn.core.errors.InputError: the saved state is of another sparsifier (it has 'masks'); load it into ...
    """
    if not isinstance(state, Mapping):
        raise InputError(
            f"the saved state is a {type(state).__name__}; it must be what state_dict() returned."
        )
    if why := wrong_keys(state, dict.fromkeys(sorted(wanted), object), more=more):
        refuse(f"it {why}")


def check_tensors(what: str, saved: object, own: Mapping[str, Tensor]) -> None:
    """Refuse saved tensors that would be cut, stretched or rounded on their way into the own ones.

    Args:
        what: what they are called in the state.
        saved: name -> tensor; it may have more names.
        own: name -> tensor of the right shape; where it holds truths, so must the saved one.

    Raises:
        InputError: one is missing or does not fit.
    """
    if not isinstance(saved, Mapping):
        refuse(f"'{what}' is a {type(saved).__name__}")
    for name, tensor in own.items():
        if name not in saved:
            refuse(f"'{what}' has no '{name}'")
        if why := misfit(saved[name], tensor, same_type=False):
            refuse(f"'{name}' of '{what}' {why}")


def refuse(why: str) -> NoReturn:
    """Raise the InputError.

    Example:
        >>> refuse("it has 2 members and not 3")
        Traceback (most recent call last):
        sparsernn.core.errors.InputError: the saved state is of another sparsifier (it has 2 members and not 3); ...
    """
    raise InputError(
        f"the saved state is of another sparsifier ({why}); load it into one of the same method and model."
    )
