"""Models without their dead units: every layer smaller, nothing else different.

`compact` works in place on any model that says its units, or whose units are those of torch's own recurrent modules;
it is tried on a copy first, and the model itself is changed only when that has gone well. `Compaction.apply` shrinks
whatever else has the shape of a parameter (masks, averages, an optimizer's buffers) in the same way, so that training
can go on.

Source: W. Wen et al., "Learning Intrinsic Sparse Structures within Long Short-Term Memory", 2018, arXiv:1709.05027.
Differs from the original: it only counts what could be removed; here it is removed, and the proof is printed.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.core.limits import NonNegative
from sparsernn.core.plain import Json
from sparsernn.deploy.dead_units import dead_units, removable, weak_units
from sparsernn.structure import torch_units
from sparsernn.structure.observation import Trial, copied, distance, same
from sparsernn.structure.resize_torch import settle
from sparsernn.structure.units import Cut, Units, remove


@dataclass(frozen=True)
class Compaction:
    """What was removed.

    Attributes:
        names: of the layers (groups of units), from the bottom.
        keep: for each a bool tensor (width before,), True where the unit stayed.
        cuts: name of every parameter that shrank -> how.
        parameters: how many there were and are; tied ones count once.
        weak: units per layer that were not 0 and were made so, because their norm was below the tolerance.
    """

    names: tuple[str, ...]
    keep: tuple[Tensor, ...]
    cuts: Mapping[str, Cut]
    parameters: tuple[int, int]
    weak: tuple[int, ...] = field(default=())

    @property
    def widths(self) -> list[tuple[str, int, int]]:
        """Name, units before, units after of each layer."""
        return [(name, len(k), int(k.sum())) for name, k in zip(self.names, self.keep, strict=True)]

    def apply(self, tree: Json) -> Json:
        """Shrink what belongs to the parameters in nested dicts of tensors.

        Args:
            tree: a tensor below the key of a parameter's name is cut if it has that parameter's old shape, one below
                a layer's name if it has a number for each unit, (width,), and truth values wherever there is one for
                each unit of all layers, one after the other; everything else is passed on.
        """
        return (
            {key: self._part(key, value) for key, value in tree.items()}
            if isinstance(tree, Mapping)
            else tree
        )

    def _part(self, key: str, value: object) -> object:
        if isinstance(value, Mapping):
            return self.apply(value)
        if not isinstance(value, Tensor):
            return value
        if key in self.cuts:
            return self.shrunk(key, value)
        all_units = torch.cat(self.keep)
        if key in self.names and value.shape == self.keep[self.names.index(key)].shape:
            return value[self.keep[self.names.index(key)]].contiguous()
        return value[all_units] if value.dtype == torch.bool and value.shape == all_units.shape else value

    def shrunk(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of parameter `name`: cut if it has the old shape, else as it is (counters, for example)."""
        cut = self.cuts.get(name)
        return cut.apply(tensor) if cut is not None and tensor.shape == cut.old.shape else tensor


def compact(
    model: nn.Module,
    criterion: str = "any",
    *,
    tol: float = 0.0,
    exact: bool = True,
    units: Sequence[Units] | None = None,
    consumers: Mapping[str, Iterable[str]] | None = None,
    example: object = None,
) -> Compaction:
    """Remove the dead units of a model, in place; where anything speaks against it, the model stays as it is.

    Who reads the last layer of a module of torch is found by following its outputs through the forward pass. Where
    that cannot be done, or they go into anything that may need every unit (a norm, attention, something that is added
    to them), it takes an `example`: a smaller copy has to put out the same numbers for it.

    An `nn.LSTM`, `nn.GRU` or `nn.RNN` all of whose layers and directions end with one width stays what it is;
    otherwise it becomes an `nn.uneven.UnevenRNN`, the same object with the same parameter names.

    Args:
        model: with a method `units()`, as those of this library have, or with torch's own recurrent modules in it.
        criterion: see `deploy.dead_units.CRITERIA`; all of them are exact.
        tol: units whose norm is below this are made 0 first, at least 0; anything above 0 may change the outputs.
        exact: refuse to change the outputs; False allows `tol`.
        units: the groups, where the model does not say them.
        consumers: for modules of torch alone, which modules read them: see `structure.torch_units.units_of`. States
            that are given to them must be 0 where a silent unit is.
        example: inputs of a call: a tuple of arguments, a dict of named ones, or the only one. The model and the
            smaller copy read it in float64 and evaluation mode, and have to put out the same; final states of
            recurrent modules that are returned as they are do not count, for they lose the units.

    Returns:
        What was removed, to shrink other things alike. Optimizers have to be made anew (or be given the new
        parameters): those of the layers are new objects.

    Raises:
        InputError: nothing can be removed, `tol` with `exact`, a layer whose units cannot be told apart, readers that
            cannot be told, or outputs that would be others. The model is unchanged.

    Example:
        >>> from sparsernn.models.language_model import LanguageModel
        >>> model = LanguageModel(10, 4, [8, 6])
        >>> model.units()[0].zero(torch.tensor([0, 3]))
        >>> compact(model).widths
        [('layer 0', 8, 6), ('layer 1', 6, 6)]
        >>> model(torch.zeros(3, 1, dtype=torch.long)).state[0][0].shape
        torch.Size([1, 6])
    """
    check_tolerance(tol, exact)
    groups = list(units) if units is not None else units_of(model, consumers, example)
    _check_owned(model, groups)
    weak = weak_units(groups, tol)
    gone = removable(groups, dead_units(groups, criterion, weak))
    if not any(bool(found.any()) for found in gone):
        raise InputError(nothing(groups))
    if example is not None:
        check_the_same(model, groups, gone, weak, example)
    return _without(model, groups, gone, weak)


def _without(
    model: nn.Module, groups: Sequence[Units], gone: Sequence[Tensor], weak: Sequence[Tensor]
) -> Compaction:
    for group, found in zip(groups, weak, strict=True):
        group.zero(found.nonzero().squeeze(1))
    return cut_down(model, groups, gone, weak)


def check_the_same(
    model: nn.Module, groups: Sequence[Units], gone: Sequence[Tensor], weak: Sequence[Tensor], example: object
) -> None:
    """Refuse to remove the units `gone` where a copy without them puts out other numbers for the example.

    Where weak units were made 0 (`exact=False`), the copy only has to run and put out as many numbers.

    Raises:
        InputError: it does not, or the model cannot read the example.
    """
    whole = Trial(model, example)
    wanted = whole.read()
    if not same(wanted, whole.read()):
        raise InputError("the model puts out other numbers each time it reads the example.")
    smaller, own = copied((model, list(groups)))
    _without(smaller, own, gone, weak)
    after, count_gone = Trial(smaller, example), sum(int(found.sum()) for found in gone)
    try:
        found = after.read()
    except InputError as fault:
        raise InputError(f"without its {count_gone} dead units {fault}") from fault
    shapes = [t.shape for t in found] == [t.shape for t in wanted]
    changed = any(bool(part.any()) for part in weak)
    if not (shapes and (changed or same(wanted, found))):
        most = max(distance(a, b) for a, b in zip(wanted, found, strict=True)) if shapes else None
        by = "have another shape" if most is None else f"differ by {most:.2g}"
        raise InputError(
            f"without its {count_gone} dead units the model's outputs for the example {by}: something else than "
            "the weights that were counted reads them."
        )
    if not whole.trains() and (why := after.trains()):
        raise InputError(f"without its {count_gone} dead units, in training, {why}")


def cut_down(
    model: nn.Module, groups: Sequence[Units], gone: Sequence[Tensor], weak: Sequence[Tensor] = ()
) -> Compaction:
    """Remove the units `gone`, (width,) bool per group, whatever they do; `weak` is only counted.

    Raises:
        InputError: there are none.
    """
    if not any(bool(found.any()) for found in gone):
        raise InputError(nothing(groups))
    names = {id(p): name for name, p in model.named_parameters()}
    before = count(model)
    keep = tuple(~found for found in gone)
    cuts = {names[id(cut.old)]: cut for cut in remove(model, groups, keep)}
    changed = {id(cut.new) for cut in cuts.values()}
    for module in model.modules():
        if any(id(p) in changed for p in module.parameters(recurse=False)):
            settle(module)
    return Compaction(
        tuple(group.name for group in groups),
        keep,
        cuts,
        (before, count(model)),
        tuple(int(found.sum()) for found in weak),
    )


def compacted(model: nn.Module, criterion: str = "any", **settings: Json) -> nn.Module:
    """A smaller copy; the model itself stays as it is. Arguments as in `compact`.

    >>> from sparsernn.models.language_model import LanguageModel
    >>> model = LanguageModel(10, 4, [8])
    >>> model.units()[0].zero(torch.tensor([0, 3]))
    >>> compacted(model).layers[0].hidden_size, model.layers[0].hidden_size
    (6, 8)
    """
    smaller = copy.deepcopy(model)
    compact(smaller, criterion, **settings)
    return smaller


def check_tolerance(tol: float, exact: bool) -> None:
    """Refuse a tolerance that is negative, or one where the outputs must not change."""
    check_value("tol", tol, NonNegative)
    if tol and exact:
        raise InputError(f"tol is {tol!r} and makes units 0 that are not; say exact=False to allow it.")


def units_of(
    model: nn.Module, consumers: Mapping[str, Iterable[str]] | None = None, example: object = None
) -> list[Units]:
    """The units of a model that can be removed, as far as its geometry goes; see `structure.torch_units.units_of`.

    Raises:
        InputError: there are none.
    """
    found = torch_units.units_of(model, consumers, removable=True, example=example)
    if not found:
        raise InputError(
            f"all units of this {type(model).__name__} are its outputs, so that none can be removed."
        )
    return found


def _check_owned(model: nn.Module, groups: Sequence[Units]) -> None:
    """Refuse a weight that is computed from others whenever it is used."""
    own = {id(p) for p in model.parameters()}
    for s in (s for group in groups for s in group.slices):
        if id(s.parameter) not in own:
            raise InputError(
                f"'{s.name}' of a {type(s.module).__name__} is no parameter of the model; make it one (undo its "
                "parametrization or pruning) before units are removed."
            )


def nothing(groups: Sequence[Units]) -> str:
    """The sentence for a model all of whose units are needed."""
    parts = ", ".join(f"{group.width} in '{group.name}'" for group in groups)
    norms = torch.cat([group.norms() for group in groups])
    return (
        f"no unit can be removed: all are needed, or would have to go with others ({parts}; the smallest norm is "
        f"{float(norms.min()):.3g})."
    )


def count(model: nn.Module) -> int:
    """Parameters of a model, tied ones once."""
    return sum(p.numel() for p in model.parameters())
