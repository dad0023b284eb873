"""One mask update on grids: how many leave each pool, which, how the budget is shared, and what grows.

Pure functions of weights, masks, signals and a generator. Nothing is changed in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsernn.sparsity.dynamic.budget import share_of, water_fill
from sparsernn.sparsity.dynamic.engine_settings import Rules
from sparsernn.sparsity.dynamic.growth import GROW
from sparsernn.sparsity.dynamic.pools import Pool, Pools, by_area
from sparsernn.sparsity.dynamic.pruning import PRUNE
from sparsernn.sparsity.dynamic.selection import blank, count_true, lottery

# A tensor with less than this sparsity that would gain budget is spared from pruning more than its empty
# positions could take back; the value is the original's.
NEARLY_DENSE = 0.2


@dataclass(frozen=True)
class Situation:
    """What an update decides on.

    Attributes:
        pools: who competes with whom.
        rules: which rules decide.
        excludes: weights pruned in this update may not grow in it.
        rate: fraction of the active weights to prune, in [0, 1].
        tau: current adaptive threshold.
        weights: grid of values for each tensor.
        masks: grid of bools for each tensor.
        signals: grid of the growth signal for each tensor; empty if the rule needs none.
        momentum: grid of the running mean of gradients for each tensor; empty unless redistribution needs it.
    """

    pools: Pools
    rules: Rules
    excludes: bool
    rate: float
    tau: float
    weights: Sequence[Tensor]
    masks: Sequence[Tensor]
    signals: Sequence[Tensor] = ()
    momentum: Sequence[Tensor] = ()

    @property
    def moves_budget(self) -> bool:
        """Whether budget moves between pools."""
        return self.rules.redistribute != "none"


@dataclass(frozen=True)
class Change:
    """The outcome, one bool grid per tensor each, and how many weights the rate alone would have pruned."""

    removed: list[Tensor]
    grown: list[Tensor]
    expected: int


def rewire(now: Situation, generator: torch.Generator) -> Change:
    """Choose what is pruned and what grows; both have the same number of positions.

    Per-pool counts are unchanged without redistribution; with it the total is, over the pools of blocks of one size.
    """
    prunable = _prunable(now)
    wanted = [share_of(now.rate, count_true(_of(pool, prunable))) for pool in now.pools.prune]
    counts = _prune_counts(now, prunable, wanted)
    removed = [blank(mask) for mask in now.masks]
    rule = PRUNE[now.rules.prune]
    for pool, count in zip(now.pools.prune, counts, strict=True):
        _write(pool, removed, rule(_of(pool, now.weights), _of(pool, prunable), count, generator))
    grown = _grow(now, removed, generator)
    return Change(removed, grown, sum(wanted))


def _of(pool: Pool, grids: Sequence[Tensor]) -> list[Tensor]:
    return [piece.of(grids).contiguous() for piece in pool]


def _write(pool: Pool, grids: list[Tensor], parts: Sequence[Tensor]) -> None:
    for piece, part in zip(pool, parts, strict=True):
        if part.shape == grids[piece.tensor].shape:
            grids[piece.tensor] = part
        else:
            piece.of(grids).copy_(part)


def _empty(pool: Pool, masks: Sequence[Tensor]) -> int:
    parts = _of(pool, masks)
    return sum(part.numel() for part in parts) - count_true(parts)


def _prunable(now: Situation) -> Sequence[Tensor]:
    """The masks, but all False where nothing is absent to grow, so that what is pruned could only return."""
    if now.moves_budget:
        return now.masks
    full = [piece for pool in now.pools.grow if _empty(pool, now.masks) == 0 for piece in pool]
    cut = {piece.tensor for piece in full}
    prunable = [mask.clone() if number in cut else mask for number, mask in enumerate(now.masks)]
    for piece in full:
        piece.of(prunable).fill_(False)
    return prunable


def _prune_counts(now: Situation, prunable: Sequence[Tensor], wanted: list[int]) -> list[int]:
    """How many leave each pruning pool, never more than can grow again."""
    pools = now.pools.prune
    room = [_empty(pool, now.masks) for pool in pools]
    if sum(room) == 0:
        return [0] * len(pools)
    counts = [_below_tau(now, pool, prunable) for pool in pools] if now.rules.prune == "threshold" else wanted
    if not now.moves_budget:
        return [min(c, r) for c, r in zip(counts, room, strict=True)] if now.excludes else counts
    if now.pools.prune is now.pools.grow:
        counts = _spare_nearly_dense(now, counts, room)
    return _fitting(pools, counts, room) if now.excludes else counts


def _fitting(pools: Sequence[Pool], counts: Sequence[int], room: Sequence[int]) -> list[int]:
    """No more than can grow again in the pools of blocks of one size."""
    fitting = list(counts)
    for group in by_area(pools):
        wanted, most = [counts[i] for i in group], sum(room[i] for i in group)
        if sum(wanted) > most:
            for i, count in zip(group, water_fill(most, wanted, wanted), strict=True):
                fitting[i] = count
    return fitting


def _below_tau(now: Situation, pool: Pool, prunable: Sequence[Tensor]) -> int:
    pairs = zip(_of(pool, now.weights), _of(pool, prunable), strict=True)
    return count_true([(weight.abs() <= now.tau).logical_and_(mask) for weight, mask in pairs])


def _spare_nearly_dense(now: Situation, counts: list[int], room: list[int]) -> list[int]:
    shares = importance(now)
    average = sum(shares) / len(shares)
    sizes = [sum(part.numel() for part in _of(pool, now.masks)) for pool in now.pools.grow]
    spared = []
    for count, empty, size, share in zip(counts, room, sizes, shares, strict=True):
        guard = empty < NEARLY_DENSE * size and share > average
        spared.append(min(count, share_of(empty / size, size - empty)) if guard else count)
    return spared


def importance(now: Situation) -> list[float]:
    """How strongly each growing pool asks for budget.

    "magnitude": mean |weight| over active positions; "momentum": mean |running mean of gradients| over them;
    "nonzeros": the number of active weights above tau; "uniform": 1.

    Source: the options of T. Dettmers's sparse_learning, and the code of Selfish-RNN for "uniform".
    """
    how = now.rules.redistribute
    if how == "uniform":
        return [1.0] * len(now.pools.grow)
    if how == "nonzeros":
        return [float(_above_tau(now, pool)) for pool in now.pools.grow]
    values = now.momentum if how == "momentum" else now.weights
    return [_mean_magnitude(_of(pool, values), _of(pool, now.masks)) for pool in now.pools.grow]


def _above_tau(now: Situation, pool: Pool) -> int:
    pairs = zip(_of(pool, now.weights), _of(pool, now.masks), strict=True)
    return count_true([(weight.abs() > now.tau).logical_and_(mask) for weight, mask in pairs])


def _mean_magnitude(values: Sequence[Tensor], masks: Sequence[Tensor]) -> float:
    total = sum(float((v.abs() * m.view(torch.uint8)).sum()) for v, m in zip(values, masks, strict=True))
    return total / max(1, count_true(masks))


def _grow(now: Situation, removed: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    empty = [~m if now.excludes else (~m).logical_or_(r) for m, r in zip(now.masks, removed, strict=True)]
    grown = [blank(mask) for mask in now.masks]
    budgets = _budgets(now, removed, empty)
    for pool, parts, budget in zip(now.pools.grow, now.pools.parts, budgets, strict=True):
        rooms = [count_true(_of(part, empty)) for part in parts]
        shares = water_fill(budget, [1.0] * len(parts), rooms)
        for part, share in zip(parts, shares, strict=True):
            _grow_part(now, part, empty, share, grown, generator)
        _take_back(pool, removed, budget - sum(shares), grown, generator)
    return grown


def _budgets(now: Situation, removed: Sequence[Tensor], empty: Sequence[Tensor]) -> list[int]:
    lost = [count_true(_of(pool, removed)) for pool in now.pools.grow]
    if not now.moves_budget:
        return lost
    shares, rooms = importance(now), [count_true(_of(pool, empty)) for pool in now.pools.grow]
    budgets = [0] * len(lost)
    for group in by_area(now.pools.grow):
        total, own = sum(lost[i] for i in group), [shares[i] for i in group]
        for i, budget in zip(group, water_fill(total, own, [rooms[i] for i in group]), strict=True):
            budgets[i] = budget
    return budgets


def _grow_part(
    now: Situation,
    part: Pool,
    empty: Sequence[Tensor],
    count: int,
    grown: list[Tensor],
    generator: torch.Generator,
) -> None:
    signals = _of(part, now.signals) if now.signals else []
    _write(part, grown, GROW[now.rules.grow].function(_of(part, empty), signals, count, generator))


def _take_back(
    pool: Pool, removed: Sequence[Tensor], count: int, grown: Sequence[Tensor], generator: torch.Generator
) -> None:
    """Let some return: more was pruned than fits (global pruning of a nearly dense tensor)."""
    if count > 0:
        for piece, part in zip(pool, lottery(_of(pool, removed), count, generator), strict=True):
            piece.of(grown).logical_or_(part)
