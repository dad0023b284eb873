"""A model seen at work on an example: what it puts out, in float64 and without chance, and who reads a module.

Who reads whom is found by disturbing one feature at a time: a reader is a module whose input changes in that column
alone; and they are all its readers if nothing that the model puts out changes where they are kept from seeing it.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sparsernn.core.errors import InputError
from sparsernn.core.states import alike
from sparsernn.core.streams import begin_dropout, stream
from sparsernn.structure.dataflow import Uses, is_lstm, reads, width_of
from sparsernn.structure.mixed_width import UnevenRNN

Copied = TypeVar("Copied")
Features = TypeVar("Features", Tensor, PackedSequence)

SAMPLED = 5
"""Features that are disturbed, spread over all: chance would have to strike as often."""


class Trial:
    """A copy of a model, in float64 and evaluation mode, that reads one example again and again.

    Args:
        model: left as it is.
        example: the arguments of a call: a tuple, a dict of named ones, or the only one.

    Raises:
        InputError: the model cannot be copied.

    Example:
        >>> Trial(nn.Linear(2, 3), torch.zeros(4, 2)).read()[0].shape
        torch.Size([4, 3])
    """

    def __init__(self, model: nn.Module, example: object) -> None:
        self.model = copied(model).double().eval()
        self.args, self.kwargs = _call(example)
        self._states: list[object] = []
        for module in self.model.modules():
            if isinstance(module, nn.RNNBase | UnevenRNN):
                module.register_forward_hook(self._keep_state)

    def _keep_state(
        self, module: nn.Module, args: object, output: tuple[Tensor | PackedSequence, Iterable[object]]
    ) -> None:
        self.set_apart(module, output[1])

    def set_apart(self, module: nn.Module, state: Iterable[object]) -> None:
        """A final state is no number to compare where the model puts it out as it is: it may have another form."""
        self._states += [state, *state] if is_lstm(module) else [state]

    @torch.no_grad()
    def read(self) -> list[Tensor]:
        """All numbers of the output, but those of final states of recurrent modules, each as it is.

        Raises:
            InputError: the model cannot read the example, or puts out nothing but final states.
        """
        self._states.clear()
        with torch.random.fork_rng():
            begin_dropout(0)
            try:
                output = self.model(*copy.deepcopy(self.args), **copy.deepcopy(self.kwargs))
            except Exception as fault:  # whatever somebody's forward pass does
                raise InputError(
                    f"the model cannot read the example in float64 ({first_line(fault)})."
                ) from fault
        states = {id(part) for part in self._states}
        found = list(_leaves(output, states))
        if not found:
            raise InputError(
                "the model puts out nothing but final states for the example; nothing can be compared."
            )
        return found

    def trains(self) -> str:
        """ "" if the copy reads the example in training mode too; else why not."""
        self.model.train()
        try:
            self.read()
        except InputError as fault:
            return str(fault)
        finally:
            self.model.eval()
        return ""


def observed(model: nn.Module, name: str, example: object) -> Uses:
    """Where the outputs of the module `name` go when the model reads an example.

    Args:
        model: left as it is.
        name: of a recurrent module of torch, or an embedding.
        example: see `Trial`.

    Raises:
        InputError: the model cannot read the example, or puts out other numbers each time.

    Example:
        >>> model = nn.Sequential(nn.Embedding(5, 3), nn.Sigmoid(), nn.Linear(3, 1))
        >>> observed(model, "0", torch.tensor([[1, 2]])).readers
        {'2'}
    """
    return _Observer(model, name, example).uses()


Inputs = dict[str, list[Tensor]]
"""Name of a module -> what it read, call by call."""


class _Observer:
    """Runs with one feature of a module disturbed."""

    def __init__(self, model: nn.Module, name: str, example: object) -> None:
        self.trial = Trial(model, example)
        self.source = self.trial.model.get_submodule(name)
        self.width = width_of(self.source)
        self.candidates = {
            other: module
            for other, module in self.trial.model.named_modules()
            if reads(module) == self.width and module is not self.source
        }
        self.put_out: list[Tensor] = []

    def uses(self) -> Uses:
        """What is seen."""
        calm_inputs, calm = self._run(None)
        again = self._run(None)[1]
        if not same(calm, again):
            raise InputError("the model puts out other numbers each time it reads the example.")
        found = Uses(called=bool(self.put_out), returned=self._is_returned())
        seen: dict[str, set[bool]] = {}
        for k in sorted({round(step * (self.width - 1) / (SAMPLED - 1)) for step in range(SAMPLED)}):
            inputs, _ = self._run(k)
            for other in self.candidates:
                seen.setdefault(other, set()).update(_only_column(calm_inputs[other], inputs[other], k))
            readers = {other for other, kinds in seen.items() if True in kinds}
            if not same(
                calm, self._run(k, {other: calm_inputs[other] for other in readers})[1], but=self._ours()
            ):
                found.unclear.add("something else than a module that reads them all")
        found.readers = {other for other, kinds in seen.items() if True in kinds}
        found.unclear |= {
            f"'{other}', which reads other things made of them"
            for other in found.readers
            if False in seen[other]
        }
        return found

    def _ours(self) -> set[int]:
        return {number for number, leaf in enumerate(self.last) if any(leaf is part for part in self.put_out)}

    def _is_returned(self) -> bool:
        return bool(self._ours())

    def _run(
        self, k: int | None, calmed: Mapping[str, list[Tensor]] | None = None
    ) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
        """Inputs of all candidates and the outputs; feature k disturbed, and not for those whose inputs are given."""
        inputs: Inputs = {other: [] for other in self.candidates}
        self.put_out.clear()
        noise = stream("disturbance", k or 0)
        handles = [self.source.register_forward_hook(lambda m, a, out: self._disturbed(out, k, noise))]
        for other, module in self.candidates.items():
            given = iter(calmed[other]) if calmed and other in calmed else None
            handles.append(module.register_forward_pre_hook(_recorder(inputs[other], given)))
        try:
            self.last = self.trial.read()
        finally:
            for handle in handles:
                handle.remove()
        return inputs, self.last

    def _disturbed(self, output: Any, k: int | None, noise: torch.Generator) -> Any:
        pair = isinstance(output, tuple) and not isinstance(output, PackedSequence)
        y, state = output if pair else (output, None)
        if k is not None:
            y = _changed(y, k, noise)
            state = None if state is None else _changed_state(state, k, self.source, noise)
        self.put_out.append(y.data if isinstance(y, PackedSequence) else y)
        if state is not None:
            self.trial.set_apart(self.source, state)
        return (y, state) if pair else y


def same(first: list[Tensor], second: list[Tensor], but: Iterable[int] = ()) -> bool:
    """Whether two models, or one twice, put out the same up to rounding."""
    if [t.shape for t in first] != [t.shape for t in second]:
        return False
    skipped = set(but)
    pairs = [pair for n, pair in enumerate(zip(first, second, strict=True)) if n not in skipped]
    return all(distance(a, b) <= CLOSE * max(1.0, _largest(a)) for a, b in pairs)


CLOSE = 1e-9
"""Larger differences are no rounding: sums of float64 in another order differ by about 1e-13 of what they sum."""


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference of two tensors of a shape.

    The same infinity, or no number, in both is no difference; in one alone it is an infinite one.

    >>> distance(torch.tensor([1.0, torch.inf]), torch.tensor([1.5, torch.inf]))
    0.5
    >>> distance(torch.tensor([torch.nan]), torch.tensor([0.0]))
    inf
    """
    if not a.numel():
        return 0.0
    a, b = a.double(), b.double()
    alike = (a == b) | (a.isnan() & b.isnan())
    return float((a - b).abs().nan_to_num(nan=torch.inf, posinf=torch.inf).masked_fill(alike, 0.0).max())


def _largest(a: Tensor) -> float:
    return float(a.double().abs().nan_to_num(nan=0.0, posinf=0.0).max()) if a.numel() else 0.0


def first_line(fault: BaseException) -> str:
    """What an exception says first, without its full stop."""
    return (str(fault).strip() or type(fault).__name__).splitlines()[0].rstrip(".")


def copied(thing: Copied) -> Copied:
    """A deep copy.

    Raises:
        InputError: of something that cannot be copied.
    """
    try:
        return copy.deepcopy(thing)
    except Exception as fault:  # whatever somebody's module holds
        raise InputError(f"the model cannot be copied to try it out ({first_line(fault)}).") from fault


def _call(example: object) -> tuple[tuple[object, ...], dict[str, object]]:
    """The arguments of a call, floats as float64."""
    if isinstance(example, Mapping):
        return (), {name: doubled(value) for name, value in example.items()}
    many = example if isinstance(example, tuple) and not isinstance(example, PackedSequence) else (example,)
    return tuple(doubled(value) for value in many), {}


def doubled(value: object) -> object:
    """Floating tensors as float64, in tuples, lists and dicts too."""
    if isinstance(value, Tensor):
        return value.detach().double() if value.is_floating_point() else value
    if isinstance(value, PackedSequence):
        return value.double() if value.data.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: doubled(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return alike(value, (doubled(part) for part in value))
    return value


def _leaves(output: object, without: set[int]) -> Iterator[Tensor]:
    """The numbers in whatever a model puts out."""
    if id(output) in without:
        return
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, bool | int | float):
        yield torch.tensor(output)
    elif isinstance(output, PackedSequence):
        yield output.data
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from _leaves(part, without)
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _leaves(part, without)
    elif is_dataclass(output):
        for one in fields(output):
            yield from _leaves(getattr(output, one.name), without)


def _recorder(
    inputs: list[Tensor], given: Iterator[Tensor] | None
) -> Callable[[nn.Module, tuple[Any, ...]], object]:
    """Notes the first input of every call; with `given`, those are read instead."""

    def note(module: nn.Module, args: tuple[Any, ...]) -> object:
        if not args:
            return None
        x = args[0]
        inputs.append((x.data if isinstance(x, PackedSequence) else x).detach())
        if given is None:
            return None
        calm = next(given)
        return (x._replace(data=calm) if isinstance(x, PackedSequence) else calm, *args[1:])

    return note


def _only_column(calm: list[Tensor], disturbed: list[Tensor], k: int) -> set[bool]:
    """For every call whose input changed: whether it did in column k alone."""
    kinds = set()
    for a, b in zip(calm, disturbed, strict=False):
        changed = (a != b).reshape(-1, a.shape[-1]).any(0) if a.shape == b.shape else torch.ones(k + 2)
        if bool(changed.any()):
            kinds.add(bool(changed[k]) and int(changed.sum()) == 1)
    return kinds


def _changed(y: Features, k: int, noise: torch.Generator) -> Features:
    """Features (..., W) with feature k another one."""
    if isinstance(y, PackedSequence):
        return y._replace(data=_changed(y.data, k, noise))
    y = y.clone()
    y[..., k] += torch.randn(y.shape[:-1], generator=noise, dtype=torch.double).to(y)
    return y


def _changed_state(state: Any, k: int, module: nn.Module, noise: torch.Generator) -> Any:
    """A final state whose last layer has another value of unit k of its outputs."""
    if is_lstm(module):
        return tuple(_changed_layers(part, k, module, noise) for part in state)
    return _changed_layers(state, k, module, noise)


def _changed_layers(layers: Any, k: int, module: nn.Module, noise: torch.Generator) -> Any:
    parts = list(layers)
    at = -2 if module.bidirectional else -1
    if k >= parts[at].shape[-1]:
        at, k = at + 1, k - parts[at].shape[-1]
    parts[at] = _changed(parts[at], k, noise)
    return torch.stack(parts) if isinstance(layers, Tensor) else tuple(parts)
