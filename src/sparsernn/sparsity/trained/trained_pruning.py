"""A trained model made sparse, tensor by tensor, with a few batches to look at."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsernn.core.checks import check_value, checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Density, OneOf
from sparsernn.core.plain import Json
from sparsernn.core.streams import stream
from sparsernn.sparsity.dynamic.block_grid import BlockGrid
from sparsernn.sparsity.dynamic.budget import water_fill
from sparsernn.sparsity.dynamic.engine_settings import Block, Tensors
from sparsernn.sparsity.dynamic.first_masks import even_counts
from sparsernn.sparsity.dynamic.masked_tensors import MaskedTensor, choose_tensors
from sparsernn.sparsity.dynamic.selection import by_magnitude, count_true
from sparsernn.sparsity.frozen_zeros import Frozen
from sparsernn.sparsity.trained.brain_surgeon import damped, smallest, surgeon
from sparsernn.sparsity.trained.weight_inputs import WIDEST, Moments, inputs_seen, moments_of
from sparsernn.sparsity.weight_counts import summarize

METHODS = ("obs", "activation", "magnitude")
Work = Callable[[], None]
Tick = Callable[[float], None]
"""Told the fraction done."""


@dataclass(frozen=True)
class PrunedTensor:
    """What was done to one tensor.

    Attributes:
        name: in the model.
        shape: of the parameter.
        active: weights that are left.
        method: by which they were chosen.
        why: why it is not the method that was asked for; "" where it is.
        error: what the products with the weight changed by on the calibration batches: the squared norm of the change
            over that of the products; None by magnitude, where nothing is known of them.
    """

    name: str
    shape: tuple[int, ...]
    active: int
    method: str
    why: str = ""
    error: float | None = None


@dataclass(frozen=True)
class Pruned:
    """A pruned model.

    Attributes:
        model: the same object that was given.
        method: that was asked for.
        masks: parameter name -> bool, True where a weight is left; on the parameter's device.
        tensors: what was done to each, in the order in which it was done.
        seconds: of work.
    """

    model: nn.Module
    method: str
    masks: Mapping[str, Tensor]
    tensors: Sequence[PrunedTensor]
    seconds: float

    @property
    def by_magnitude(self) -> dict[str, str]:
        """Name -> why, of every tensor that was pruned by magnitude although another method was asked for."""
        return {row.name: row.why for row in self.tensors if row.why}

    def summary(self) -> dict[str, Json]:
        """Densities by tensor and together; see `sparsity.summarize`."""
        return summarize(self.model, self.masks)

    def keep(self, optimizer: Optimizer | Sequence[Optimizer]) -> Frozen:
        """Train on with these masks: the optimizer's steps leave the zeros what they are.

        Example:
            >>> layer = nn.Linear(8, 8)
            >>> pruned = prune(layer, density=0.25, method="magnitude")
            >>> sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
            >>> _ = pruned.keep(sgd)
            >>> layer(torch.ones(1, 8)).sum().backward()
            >>> sgd.step()
            >>> int((layer.weight != 0).sum())
            16
        """
        keeper = Frozen(self.model, optimizer)
        keeper.load_state_dict({"masks": self.masks, "drawn": True})
        keeper.attach()
        return keeper


@checked
@dataclass(frozen=True)
class PruneSettings:
    """What is to be pruned, how much, and how.

    Attributes:
        density: fraction of weights to keep of each tensor, in (0, 1].
        method: one of `METHODS`.
        block: rows and columns of what goes together, or "auto" (see `Tensors`); None is (1, 1), single weights.
        include, exclude: names or glob patterns of tensors.
        densities: name or pattern -> density of its own.
        block_fallback: a tensor with fewer rows or columns than one block is pruned by single weights.
        seed: of the draw among equal weights.
    """

    density: float
    method: Annotated[str, OneOf(METHODS)] = "obs"
    block: Block | None = None
    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    densities: Mapping[str, float] = field(default_factory=dict)
    block_fallback: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_value("density", self.density, Density)
        check_value("densities", self.densities, Mapping[str, Density])

    def tensors(self, model: nn.Module) -> list[MaskedTensor]:
        """The tensors of a model that these settings choose.

        Raises:
            InputError: there is none.
        """
        chosen = Tensors(
            density=self.density,
            include=tuple(self.include),
            exclude=tuple(self.exclude),
            densities=self.densities,
            block=self.block or (1, 1),
            block_fallback=self.block_fallback,
        )
        return choose_tensors(model, chosen)


def prune(
    model: nn.Module,
    batches: Iterable[object] | None = None,
    *,
    density: float,
    method: str = "obs",
    block: Sequence[int] | Literal["auto"] | None = None,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    densities: Mapping[str, float] | None = None,
    block_fallback: bool = False,
    seed: int = 0,
) -> Pruned:
    """Prune a trained model, in place and in one go, tensor by tensor in the order in which they are used.

    Which weights go: by "magnitude" the smallest of the tensor; by "activation" those with the smallest
    |weight| * norm of the input feature, equally many of each output (in each row of blocks); by "obs" those whose
    removal changes the layer's products least once the others have been changed to make up for it, and so they are.
    The last two see the model read the batches, each tensor what comes out of those pruned before it. In recurrent
    layers W_ih reads x_t and W_hh reads h_{t-1}.

    A tensor whose input is not seen is pruned by magnitude and named in `by_magnitude`: embeddings (a row is looked
    up, nothing is multiplied), convolutions, weights that are computed from others, and those of compiled code.

    Args:
        model: any module; changed in place.
        batches: what it is called with: a tuple of arguments, a dict of named ones, or the only one, for each call. A
            few are enough: some thousand vectors for each weight. Not needed by magnitude.
        density: fraction of weights to keep of each tensor, in (0, 1].
        method: "obs", "activation" or "magnitude".
        block: rows and columns of the blocks that go as a whole, such as [16, 1], or "auto" for those with
            `block_fallback`; None prunes single weights.
        include: names or glob patterns of what is pruned; all trainable parameters with two dimensions but biases.
        exclude: names or glob patterns of what is not.
        densities: name or pattern -> density of its own.
        block_fallback: a tensor with fewer rows or columns than one block is pruned by single weights, and not by
            blocks that are as small as it is.
        seed: of the draw among equal weights.

    Returns:
        Masks, densities, seconds; `keep(optimizer)` trains on with the masks.

    Raises:
        InputError: an impossible setting, a pattern that matches nothing, nothing to prune, a model that has no more
            weights left than are to be kept already, or batches that are missing or cannot be read. The model is
            unchanged.

    Example:
        >>> model = nn.LSTM(8, 16)
        >>> batches = [torch.randn(20, 4, 8, generator=torch.Generator().manual_seed(k)) for k in range(4)]
        >>> pruned = prune(model, batches, density=0.25)
        >>> pruned.summary()["masked_density"], pruned.by_magnitude
        (0.25, {})

    Sources: magnitude: S. Han et al., 2015, arXiv:1506.02626; activation: M. Sun et al., "A Simple and Effective
    Pruning Approach for Large Language Models" (Wanda), 2023, arXiv:2306.11695; obs: see
    `sparsity.trained.brain_surgeon`.
    """
    settings = PruneSettings(density, method, block, include, exclude, densities or {}, block_fallback, seed)
    calls = [] if batches is None else list(batches)
    if not calls and method != "magnitude":
        raise InputError(
            f"method {method} needs batches to look at and there are none; give some, or method='magnitude'."
        )

    def work() -> None:
        for batch in calls:
            if isinstance(batch, Mapping):
                model(**batch)
            else:
                model(*(batch if type(batch) is tuple else (batch,)))

    return prune_by_work(model, settings, work)


def prune_by_work(
    model: nn.Module, settings: PruneSettings, work: Work, tick: Tick = lambda fraction: None
) -> Pruned:
    """As `prune`, of a model that reads the calibration batches when `work` is called.

    Args:
        model: changed in place.
        settings: what to prune.
        work: is called in evaluation mode and without gradients, once before and once for each tensor.
        tick: told the fraction of tensors done.

    Raises:
        InputError: see `prune`.
    """
    began = time.perf_counter()
    tensors = settings.tensors(model)
    _check_not_sparse(tensors, settings)
    seen: dict[str, Moments] = {}
    if settings.method != "magnitude":
        try:
            seen = inputs_seen(model, {t.name: t.parameter for t in tensors}, work)
        except InputError:
            raise
        except Exception as fault:  # whatever somebody's forward pass does
            words = (str(fault).strip() or type(fault).__name__).splitlines()[0].rstrip(".")
            raise InputError(f"the model cannot read the batches ({words}).") from fault
    order = list(seen)
    tensors = sorted(tensors, key=lambda t: order.index(t.name) if t.name in seen else -1)
    counts = dict(zip((t.name for t in tensors), even_counts(tensors), strict=True))
    generator, rows = stream("prune", settings.seed), []
    for number, tensor in enumerate(tensors, 1):
        why = "" if settings.method == "magnitude" else _unknown(tensor, seen.get(tensor.name))
        moments = None
        if not why and settings.method != "magnitude":
            moments = moments_of(model, tensor.name, tensor.parameter, work)
            if not bool(torch.isfinite(_gram(moments, tensor.shape[0])).all()):
                moments, why = None, "its input is not finite"
        by = "magnitude" if moments is None else settings.method
        rows.append(_prune(tensor, by, why, counts[tensor.name], moments, generator))
        tick(number / len(tensors))
    masks = {t.name: t.mask for t in tensors}
    return Pruned(model, settings.method, masks, rows, time.perf_counter() - began)


def _check_not_sparse(tensors: Sequence[MaskedTensor], settings: PruneSettings) -> None:
    present = sum(int(t.parameter.detach().count_nonzero()) for t in tensors)
    total = sum(t.mask.numel() for t in tensors)
    wanted = sum(t.density * t.mask.numel() for t in tensors)
    if present <= wanted and present < total:
        raise InputError(
            f"density is {settings.density:g}, but only {present / total:.4g} of the weights are left already; ask "
            "for less than that."
        )
    for t in tensors:
        if not bool(torch.isfinite(t.parameter.detach()).all()):
            raise InputError(f"'{t.name}' holds numbers that are not finite; nothing can be pruned by them.")


def _unknown(tensor: MaskedTensor, moments: Moments | None) -> str:
    """Why nothing can be known of a tensor's input; "" where it can."""
    if moments is None:
        return "its input is not seen"
    if not moments.rows:
        return "its rows are looked up"
    width = tensor.shape[1]
    return f"it reads {width:,} features, more than {WIDEST:,}" if width > WIDEST else ""


@torch.no_grad()
def _prune(
    tensor: MaskedTensor,
    method: str,
    why: str,
    keep: Mapping[int, int],
    moments: Moments | None,
    generator: torch.Generator,
) -> PrunedTensor:
    weight = tensor.parameter.detach().cpu().double().reshape(tensor.shape[0], -1)
    grid, error = tensor.grid, None
    remove = {area: count - keep[area] for area, count in grid.cells().items()}
    if moments is None:
        mask = ~grid.expand(smallest(grid.means(weight.abs()), remove, grid, generator))
        after = weight * mask
    else:
        gram = _gram(moments, len(weight))
        if method == "activation":
            scores = grid.means(weight.abs() * gram.diagonal().sqrt())
            mask = grid.expand(_largest_of_rows(scores, keep, grid, generator))
            after = weight * mask
        else:
            after, mask = surgeon(weight, damped(gram), remove, grid, generator)
        error = _change(weight - after, gram) / max(_change(weight, gram), 1e-300)
    tensor.mask.copy_(mask.view(tensor.shape))
    tensor.ever.copy_(tensor.mask)
    tensor.parameter.copy_(after.view(tensor.shape))
    return PrunedTensor(tensor.name, tensor.shape, count_true([mask]), method, why, error)


def _gram(moments: Moments, rows: int) -> Tensor:
    """H; where rows are looked up as well (tied weights), each of them counts as often as one is on average."""
    assert moments.gram is not None
    looked_up = moments.lookups / rows
    return moments.gram + looked_up * torch.eye(len(moments.gram), dtype=moments.gram.dtype)


def _change(difference: Tensor, gram: Tensor) -> float:
    return float(((difference @ gram) * difference).sum())


def _smallest(scores: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """True at the `count` smallest of all scores."""
    everywhere = torch.ones(scores.shape, dtype=torch.bool)
    return by_magnitude([scores.contiguous()], [everywhere], count, generator, largest=False)[0]


def _largest_of_rows(
    scores: Tensor, keep: Mapping[int, int], grid: BlockGrid, generator: torch.Generator
) -> Tensor:
    """True at what is kept: so many cells of each area, as many in each row of them."""
    kept = torch.zeros(scores.shape, dtype=torch.bool)
    for same in grid.classes():
        sizes = [(r.stop - r.start) * (r.right - r.left) for r in same]
        for r, count in zip(same, water_fill(keep[same[0].area], sizes, sizes), strict=True):
            part = (slice(r.start, r.stop), slice(r.left, r.right))
            kept[part] = ~_by_rows(scores[part], count, generator)
    return kept


def _by_rows(scores: Tensor, keep: int, generator: torch.Generator) -> Tensor:
    """True at what goes when each row keeps its largest scores, `keep` of them in all rows together.

    Where `keep` is no multiple of the rows, those rows keep one more whose next score is largest.
    """
    each, more = divmod(keep, len(scores))
    order = scores.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1, stable=True)
    gone = rank >= each
    if more:
        following = torch.where(rank == each, scores, -1.0).amax(1, keepdim=True)
        gone &= _smallest(following, len(scores) - more, generator) | (rank != each)
    return gone
