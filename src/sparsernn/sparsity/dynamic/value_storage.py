"""Keeping the existing values of masked weights, and nothing between them, while a run trains.

A parameter whose module can do with its existing values alone (`WeightPlaces.form`) becomes a vector of them, under
the same name and identity; its gradient has that shape, and every buffer of the optimizer that holds one number for
each weight is cut down to it. What optimizers, clipping and averages do is done number by number, so none of them has
to know. Dense matrices come back where somebody looks at all weights: mask updates, reports, the run's end.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from sparsernn.sparsity.dynamic.masked_tensors import MaskedTensor
from sparsernn.sparsity.optimizer_state import Optimizers, transform_buffers
from sparsernn.structure.weight_places import Stored, WeightPlaces


class ValueStorage:
    """The masked tensors of one sparsifier, kept dense or as values.

    Args:
        tensors: with their parameters and masks.
        places: the record of each, by name.

    Attributes:
        on: whether what can be is kept as values.
        waits: whether that is put off, because few weights are absent as yet.
        apart_from: identities of parameters that stay dense.
        layouts: of those tensors whose buffers, and unless `lent` weights, are values at the moment.
    """

    def __init__(self, tensors: Sequence[MaskedTensor], places: Mapping[str, WeightPlaces]) -> None:
        self.tensors, self.places = tensors, places
        self.on = self.waits = False
        self.apart_from: set[int] = set()
        self.layouts: dict[str, Stored] = {}

    def switched_on(self, optimizers: Optimizers, apart_from: Sequence[Tensor]) -> "Condensed":
        """A context inside which what can be is kept as values; after it everything is dense again."""
        return Condensed(self, optimizers, apart_from)

    def settle(self, optimizers: Optimizers) -> None:
        """Where it is on: bring down to values what is dense and need not be."""
        for tensor in self.tensors if self.on and not self.waits else ():
            if tensor.name not in self.layouts and self._fits(tensor):
                self._condense(tensor, optimizers)

    def spread(self, optimizers: Optimizers) -> None:
        """Everything is dense again."""
        for tensor in self.tensors:
            if tensor.name in self.layouts:
                self._spread(tensor, optimizers)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Inside, the weights are dense, to be looked at; the buffers stay as they are, and no step is taken."""
        held = [(t, t.parameter.data) for t in self.tensors if self._is_condensed(t)]
        for tensor, _ in held:
            self._lend(tensor)
        try:
            yield
        finally:
            for tensor, values in held:
                reshape(tensor.parameter, values)
                self.places[tensor.name].stored = self.layouts[tensor.name]

    @contextmanager
    def opened(self, tensor: MaskedTensor, optimizers: Optimizers) -> Iterator[None]:
        """Inside, a tensor and its buffers are dense; after it they are kept as before, by the mask it has then."""
        if tensor.name not in self.layouts:
            yield
            return
        self._spread(tensor, optimizers)
        yield
        self._condense(tensor, optimizers)

    def _fits(self, tensor: MaskedTensor) -> bool:
        form, parameter = self.places[tensor.name].form, tensor.parameter
        free = id(parameter) not in self.apart_from and parameter.device.type == "cpu"
        return form is not None and free and bool(tensor.mask.any())

    def _is_condensed(self, tensor: MaskedTensor) -> bool:
        return self.places[tensor.name].stored is not None

    def _condense(self, tensor: MaskedTensor, optimizers: Optimizers) -> None:
        places = self.places[tensor.name]
        assert places.form is not None
        layout = places.form(tensor.mask)
        transform_buffers(optimizers, tensor.parameter, layout.take)
        reshape(tensor.parameter, layout.take(tensor.parameter))
        self.layouts[tensor.name] = places.stored = layout
        for flags in (tensor.present, tensor.seen):
            flags.put_away()
        places.mask = torch.empty(tensor.shape, dtype=torch.bool, device="meta")

    def _lend(self, tensor: MaskedTensor) -> None:
        reshape(tensor.parameter, self.layouts[tensor.name].put(tensor.parameter))
        self.places[tensor.name].stored = None

    def _spread(self, tensor: MaskedTensor, optimizers: Optimizers) -> None:
        self._lend(tensor)
        for flags in (tensor.present, tensor.seen):
            flags.take_out()
        self.places[tensor.name].mask = tensor.mask
        layout = self.layouts.pop(tensor.name)
        transform_buffers(optimizers, tensor.parameter, layout.put, (layout.size,))


class Condensed(AbstractContextManager[None]):
    """See `ValueStorage.switched_on`; one that is dropped without being left does nothing any more."""

    def __init__(self, storage: ValueStorage, optimizers: Optimizers, apart_from: Sequence[Tensor]) -> None:
        self.storage, self.optimizers = storage, optimizers
        self.apart_from = {id(parameter) for parameter in apart_from}

    def __enter__(self) -> None:
        """Bring down to values what can be, here and whenever more can be."""
        self.storage.on, self.storage.apart_from = True, self.apart_from
        self.storage.settle(self.optimizers)

    def __exit__(self, *error: object) -> None:
        """Everything is dense again."""
        self.storage.on = False
        self.storage.spread(self.optimizers)


def reshape(parameter: nn.Parameter, data: Tensor) -> None:
    """Another shape for the same parameter; a gradient of the old one would fit nothing.

    As long as somebody holds a loss of before, the parameter's place in that graph is reused, which expects the old
    shape; torch makes a new one where the type changes, and so it does, for a moment.
    """
    parameter.grad = None
    other = torch.float16 if data.dtype != torch.float16 else torch.bfloat16
    parameter.data = data.new_empty(0, dtype=other)
    parameter.data = data
