"""Models as plain data beside their tensors, so that a packed file says what to compute with what lies in it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sparsernn.contracts import Model
from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.registry import make, name_of
from sparsernn.deploy.lstm_tensors import count_layers
from sparsernn.models import MODELS

RETRIES = 4
"""How often a constructor may put a parameter in its place; tied ones have several."""


class Tensors(dict[str, Tensor]):
    """Tensors by name, and what a packed file says beside them.

    Attributes:
        recipe: as it was given to `pack`; under "model" what the tensors are the weights of, if the file says so.
    """

    def __init__(self, tensors: Mapping[str, Tensor], recipe: Mapping[str, Json]) -> None:
        super().__init__(tensors)
        self.recipe = dict(recipe)


def described(model: nn.Module) -> dict[str, Json]:
    """A model as a recipe has it, in its present sizes: {"model": {name, settings}}.

    {"undescribed": its class} of another program's, also of a class derived from one of ours, which may compute
    something else with the same names; {} of one that was saved as a whole before models knew how they were made.

    Example:
        >>> from sparsernn.models.sequence_model import SequenceModel
        >>> described(SequenceModel(3, 2, [5], "gru"))
        {'model': {'name': 'sequence_model', 'input_size': 3, 'output_size': 2, 'hidden_sizes': [5], 'layer': 'gru'}}
    """
    name = next((name for name, made in MODELS.items() if made is type(model)), None)
    if name is None:
        return {"undescribed": type(model).__name__}
    if not isinstance(model, Model) or not model.made_with:
        return {}
    return {"model": {"name": name, **model.resized(model.made_with)}}


def rebuilt_model(tensors: Tensors) -> nn.Module | None:
    """The model that a packed file describes, with its weights; None where it describes none.

    Whoever wrote the file, no more memory is asked for than its tensors take: what the description would make is held
    against them, by names and shapes, before any of it is made.

    Raises:
        InputError: the description and the tensors do not fit each other, or the model is one that nobody here can
            make, whose tensors may be called as those of another one are.
    """
    if "model" not in tensors.recipe and (unknown := tensors.recipe.get("undescribed")):
        raise InputError(
            f"the packed file holds the weights of a {str(unknown)[:60]}, and not what it computes with them; load "
            "them into one (load_state_dict), and give that."
        )
    spec, sizes = tensors.recipe.get("model"), tensors.recipe.get("sizes")
    if not isinstance(spec, Mapping):
        return None
    own: dict[str, Json] = {**(sizes if isinstance(sizes, Mapping) else {}), **spec}
    if sizes is None and _lacks_sizes(own):  # a file of before, of which names alone can tell
        count_layers(tensors)
        return None
    try:
        with torch.random.fork_rng(devices=[]), _no_more_than(RETRIES * len(tensors) + RETRIES):
            with torch.device("meta"):
                _check_fit(make("model", MODELS, own), tensors)
            model = make("model", MODELS, own)
        model.load_state_dict(tensors, strict=False)
        _check_loaded(model, tensors)
    except (InputError, RuntimeError, TypeError) as fault:
        why = str(fault).partition("\n")[0].rstrip(".")
        raise InputError(
            f"these are not the tensors of the {name_of(spec)[:60]!r} that the packed file describes ({why}); pack "
            "the model again."
        ) from fault
    return model.eval()


def _lacks_sizes(spec: Mapping[str, Json]) -> bool:
    made = MODELS.get(name_of(spec))
    parameters = {} if made is None else inspect.signature(made).parameters
    return any(p.default is p.empty and name not in spec for name, p in parameters.items())


def _check_fit(wanted: nn.Module, found: Mapping[str, Tensor]) -> None:
    """The same names and shapes; of a tied weight one name is enough, and what is computed anew may be there."""
    needed = {*dict(wanted.named_parameters()), *wanted.state_dict()} - _second_names(wanted)
    known = {**wanted.state_dict(), **dict(wanted.named_buffers())}
    odd = sorted((needed - found.keys()) | (found.keys() - known.keys()))
    odd += [name for name in sorted(found.keys() & known.keys()) if known[name].shape != found[name].shape]
    if odd:
        raise InputError(f"'{odd[0][:60]}' is missing or odd")


def _second_names(model: nn.Module) -> set[str]:
    """Of tied weights."""
    return set(model.state_dict()) - {*dict(model.named_parameters()), *dict(model.named_buffers())}


def _check_loaded(model: nn.Module, found: Mapping[str, Tensor]) -> None:
    """Two names of one weight have the same numbers."""
    for name, tensor in model.state_dict().items():
        if name in found and not torch.equal(tensor, found[name].to(tensor)):
            raise InputError(f"'{name[:60]}' is not what another name of it says")


@contextmanager
def _no_more_than(parameters: int) -> Iterator[None]:
    """Ends a constructor that makes more parameters than a file can have."""
    made = 0

    def count(*given: object) -> None:
        nonlocal made
        made += 1
        if made > parameters:
            raise InputError("it would have more parameters than the file")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
