"""Parameters from which the weight in use is computed: whether zeros among them are zeros in use."""

import copy
import re

import torch
from torch import nn
from torch.nn.utils import parametrize

from sparsernn.core.errors import InputError

_ORIGINAL = re.compile(r"(?:(?P<owner>.*)\.)?parametrizations\.(?P<weight>[^.]+)\.original(?P<number>\d*)")
_OLD_WEIGHT_NORM = re.compile(r"(?P<weight>.+)_[gv]")


def check_zeros_count(model: nn.Module, name: str) -> None:
    """Refuse a parameter whose zeros are lost on the way to the weight that is used.

    Without a parametrization, and under `torch.nn.utils.prune`, the parameter (times a mask) is the weight. Under one
    of torch's parametrizations it is tried: half of a copy is put to 0, and the weight has to be 0 there, and finite.

    Args:
        model: the parameter's.
        name: of the parameter, as `named_parameters` has it.

    Raises:
        InputError: naming the weight and the parametrization.

    Example:
        >>> layer = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))
        >>> check_zeros_count(layer, "parametrizations.weight.original")
        Traceback (most recent call last):
        sparsernn.core.errors.InputError: 'weight' is computed by _Orthogonal from 'parametrizations... ...
    """
    found = _ORIGINAL.fullmatch(name)
    if found:
        module = model.get_submodule(found["owner"] or "")
        chain: parametrize.ParametrizationList = module.parametrizations[found["weight"]]  # type: ignore[index,assignment]
        if not _passes_zeros(chain, f"original{found['number']}"):
            weight = ".".join(filter(None, (found["owner"], found["weight"])))
            _refuse(weight, " and ".join(type(step).__name__ for step in chain), name)
        return
    owner, _, own = name.rpartition(".")
    module, old = model.get_submodule(owner), _OLD_WEIGHT_NORM.fullmatch(own)
    if old and hasattr(module, f"{old['weight']}_g") and hasattr(module, f"{old['weight']}_v"):
        _refuse(".".join(filter(None, (owner, old["weight"]))), "weight norm", name)


def _refuse(weight: str, by: str, name: str) -> None:
    raise InputError(
        f"'{weight}' is computed by {by} from '{name}', whose zeros do not stay zeros on the way (or become 0/0); "
        f"exclude it (exclude=['{name}']), or remove the parametrization first."
    )


@torch.no_grad()
def _passes_zeros(chain: parametrize.ParametrizationList, original: str) -> bool:
    """Whether zeroing elements, single ones and whole rows, zeroes the computed weight there and leaves it finite."""
    twin = copy.deepcopy(chain).eval()
    tensor: torch.Tensor = getattr(twin, original)
    if twin().shape != tensor.shape:
        return False
    gone = torch.zeros(tensor.shape, dtype=torch.bool)
    gone.view(-1)[::2] = True
    gone[0] = True
    gone = gone.to(tensor.device)
    tensor.masked_fill_(gone, 0.0)
    weight = twin()
    return bool(torch.isfinite(weight).all()) and not bool(weight[gone].any())
