"""Who reads the outputs of torch's recurrent modules in somebody's model: named, traced, or seen at work."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.structure.dataflow import Graph, Untraceable, Uses, reads, said, width_of
from sparsernn.structure.observation import observed

Consumers = Mapping[str, Iterable[str]]
Weight = tuple[nn.Module, str]
"""A module and the name of a weight, (rows, features read)."""


@dataclass(frozen=True)
class Reader:
    """A module that reads all outputs of a recurrent one.

    >>> [name for _, name in Reader("b", nn.GRU(2, 3, bidirectional=True)).weights]
    ['weight_ih_l0', 'weight_ih_l0_reverse']
    """

    name: str
    module: nn.Module

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The weights whose columns the outputs are multiplied by."""
        if isinstance(self.module, nn.Linear):
            return ((self.module, "weight"),)
        ends = ("", "_reverse") if self.module.bidirectional else ("",)
        return tuple((self.module, f"weight_ih_l0{end}") for end in ends)


Readers = tuple[Reader, ...]


class ReaderSearch:
    """Finds who reads a module of a model.

    Args:
        model: left as it is.
        consumers: what is said about it.
        removable: whether units are to be removed, so that nobody else may need them, or their number.
        example: inputs of a call, or None.

    Attributes:
        returned: names of the modules whose outputs are outputs of the model too, as far as was seen.
    """

    def __init__(self, model: nn.Module, consumers: Consumers, *, removable: bool, example: object) -> None:
        self.model, self.consumers = model, consumers
        self.removable, self.example = removable, example
        self.returned: set[str] = set()

    def is_idle(self, name: str) -> bool:
        """Whether the forward pass is known not to call a module, and nobody says otherwise: it is left as it is."""
        if isinstance(self._graph, Graph):
            idle = not self._graph.uses(name).called
        else:
            idle = self.example is not None and not observed(self.model, name, self.example).called
        return idle and name not in self.consumers and self.model is not self.model.get_submodule(name)

    def of(self, name: str) -> Readers:
        """Who reads the last layer of the recurrent module `name`.

        Raises:
            InputError: that cannot be told, or they are no modules whose columns can be cut.
        """
        module: nn.Module = self.model.get_submodule(name)
        if getattr(module, "proj_size", 0):
            raise InputError(
                f"an LSTM with proj_size={module.proj_size} puts out no units of its own; it must be 0."
            )
        width = width_of(module)
        return self._found(name, f"the {width} outputs of '{name}'", width, f"{{'{name}': ['head']}}")

    def of_table(self, reader: Reader) -> tuple[Weight, ...]:
        """The weights that read the embedding whose table is the reader's weight; none where there is no such table.

        Raises:
            InputError: they cannot be told, or somebody else has that weight too.
        """
        weight = getattr(*reader.weights[0])
        holders = [
            (name, module)
            for name, module in self.model.named_modules()
            if module is not reader.module and any(p is weight for p in module.parameters(recurse=False))
        ]
        found: list[Weight] = []
        for name, module in holders:
            found += self._of_holder(name, module, reader)
        return tuple(found)

    def _of_holder(self, name: str, module: nn.Module, reader: Reader) -> list[Weight]:
        if not isinstance(module, nn.Embedding):
            if self.removable:
                raise InputError(
                    f"'{name}' has the weight of '{reader.name}' too, so that no column of it can go."
                )
            return []
        what = f"the embedding '{name}', tied to '{reader.name}',"
        readers = self._found(name, what, module.embedding_dim, f"{{'{name}': ['rnn']}}")
        if self.removable and (name in self.returned or module.max_norm is not None):
            why = "the model returns" if name in self.returned else "max_norm keeps the length of"
            raise InputError(f"{why} the vectors of {what} so that none of their features can go.")
        return [weight for one in readers for weight in one.weights]

    def _found(self, name: str, what: str, width: int, hint: str) -> Readers:
        named = self.consumers.get(name)
        if named is not None:
            said_so = tuple(_fitting(Reader(one, self.model.get_submodule(one)), width) for one in named)
            if said_so and self.removable and self.example is None:
                self._check_named(name, what, said_so)
            return said_so
        uses = self._seen(name, what, hint)
        if uses.returned:
            self.returned.add(name)
        return tuple(
            _fitting(Reader(one, self.model.get_submodule(one)), width) for one in sorted(uses.readers)
        )

    @cached_property
    def _graph(self) -> Graph | Untraceable:
        try:
            return Graph(self.model)
        except Untraceable as fault:
            return fault

    def _traced(self, name: str) -> Uses | None:
        """What the graph says; None where there is none, or it does not call the module."""
        uses = self._graph.uses(name) if isinstance(self._graph, Graph) else Uses()
        return uses if uses.called else None

    def _seen(self, name: str, what: str, hint: str) -> Uses:
        uses = self._traced(name)
        if self.example is not None and (uses is None or uses.unclear):
            uses = observed(self.model, name, self.example)
        hint = f"name its readers, such as consumers={hint}, or give an example=... to see them at work"
        if uses is None or not uses.called:
            raise InputError(f"who reads {what} cannot be told, for {self._why_not(name)}; {hint}.")
        if uses.unclear:
            raise InputError(
                f"who reads {what} cannot be told, for they go into {said(uses.unclear)}; {hint}."
            )
        if self.removable and uses.binding and self.example is None:
            raise InputError(
                f"nothing of {what} can be removed without an example=... to compare on: their number matters to "
                f"{said(uses.binding)}."
            )
        return uses

    def _why_not(self, name: str) -> str:
        if isinstance(self._graph, Untraceable):
            return f"the forward pass cannot be traced ({self._graph})"
        return f"the forward pass does not call '{name}'"

    def _check_named(self, name: str, what: str, named: Readers) -> None:
        """Where the forward pass can be followed, it must not say anything else."""
        uses = self._traced(name)
        if uses is None:
            return
        if uses.returned:
            self.returned.add(name)
        modules = [reader.module for reader in named]
        more = {one for one in uses.readers if self.model.get_submodule(one) not in modules}
        if more:
            quoted = said(f"'{one}'" for one in more)
            raise InputError(f"{what} are read by {quoted} too; name all their readers.")
        if uses.unclear or uses.binding:
            raise InputError(
                f"nothing of {what} can be removed without an example=... to compare on: they go into, or their "
                f"number matters to, {said(uses.unclear | uses.binding)}."
            )


def _fitting(reader: Reader, width: int) -> Reader:
    if reads(reader.module) != width:
        raise InputError(
            f"'{reader.name}' ({type(reader.module).__name__}) cannot read {width} outputs; "
            "readers are an nn.Linear or a recurrent module of torch with inputs of that number."
        )
    return reader
