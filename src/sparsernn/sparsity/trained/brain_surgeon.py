"""Pruning with compensation: the weights that stay take over what the removed ones did.

A change D of a weight W (O, I) that reads x_n costs tr(D H D^T), where H = sum_n x_n x_n^T + lambda E (E the unit
matrix). Take one row w. If weight q has to be 0 and all others are free, the cheapest change is

    d = -w_q / [H^-1]_qq  [H^-1]_q,:        at the cost  w_q^2 / [H^-1]_qq

(the optimal brain surgeon). Rows that lose different weights would each need an inverse of their own as they go on.
Going through the columns in order, and never again touching one that has been passed, all rows need the same one:
that of H without the columns passed. Its first row is read off the Cholesky factor U of H^-1 = U^T U (U upper
triangular): it is U_jj U_j,:. So one factor serves all rows and columns. The columns that read least go first: what
they lose, the others can still make up for.

How many weights a few columns lose is settled by the costs at the beginning; which ones, when their turn comes, by
the costs of what the weights are by then. In the end every row's remaining weights are fitted once more, the passed
columns too: tr(D H D^T) is least among all weights with these zeros, found by conjugate gradients for all rows.

Sources: B. Hassibi and D. G. Stork, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", 1993; one
inverse for all rows by going through the columns: E. Frantar and D. Alistarh, "SparseGPT", 2023, arXiv:2301.00774.
Differs from SparseGPT: how many weights each group of columns loses is not the same for all but follows from their
costs; the order of the columns; the last fit; blocks.
"""

from collections.abc import Mapping
from itertools import accumulate

import torch
from torch import Tensor

from sparsernn.core.streams import stream
from sparsernn.sparsity.dynamic.block_grid import BlockGrid
from sparsernn.sparsity.dynamic.selection import by_magnitude

DAMPING = 0.01
"""lambda as a fraction of the mean of H's diagonal."""
COLUMNS = 16
"""Columns that are chosen in together, before the ones after them feel what these have lost."""
FITTING_STEPS = 64
CONVERGED = 1e-20
"""Of the squared residual, relative to the first one."""


def damped(gram: Tensor, damping: float = DAMPING) -> Tensor:
    """H + lambda E; the unit matrix where nothing was ever read.

    Args:
        gram: H (I, I).
        damping: lambda over the mean of H's diagonal, above 0.

    >>> damped(torch.zeros(2, 2)).tolist(), damped(torch.eye(2, dtype=torch.float64), 0.5).tolist()
    ([[1.0, 0.0], [0.0, 1.0]], [[1.5, 0.0], [0.0, 1.5]])
    """
    mean = float(gram.diagonal().mean()) if len(gram) else 0.0
    return gram + (damping * mean if mean > 0 else 1.0) * torch.eye(len(gram), dtype=gram.dtype)


def smallest(
    scores: Tensor, remove: Mapping[int, int], grid: BlockGrid, generator: torch.Generator
) -> Tensor:
    """The cells of a grid with the smallest scores, so many of each area; bool, of the scores' shape.

    >>> grid = BlockGrid.of((3, 2), (2, 1))
    >>> smallest(torch.tensor([[2.0, 1.0], [4.0, 5.0]]), {2: 1, 1: 1}, grid, torch.Generator()).tolist()
    [[False, True], [True, False]]
    """
    areas, scores = grid.areas, scores.contiguous()
    chosen = torch.zeros(scores.shape, dtype=torch.bool)
    for area, count in remove.items():
        chosen |= by_magnitude([scores], [areas == area], count, generator, largest=False)[0]
    return chosen


def surgeon(
    weight: Tensor,
    hessian: Tensor,
    remove: int | Mapping[int, int],
    grid: BlockGrid | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Remove blocks of a weight, and fit what stays.

    Args:
        weight: W (O, I), float64.
        hessian: H (I, I), float64, positive definite: see `damped`.
        remove: blocks to remove; of each area, where they are not all equally large.
        grid: where they lie; None for single weights.
        generator: decides ties.

    Returns:
        The new weight, and its mask, True where it is kept.

    Example:
        >>> w, h = torch.tensor([[1.0, 0.1]]).double(), torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
        >>> fitted, mask = surgeon(w, h, 1)
        >>> mask.tolist(), [round(x, 4) for x in fitted[0].tolist()]
        ([[True, False]], [1.05, 0.0])
    """
    grid = grid or BlockGrid.of((weight.shape[0], weight.shape[1]), (1, 1))
    wanted = {int(grid.areas[0, 0]): remove} if isinstance(remove, int) else remove
    order, turned_grid = _order(hessian, grid)
    turned = hessian[order][:, order]
    chosen = _chosen(weight[:, order], turned, wanted, turned_grid, generator or stream("ties"))
    mask = torch.empty_like(chosen)
    mask[:, order] = chosen
    return fitted(weight, hessian, mask), mask


def _order(hessian: Tensor, grid: BlockGrid) -> tuple[Tensor, BlockGrid]:
    """The columns, those of a block side by side, from the least read to the most; the grid in that order."""
    own = BlockGrid((0, 1), grid.columns)
    following = own.means(hessian.diagonal().unsqueeze(0))[0].argsort(stable=True).tolist()
    groups = [torch.arange(grid.columns[k], grid.columns[k + 1]) for k in following]
    borders = accumulate((len(group) for group in groups), initial=0)
    return torch.cat(groups), BlockGrid(grid.rows, tuple(borders))


def _chosen(
    weight: Tensor, hessian: Tensor, remove: Mapping[int, int], grid: BlockGrid, generator: torch.Generator
) -> Tensor:
    """The mask: column by column, what is removed making itself felt in the columns to come."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)
    first = smallest(grid.means(weight.square() / inverse.diagonal()), remove, grid, generator)
    w, mask = weight.clone(), torch.ones_like(weight, dtype=torch.bool)
    together, blocks = max(1, COLUMNS // grid.widest), grid.shape[1]
    for left in range(0, blocks, together):
        right = min(left + together, blocks)
        start, stop = grid.columns[left], grid.columns[right]
        part = BlockGrid(grid.rows, tuple(c - start for c in grid.columns[left : right + 1]))
        counts = {area: int((first[:, left:right] & (part.areas == area)).sum()) for area in part.cells()}
        cost = part.means(w[:, start:stop].square() / inverse.diagonal()[start:stop])
        mask[:, start:stop] = ~part.expand(smallest(cost, counts, part, generator))
        _pass(w, factor, mask, start, stop)
    return mask


def _pass(w: Tensor, factor: Tensor, mask: Tensor, start: int, stop: int) -> None:
    """Remove what the mask says of columns `start` to `stop`; the columns after each of them make up for it."""
    errors = torch.zeros_like(w[:, start:stop])
    for j in range(start, stop):
        error = torch.where(mask[:, j], 0.0, w[:, j] / factor[j, j])
        w[:, j:stop].addr_(error, factor[j, j:stop], alpha=-1)
        errors[:, j - start] = error
    w[:, stop:].addmm_(errors, factor[start:stop, stop:], alpha=-1)


def fitted(weight: Tensor, hessian: Tensor, mask: Tensor, steps: int = FITTING_STEPS) -> Tensor:
    """The weights V with the zeros of a mask for which tr((V - W) H (V - W)^T) is least, by conjugate gradients.

    Args:
        weight: W (O, I), float64.
        hessian: H (I, I), positive definite.
        mask: bool (O, I), True where a weight may be.
        steps: at most so many; stopped early, it is still no worse than W under the mask.

    Example:
        >>> h = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
        >>> fitted(torch.tensor([[1.0, 2.0]]).double(), h, torch.tensor([[True, False]])).tolist()
        [[2.0, 0.0]]
    """
    found, scale = weight * mask, hessian.diagonal()
    residual = ((weight - found) @ hessian) * mask
    steep = residual / scale
    direction, size = steep.clone(), (residual * steep).sum(1)
    enough = CONVERGED * size
    for _ in range(steps):
        if bool((size <= enough).all()):
            break
        bent = direction @ hessian
        length = size / (direction * bent).sum(1).clamp_min(torch.finfo(weight.dtype).tiny)
        found.addcmul_(length.unsqueeze(1), direction)
        residual.addcmul_(length.unsqueeze(1), bent * mask, value=-1)
        steep = residual / scale
        before, size = size, (residual * steep).sum(1)
        direction = steep.addcmul(
            (size / before.clamp_min(torch.finfo(weight.dtype).tiny)).unsqueeze(1), direction
        )
    return found * mask
