"""Keeping the existing values of masked weights, and nothing between them, while a run trains.

A parameter whose module can do with its existing values alone (`WeightPlaces.form`) becomes a vector of them, under
the same name and identity; its gradient has that shape, and every buffer of the optimizer that holds one number for
each weight is cut down to it. What optimizers, clipping and averages do is done number by number, so none of them has
to know. Dense matrices come back where somebody looks at all weights: mask updates, reports, the run's end.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

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

    def switched_on(
        self, model: nn.Module, optimizers: Optimizers, apart_from: Sequence[Tensor]
    ) -> "Condensed":
        """A context inside which what can be is kept as values; after it everything is dense again.

        The `state_dict` of the model is dense inside it too, for values mean nothing without the mask of the moment.
        """
        return Condensed(self, model, optimizers, apart_from)

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

    def __init__(
        self, storage: ValueStorage, model: nn.Module, optimizers: Optimizers, apart_from: Sequence[Tensor]
    ) -> None:
        self.storage, self.model, self.optimizers = storage, model, optimizers
        self.apart_from = {id(parameter) for parameter in apart_from}
        self.handles = ExitStack()

    def __enter__(self) -> None:
        """Bring down to values what can be, here and whenever more can be."""
        self.storage.on, self.storage.apart_from = True, self.apart_from
        states = DenseStates(self.model, self.storage)
        for handle in (
            self.model.register_state_dict_post_hook(states),  # type: ignore[no-untyped-call]
            self.model.register_load_state_dict_pre_hook(states.take),  # type: ignore[no-untyped-call]
        ):
            self.handles.enter_context(handle)
        self.storage.settle(self.optimizers)

    def __exit__(self, *error: object) -> None:
        """Everything is dense again."""
        self.storage.on = False
        self.handles.close()
        self.storage.spread(self.optimizers)


class DenseStates:
    """Hooks by which a model's `state_dict` has matrices where parameters hold values, and by which it takes such.

    They know the places alone, which the model's layers have as well, so that a copy of the model has both.
    """

    def __init__(self, model: nn.Module, storage: ValueStorage) -> None:
        mine = {id(t.parameter): storage.places[t.name] for t in storage.tensors}
        named = model.named_parameters(remove_duplicate=False)
        self.places = {name: mine[id(parameter)] for name, parameter in named if id(parameter) in mine}

    def __call__(self, module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
        """Values, as their matrix."""
        for name, places in self.places.items():
            if places.stored is not None and f"{prefix}{name}" in state:
                state[f"{prefix}{name}"] = places.stored.put(state[f"{prefix}{name}"])

    def take(self, module: nn.Module, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
        """A matrix, as the values at the present places."""
        for name, places in self.places.items():
            given = state.get(f"{prefix}{name}")
            if places.stored is not None and given is not None and given.shape == places.stored.shape:
                state[f"{prefix}{name}"] = places.stored.take(given)


def reshape(parameter: nn.Parameter, data: Tensor) -> None:
    """Another shape for the same parameter; a gradient of the old one would fit nothing.

    As long as somebody holds a loss of before, the parameter's place in that graph is reused, which expects the old
    shape; torch makes a new one where the type changes, and so it does, for a moment.
    """
    parameter.grad = None
    other = torch.float16 if data.dtype != torch.float16 else torch.bfloat16
    parameter.data = data.new_empty(0, dtype=other)
    parameter.data = data
