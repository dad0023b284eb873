"""Topology distance: how different the connections of two networks are, whatever the order of their units.

Hidden units have no names: exchange two of them with all their connections and nothing has changed. So the units of
two networks are matched first, each being the set of its incoming connections, and the distance is what is left.

Source: S. Liu, T. van der Lee, A. Yaman, Z. Atashgahi, D. Ferraro, G. Sokar, M. Pechenizkiy, D. C. Mocanu,
"Topological Insights into Sparse Neural Networks", 2020, arXiv:2006.14085; used for recurrent networks in S. Liu,
D. C. Mocanu, Y. Pei, M. Pechenizkiy, "Selfish Sparse RNN Training", 2021, arXiv:2101.09048.
Differs from the original: a unit of a gated layer is matched as a whole, with the rows of all its gates; recurrent
columns (and those of tied weights) move with their units, which makes the best matching a hard problem, so it is
improved sweep by sweep and the distance is an upper bound where there is recurrence; units keep their numbers
where that is nearer, as between two states of one run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from sparsernn.core.errors import InputError
from sparsernn.core.packages import check_installed
from sparsernn.core.streams import stream
from sparsernn.structure.units import Slice, Units

Masks = Mapping[str, Tensor]
Orders = Mapping[int, Tensor]
"""Group of units -> for each of its units in the first network its partner in the second, int64."""

SWEEPS = 10  # most rounds of improvement; two or three are usual
BLOCK = 1024  # rows of a product at once: what is made of masks as float stays small


@dataclass(frozen=True)
class Topology:
    """Distances in [0, 1]: 0 for the same connections, 1 where no connection is shared.

    Attributes:
        layers: mean over the matched units of each layer; then over the rows of each masked matrix whose rows are
            no units but have names of their own, such as the words of an embedding or a head.
        neurons: how many units or rows each of them has.
    """

    layers: Mapping[str, float]
    neurons: Mapping[str, int]

    @property
    def overall(self) -> float:
        """The mean of `layers`, each counting the same."""
        return sum(self.layers.values()) / len(self.layers)


def topology_distance(first: Masks, second: Masks, model: nn.Module) -> Topology:
    """The distance between the masks of two networks of one shape, the same from both sides.

    The cost of matching two units is |A xor B| / |A or B|, A and B being their incoming connections (0 for two
    units without any); the units of a layer are matched at least total cost, and readers count their connections
    from matched units as the same. What is no hidden unit keeps its number: words, gates of chunks, and the
    dimensions of an embedding that is not tied.

    Args:
        first: parameter name -> bool mask; those that are no matrices are passed over.
        second: of the same names and shapes.
        model: whose parameters they are masks of; it lists its hidden `units()`. Its weights are not looked at.

    Raises:
        InputError: the masks fit neither each other nor the model, there are none, or scipy is missing.

    Example:
        >>> from sparsernn.nn import LAYERS
        >>> model = nn.Sequential(nn.Linear(2, 1))
        >>> first, second = torch.tensor([[True, False]]), torch.tensor([[True, True]])
        >>> topology_distance({"0.weight": first}, {"0.weight": second}, model).overall
        0.5
    """
    pair = _checked(first, second, model)
    places = _Places(model, list(pair[0]))
    first, second = sorted(pair, key=_key)  # one order for both sides: ties are broken alike
    networks = _Pair(first, second, places)
    orders = min((networks.improved(start) for start in networks.starts()), key=networks.total)
    distances = {**networks.units(orders), **networks.rows(orders)}
    return Topology(
        {name: float(costs.mean()) for name, costs in distances.items()},
        {name: len(costs) for name, costs in distances.items()},
    )


def random_masks(masks: Masks, seed: int = 0) -> dict[str, Tensor]:
    """Masks with as many active positions in each tensor, anywhere: what a distance is to be held against.

    >>> {name: int(mask.sum()) for name, mask in random_masks({"w": torch.eye(5) > 0}).items()}
    {'w': 5}
    """
    generator, made = stream("chance masks", seed), {}
    for name, mask in masks.items():
        chosen = torch.randperm(mask.numel(), generator=generator)[: int(mask.sum())]
        made[name] = torch.zeros(mask.numel(), dtype=torch.bool).index_fill_(0, chosen, True).view_as(mask)
    return made


def _checked(first: Masks, second: Masks, model: nn.Module) -> tuple[Masks, Masks]:
    """The masks of matrices."""
    if odd := sorted(first.keys() ^ second.keys()):
        raise InputError(f"'{odd[0]}' has a mask in one of the networks only; compare masks of one kind.")
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for name in first:
        sizes = tuple(first[name].shape), tuple(second[name].shape)
        if len({*sizes, shapes.get(name)}) > 1:
            raise InputError(
                f"the masks of '{name}' have the shapes {sizes[0]} and {sizes[1]}, and the model has "
                f"{shapes.get(name, 'no such weight')}; compare networks of one shape."
            )
    found = tuple({n: mask.bool().cpu() for n, mask in m.items() if mask.dim() == 2} for m in (first, second))
    if not found[0]:
        raise InputError("there are no masks to compare; the networks are dense.")
    return found[0], found[1]


def _key(masks: Masks) -> list[tuple[str, bytes]]:
    return [(name, masks[name].numpy().tobytes()) for name in sorted(masks)]


@dataclass(frozen=True)
class _Part:
    """Rows (dim 0) or columns (dim 1) `index` of a matrix, those of the units `span` of a group of `width`."""

    owner: int
    name: str
    dim: int
    index: Tensor
    span: range
    width: int

    def of(self, mask: Tensor) -> Tensor:
        """The rows or columns, one for every unit of the group; empty where a unit has none."""
        part = mask.index_select(self.dim, self.index)
        if len(self.index) == self.width:
            return part
        shape = (self.width, mask.shape[1]) if self.dim == 0 else (mask.shape[0], self.width)
        whole = mask.new_zeros(shape)
        whole.narrow(self.dim, self.span.start, len(self.span)).copy_(part)
        return whole


class _Places:
    """Which rows and columns of the masked matrices belong to which units, and which to none."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        listed: Callable[[], list[Units]] = getattr(model, "units", list)
        self.groups: list[Units] = listed()
        known = {id(p): name for name, p in model.named_parameters() if name in names}
        self.parts: dict[tuple[str, int], list[_Part]] = {(name, dim): [] for name in names for dim in (0, 1)}
        for owner, group in enumerate(self.groups):
            for s in group.slices:
                name = known.get(id(s.parameter))
                if name is not None:
                    self._claim(name, owner, group.width, s)
        self.free = {
            (name, dim): _unclaimed(parts, dict(model.named_parameters())[name].shape[dim])
            for (name, dim), parts in self.parts.items()
        }

    def _claim(self, name: str, owner: int, width: int, s: Slice) -> None:
        parts, span = self.parts[name, s.dim], s.covered(width)
        taken = {int(part.index[0]) for part in parts}
        for start in s.starts:
            if len(span) and start not in taken:  # weights that are tied come up in several places
                index = torch.arange(start, start + len(span))
                parts.append(_Part(owner, name, s.dim, index, span, width))

    def incoming(self, owner: int) -> Iterator[_Part]:
        """The rows of a group's units."""
        return self._owned(owner, 0)

    def outgoing(self, owner: int) -> Iterator[_Part]:
        """The columns that its readers read a group's units through."""
        return self._owned(owner, 1)

    def _owned(self, owner: int, dim: int) -> Iterator[_Part]:
        parts = chain.from_iterable(parts for (_, d), parts in self.parts.items() if d == dim)
        return (part for part in parts if part.owner == owner)


def _unclaimed(parts: Sequence[_Part], length: int) -> Tensor:
    free = torch.ones(length, dtype=torch.bool)
    for part in parts:
        free[part.index] = False
    return free.nonzero().squeeze(1)


@dataclass(frozen=True)
class _Pair:
    """Two networks whose units are to be matched."""

    first: Masks
    second: Masks
    places: _Places

    def starts(self) -> Iterator[dict[int, Tensor]]:
        """Units keep their numbers; or are matched from the bottom, by what is known of them when they come."""
        widths = [group.width for group in self.places.groups]
        yield {owner: torch.arange(width) for owner, width in enumerate(widths)}
        known: dict[int, Tensor] = {}
        for owner, width in enumerate(widths):
            found = list(self._known(owner, known)) or list(self._labelled(owner))
            known[owner] = _assignment(_costs(found)) if found else torch.arange(width)
        yield known

    def improved(self, orders: Orders) -> Orders:
        """Match layer after layer again, given all the others, as long as the whole comes nearer."""
        best, least = orders, self.total(orders)
        for _ in range(SWEEPS):
            now = dict(best)
            for owner in now:
                if pairs := list(self._known(owner, now)):
                    now[owner] = _assignment(_costs(pairs))
            total = self.total(now)
            if not total < least:
                break
            best, least = now, total
        return best

    def total(self, orders: Orders) -> float:
        """Sum of the costs of all matched units and of all rows."""
        found = chain(self.units(orders).values(), self.rows(orders).values())
        return sum(float(costs.sum()) for costs in found)

    def units(self, orders: Orders) -> dict[str, Tensor]:
        """The costs of the matched units of every layer that has incoming masks, (width,) each."""
        found = {}
        for owner, group in enumerate(self.places.groups):
            pairs = [(a, b[orders[owner]]) for a, b in self._known(owner, orders)]
            if pairs:
                found[group.name] = _matched(pairs)
        return found

    def rows(self, orders: Orders) -> dict[str, Tensor]:
        """The costs of the rows that belong to no unit, of every matrix that has some."""
        found = {}
        for name in self.first:
            free = self.places.free[name, 0]
            if len(free):
                found[name] = _matched(
                    list(self._columns(name, self.first[name][free], self.second[name][free], orders))
                )
        return found

    def _known(self, owner: int, orders: Orders) -> Iterator[tuple[Tensor, Tensor]]:
        """The connections from known sources of a group's units in both networks, piece by piece (width, C)."""
        for part in self.places.incoming(owner):
            a, b = part.of(self.first[part.name]), part.of(self.second[part.name])
            yield from self._columns(part.name, a, b, orders)

    def _columns(self, name: str, a: Tensor, b: Tensor, orders: Orders) -> Iterator[tuple[Tensor, Tensor]]:
        """Columns of some rows of both networks; those of units stand in the order of the first one's."""
        for part in self.places.parts[name, 1]:
            if part.owner in orders:
                yield part.of(a), part.of(b)[:, orders[part.owner]]
        free = self.places.free[name, 1]
        if len(free):
            yield a[:, free], b[:, free]

    def _labelled(self, owner: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What a group's units are connected to that keeps its number, such as words: (width, rows)."""
        for part in self.places.outgoing(owner):
            free = self.places.free[part.name, 0]
            if len(free):
                yield part.of(self.first[part.name][free]).t(), part.of(self.second[part.name][free]).t()


def _costs(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """|A xor B| / |A or B| of all pairs of units, (width, width) float64; sets come in pieces (width, C)."""
    width = len(pairs[0][0])
    shared, either = torch.zeros(2, width, width, dtype=torch.float64)
    for a, b in pairs:
        columns = b.float().t()
        shared += torch.cat([rows.float() @ columns for rows in torch.split(a, BLOCK)])
        either += a.sum(1).unsqueeze(1) + b.sum(1)
    return _share_that_differs(shared, either - shared)


def _matched(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The same of every unit and the one in its place, (width,)."""
    shared = torch.stack([(a & b).sum(1) for a, b in pairs]).sum(0).double()
    union = torch.stack([(a | b).sum(1) for a, b in pairs]).sum(0).double()
    return _share_that_differs(shared, union)


def _share_that_differs(shared: Tensor, union: Tensor) -> Tensor:
    return 1 - torch.where(union > 0, shared / union.clamp(min=1), 1.0)


def _assignment(costs: Tensor) -> Tensor:
    """For each row the column that it is matched with, at least total cost."""
    check_installed("matching units", "scipy", install="'sparsernn[analysis]'")
    from scipy.optimize import linear_sum_assignment

    return torch.as_tensor(linear_sum_assignment(costs.numpy())[1], dtype=torch.int64)
