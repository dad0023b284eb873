"""The hidden units of torch's own recurrent modules, and who reads them."""

from collections.abc import Iterable, Mapping

from torch import nn

from sparsernn.errors import InputError
from sparsernn.registry import suggest
from sparsernn.units import Slice, Units

GATES: dict[type, int] = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}
"""Rows that a unit owns in each weight of torch's recurrent modules."""


def units_of(model: nn.Module, consumers: Mapping[str, Iterable[str]] | None = None) -> list[Units]:
    """The units of a model: what its method `units` says, or those of its `nn.LSTM`, `nn.GRU`, `nn.RNN`.

    A layer below another one of the same module is read by that one. The last layer's reader is the only `nn.Linear`,
    or recurrent module of torch, of the model with an input of that width; where there is none, or more than one,
    it has to be said.

    Args:
        model: any module.
        consumers: name of a recurrent module -> names of the modules that read its output, all of it, such as
            {"rnn": ["head"]}. An empty list: nobody's weights are counted.

    Raises:
        InputError: no recurrent module, a name that is not in the model, a reader that does not fit or cannot be
            told.

    Example:
        >>> model = nn.ModuleDict({"rnn": nn.LSTM(3, 5, num_layers=2), "head": nn.Linear(5, 7)})
        >>> [(units.name, units.width, len(units.slices)) for units in units_of(model)]
        [('rnn layer 0', 5, 6), ('rnn layer 1', 5, 6)]
    """
    own = getattr(model, "units", None)
    if callable(own):
        if consumers:
            raise InputError(
                "consumers are given for a model that says itself who reads its units; leave them out."
            )
        found: list[Units] = own()
        return found
    modules = {name: m for name, m in model.named_modules() if type(m) in GATES}
    if not modules:
        raise InputError("the model has neither a method units() nor an nn.LSTM, nn.GRU or nn.RNN.")
    _check_names(model, modules, consumers or {})
    return [
        units
        for name, module in modules.items()
        for units in _layers(name, module, _readers(model, name, module, (consumers or {}).get(name)))
    ]


def _check_names(
    model: nn.Module, modules: Mapping[str, nn.Module], consumers: Mapping[str, Iterable[str]]
) -> None:
    known = [name for name, _ in model.named_modules()]
    for name, readers in consumers.items():
        if name not in modules:
            raise InputError(f"consumers: '{name}' is no recurrent module; those are {', '.join(modules)}.")
        if isinstance(readers, str):
            raise InputError(f"consumers of '{name}' are {readers!r}; they must be a list of module names.")
        for reader in readers:
            if reader not in known:
                raise InputError(
                    f"consumers of '{name}': there is no module '{reader}'.{suggest(reader, known)}"
                )


def _readers(
    model: nn.Module, name: str, module: nn.Module, named: Iterable[str] | None
) -> tuple[tuple[nn.Module, str], ...]:
    """Modules and their weights, (rows, features read), that read the last layer of `module`."""
    if named is not None:
        return tuple(w for reader in named for w in _fitting(reader, model.get_submodule(reader), module))
    width = _width(module)
    found = [(other, m) for other, m in model.named_modules() if other != name and width in _input_sizes(m)]
    if len(found) != 1:
        seen = ", ".join(f"'{other}'" for other, _ in found) or "none"
        raise InputError(
            f"who reads the {width} outputs of '{name}' cannot be told (modules that wide: {seen}); "
            f"name them, such as consumers={{'{name}': ['head']}}."
        )
    return _fitting(found[0][0], found[0][1], module)


def _width(module: nn.Module) -> int:
    assert isinstance(module, nn.RNNBase)
    if module.proj_size:
        raise InputError(
            f"an LSTM with proj_size={module.proj_size} puts out no units of its own; it must be 0."
        )
    return module.hidden_size * (2 if module.bidirectional else 1)


def _input_sizes(module: nn.Module) -> tuple[int, ...]:
    if isinstance(module, nn.Linear):
        return (module.in_features,)
    return (module.input_size,) if isinstance(module, nn.RNNBase) else ()


def _fitting(name: str, reader: nn.Module, module: nn.Module) -> tuple[tuple[nn.Module, str], ...]:
    width = _width(module)
    if width not in _input_sizes(reader):
        raise InputError(
            f"'{name}' ({type(reader).__name__}) cannot read {width} outputs; "
            "readers are an nn.Linear or a recurrent module of torch with inputs of that number."
        )
    if isinstance(reader, nn.Linear):
        return ((reader, "weight"),)
    return tuple((reader, f"weight_ih_l0{end}") for end in _ends(reader))


def _ends(module: nn.Module) -> tuple[str, ...]:
    return ("", "_reverse") if getattr(module, "bidirectional", False) else ("",)


def _layers(name: str, module: nn.Module, last: tuple[tuple[nn.Module, str], ...]) -> list[Units]:
    """Units of every layer and direction, from the bottom."""
    assert isinstance(module, nn.RNNBase)
    found, width, ends = [], module.hidden_size, _ends(module)
    for layer in range(module.num_layers):
        above = tuple((module, f"weight_ih_l{layer + 1}{end}") for end in ends)
        readers = last if layer == module.num_layers - 1 else above
        for number, end in enumerate(ends):
            columns = tuple(Slice(owner, weight, 1, (number * width,)) for owner, weight in readers)
            label = f"{name} layer {layer}{end.replace('_', ' ')}".strip()
            suffix = f"l{layer}{end}"
            found.append(Units(label, width, _owned(module, suffix) + columns, _silence(module, suffix)))
    return found


def _owned(module: nn.Module, suffix: str) -> tuple[Slice, ...]:
    """What the units of one layer and direction own inside the module."""
    assert isinstance(module, nn.RNNBase)
    rows = tuple(gate * module.hidden_size for gate in range(GATES[type(module)]))
    kinds = ("ih", "hh")
    weights = tuple(Slice(module, f"weight_{kind}_{suffix}", 0, rows) for kind in kinds)
    biases = tuple(Slice(module, f"bias_{kind}_{suffix}", 0, rows, in_norm=False) for kind in kinds)
    return (*weights, Slice(module, f"weight_hh_{suffix}", 1), *(biases if module.bias else ()))


def _silence(module: nn.Module, suffix: str) -> tuple[Slice, ...]:
    """The rows with their biases of what is written into the unit: g of the LSTM, n of the GRU."""
    assert isinstance(module, nn.RNNBase)
    rows = (min(2, GATES[type(module)] - 1) * module.hidden_size,)
    names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if module.bias else ()))
    return tuple(Slice(module, f"{name}_{suffix}", 0, rows) for name in names)
