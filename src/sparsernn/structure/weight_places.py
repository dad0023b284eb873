"""Which weights of a parameter exist: told by whoever decides it to whoever multiplies with it.

A sparsifier makes a record for each parameter that it masks and hands it to the modules that own the parameter and
ask for it (`hand_out`); it changes the mask in place and says so. A module that computes gradients at existing places
only leaves the dense ones here in the steps in which they are wanted, and says in which form it could do with the
existing values alone; then the sparsifier may keep nothing else in the parameter, its gradient and the optimizer's
buffers.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

Needs = Literal["never", "at_updates", "always"]


class Stored(Protocol):
    """Where the existing values of a matrix belong, while they are kept without the zeros between them."""

    shape: tuple[int, int]
    size: int

    def take(self, dense: Tensor) -> Tensor:
        """A matrix of `shape` -> its values (size,), without gradients."""

    def put(self, values: Tensor) -> Tensor:
        """Values (size,) -> the matrix, 0 elsewhere, without gradients."""


Form = Callable[[Tensor], Stored]


class WeightPlaces:
    """The existing weights of one parameter.

    Args:
        mask: bool, of the parameter's shape; the owner changes it in place.
        needs: when the owner looks at the gradients of weights that do not exist.

    Attributes:
        version: rises with every change of the mask.
        wanted: whether the dense gradient of the next backward pass is wanted.
        dense: that gradient, summed up over backward passes; None until there is one.
        partial: whether a backward pass left out the gradients of weights that do not exist.
        holders: how many modules hold the parameter.
        settled: rises when the density is another one for good, so that what is faster has to be found out anew.
        told: whether somebody keeps the weights that do not exist at 0 and says when the mask changes. A copy of a
            model alone has records of which nobody says anything, until a copy of their owner does.
        stored: while the parameter holds its existing values alone, (size,): where they belong; else None.

    Example:
        >>> import torch
        >>> places = WeightPlaces(torch.ones(2, 2, dtype=torch.bool))
        >>> places.changed(torch.eye(2, dtype=torch.bool))
        >>> places.version, places.wanted
        (1, False)
    """

    def __init__(self, mask: Tensor, needs: Needs = "never") -> None:
        self.mask, self.needs = mask, needs
        self.version = 0
        self.wanted = self.partial = False
        self.dense: Tensor | None = None
        self.holders = 1
        self.settled = 0
        self.told = True
        self.stored: Stored | None = None
        self._offers: dict[int, tuple[Form, ...]] = {}

    def __getstate__(self) -> dict[str, object]:
        """Of a copy that has no owner yet."""
        return {**self.__dict__, "told": False}

    @property
    def shared(self) -> bool:
        """Whether several modules hold the parameter."""
        return self.holders > 1

    def offer(self, holder: object, *forms: Form) -> None:
        """A module that holds the parameter could do with its existing values in any of these forms."""
        self._offers[id(holder)] = forms

    @property
    def form(self) -> Form | None:
        """Makes of a mask what all that hold the parameter need to do with its existing values alone; None: some need
        the whole matrix.
        """
        first, *others = self._offers.values() or [()]
        common = (form for form in first if all(form in forms for forms in others))
        return next(common, None) if len(self._offers) == self.holders else None

    def settle(self) -> None:
        """The density stays from now on."""
        self.settled += 1

    def changed(self, mask: Tensor) -> None:
        """The mask is another one now, in place or as a tensor."""
        self.mask = mask
        self.version += 1

    def expect(self, wanted: bool) -> None:
        """A new step begins: whether its dense gradient is wanted."""
        self.wanted, self.partial, self.dense = wanted, False, None

    def whole(self, gradient: Tensor | None) -> Tensor | None:
        """The gradient of all weights, of those that do not exist at least, from that of the parameter.

        Where several modules hold a dense parameter, what some of them have left is not in its gradient, and what the
        others computed is.
        """
        if self.dense is None or gradient is None or not self.shared or self.stored is not None:
            return gradient if self.dense is None else self.dense
        return self.dense + gradient

    def leave(self, gradient: Tensor) -> None:
        """Add the dense gradient of a backward pass."""
        self.dense = gradient if self.dense is None else self.dense.add_(gradient)


@runtime_checkable
class TakesPlaces(Protocol):
    """A module that multiplies with existing weights only, where it is told which they are."""

    def take_places(self, name: str, places: WeightPlaces) -> None:
        """`name` is that of the parameter in this module, such as "weight_ih" or "map.weight".

        Raises:
            InputError: it cannot give the gradients that the owner needs.
        """


class ProductChoice(NamedTuple):
    """How a module multiplies with its masked weights in training.

    Attributes:
        setting: "sparse" or "auto".
        sparse: whether with those that exist only; None: not decided yet.
        seconds: of a window with dense products, and with sparse ones, where that was measured.
    """

    setting: str
    sparse: bool | None
    seconds: tuple[float, float] | None


@runtime_checkable
class ChoosesProducts(Protocol):
    """A module that can say so."""

    def product_choice(self) -> ProductChoice | None:
        """None where nothing is masked, or no choice is left."""


def own(records: Iterable[WeightPlaces]) -> None:
    """Records that were copied have somebody again who tells what changes.

    Example:
        >>> import copy
        >>> import torch
        >>> record = copy.copy(WeightPlaces(torch.ones(2, 2, dtype=torch.bool)))
        >>> told = record.told
        >>> own([record])
        >>> told, record.told
        (False, True)
    """
    for places in records:
        places.told = True


def hand_out(model: nn.Module, owned: Iterable[tuple[nn.Parameter, WeightPlaces]]) -> None:
    """Give every module of the model that takes them the records of the parameters in it.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 2)
        >>> hand_out(layer, [(layer.weight, WeightPlaces(torch.ones(2, 2, dtype=torch.bool)))])  # it does not listen
    """
    table = {id(parameter): places for parameter, places in owned}
    holders = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    for key, places in table.items():
        places.holders = max(holders[key], 1)
    for module in model.modules():
        if isinstance(module, TakesPlaces):
            for name, parameter in module.named_parameters():
                if id(parameter) in table:
                    module.take_places(name, table[id(parameter)])
