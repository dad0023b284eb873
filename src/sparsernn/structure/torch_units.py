"""The hidden units of torch's own recurrent modules, and who reads them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.registry import suggest
from sparsernn.structure.mixed_width import UnevenRNN
from sparsernn.structure.readers import Consumers, Reader, ReaderSearch, Weight
from sparsernn.structure.units import Slice, Units

RECURRENT: tuple[type, ...] = (nn.LSTM, nn.GRU, nn.RNN, UnevenRNN)
"""The modules whose units are known, and not those of classes derived from them."""


def units_of(
    model: nn.Module, consumers: Consumers | None = None, *, removable: bool = False, example: object = None
) -> list[Units]:
    """The units of a model: what its method `units` says, or those of its `nn.LSTM`, `nn.GRU`, `nn.RNN`.

    A layer below another one of the same module is read by that one. Who reads the last layer is found by following
    its outputs through the forward pass: each `nn.Linear`, or recurrent module of torch, that they reach unmixed.
    Where the forward pass cannot be followed, or does something else with them, the readers have to be named, or seen
    at work on an example. Where a reader's weight is that of an `nn.Embedding` too, unit k is feature k of the
    embedding as well; whoever reads that is found, or named, in the same way.

    Args:
        model: any module; left as it is.
        consumers: name of a recurrent module (or tied embedding) -> names of the modules that read its output, all of
            it, such as {"rnn": ["head"]}. An empty list: nobody's weights are counted.
        removable: leave out the units that are the model's outputs: those of a last layer with an empty list, or
            whose outputs the model returns, or of a recurrent module that is the whole model; and refuse what cannot
            be told apart when units go.
        example: inputs of a call, to see who reads: a tuple of arguments, a dict of named ones, or the only one.

    Raises:
        InputError: no recurrent module, a name that is not in the model, a reader that does not fit or cannot be
            told.

    Example:
        >>> class Model(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.rnn, self.head = nn.LSTM(3, 5, num_layers=2), nn.Linear(5, 7)
        ...     def forward(self, x):
        ...         return self.head(self.rnn(x)[0])
        >>> [(units.name, units.width, len(units.slices)) for units in units_of(Model())]
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
    if removable and type(model) in RECURRENT:
        consumers = {"": [], **(consumers or {})}
    modules = _recurrent(model, consumers or {})
    for name, module in modules.items():
        _check_own(name, module)
    search = ReaderSearch(model, consumers or {}, removable=removable, example=example)
    modules = {name: module for name, module in modules.items() if not search.is_idle(name)}
    readers = {name: search.of(name) for name in modules}
    if removable:
        _check_shared(readers)
    found = []
    for name, module in modules.items():
        layers = _layers(name, module, [(r, search.of_table(r)) for r in readers[name]])
        known = (readers[name] and name not in search.returned) or not removable
        found += layers if known else layers[: -len(_ends(module))]
    return found


def _recurrent(model: nn.Module, consumers: Consumers) -> dict[str, Json]:
    """The recurrent modules by name."""
    modules = {name: m for name, m in model.named_modules() if type(m) in RECURRENT}
    if not modules:
        raise InputError("the model has neither a method units() nor an nn.LSTM, nn.GRU or nn.RNN.")
    known = [name for name, _ in model.named_modules()]
    tables = [name for name, m in model.named_modules() if isinstance(m, nn.Embedding)]
    for name, readers in consumers.items():
        if name not in modules and name not in tables:
            raise InputError(f"consumers: '{name}' is no recurrent module; those are {', '.join(modules)}.")
        if isinstance(readers, str):
            raise InputError(f"consumers of '{name}' are {readers!r}; they must be a list of module names.")
        for reader in readers:
            if reader not in known:
                raise InputError(
                    f"consumers of '{name}': there is no module '{reader}'.{suggest(reader, known)}"
                )
    return modules


def _check_own(name: str, module: nn.RNNBase) -> None:
    """Refuse a weight that a pruning or parametrization computes anew at every use: it can neither shrink nor go."""
    for layer in range(module.num_layers):
        for end in _ends(module):
            for kind in ("ih", "hh"):
                weight = f"weight_{kind}_l{layer}{end}"
                if module._parameters.get(weight) is None:
                    raise InputError(
                        f"'{weight}' of '{name}' is computed from other tensors at every use (by pruning, weight "
                        "drop or a parametrization), so that its units can neither be shrunk nor removed; make it a "
                        "parameter again."
                    )


def _check_shared(readers: Mapping[str, tuple[Reader, ...]]) -> None:
    """Refuse a weight that reads two modules: unit k of one would have to go with unit k of the other."""
    seen: dict[int, str] = {}
    for name, found in readers.items():
        for reader in found:
            first = seen.setdefault(id(getattr(*reader.weights[0])), name)
            if first != name:
                raise InputError(
                    f"'{reader.name}' reads both '{first}' and '{name}', so that none of their units can go alone."
                )


def _ends(module: nn.RNNBase) -> tuple[str, ...]:
    return ("", "_reverse") if module.bidirectional else ("",)


def _hidden(module: nn.RNNBase, suffix: str) -> int:
    """Units of a layer and direction, read off its weights."""
    return int(getattr(module, f"weight_hh_{suffix}").shape[1])


def _layers(name: str, module: nn.RNNBase, readers: list[tuple[Reader, tuple[Weight, ...]]]) -> list[Units]:
    """Units of every layer and direction, from the bottom; `readers` of the last, each with who reads its table."""
    found, ends = [], _ends(module)
    for layer in range(module.num_layers):
        last = layer == module.num_layers - 1
        above = [(module, f"weight_ih_l{layer + 1}{end}") for end in ends]
        reading = [w for reader, _ in readers for w in reader.weights] if last else above
        fed = [w for _, tied in readers for w in tied] if last else []
        first = 0
        for end in ends:
            suffix = f"l{layer}{end}"
            label = f"{name} layer {layer}{end.replace('_', ' ')}".strip()
            units = Units(label, _hidden(module, suffix), _owned(module, suffix), _silence(module, suffix))
            found.append(_read(units, reading, fed, first))
            first += units.width
    return found


def _read(units: Units, reading: Iterable[Weight], fed: Iterable[Weight], first: int) -> Units:
    """The units with the columns of those who read them, and of those who read what is tied to them."""
    columns = tuple(Slice(owner, weight, 1, (first,)) for owner, weight in reading)
    inputs = tuple(Slice(owner, weight, 1, (first,), reads=False) for owner, weight in fed)
    return replace(units, slices=units.slices + columns + inputs, silence=units.silence + inputs)


def _rows(module: nn.RNNBase, suffix: str) -> range:
    """Where the gates begin in the rows of a layer's weights."""
    width = _hidden(module, suffix)
    return range(0, getattr(module, f"weight_hh_{suffix}").shape[0], width)


def _owned(module: nn.RNNBase, suffix: str) -> tuple[Slice, ...]:
    """What the units of one layer and direction own inside the module."""
    rows = tuple(_rows(module, suffix))
    kinds = ("ih", "hh")
    weights = tuple(Slice(module, f"weight_{kind}_{suffix}", 0, rows) for kind in kinds)
    biases = tuple(Slice(module, f"bias_{kind}_{suffix}", 0, rows, in_norm=False) for kind in kinds)
    return (*weights, Slice(module, f"weight_hh_{suffix}", 1), *(biases if module.bias else ()))


def _silence(module: nn.RNNBase, suffix: str) -> tuple[Slice, ...]:
    """The rows with their biases of what is written into the unit: g of the LSTM, n of the GRU."""
    rows = _rows(module, suffix)
    written = (rows[min(2, len(rows) - 1)],)
    names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if module.bias else ()))
    return tuple(Slice(module, f"{name}_{suffix}", 0, written) for name in names)
