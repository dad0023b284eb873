"""Which range of a row's weights 8 or 4 bits should cover, decided by what the row says of real inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.core.limits import OneOf
from sparsernn.deploy.compiled_runtime import CompiledRuntime, Window
from sparsernn.deploy.runtime import runtime
from sparsernn.deploy.sequence_runtime import WIDEST, SequenceRuntime
from sparsernn.deploy.step_list import Step
from sparsernn.deploy.vector_stream import lengths_of
from sparsernn.kernels.group_rounding import GROUP, ROUNDED
from sparsernn.kernels.weight_formats import Format

SHARES = torch.arange(1.0, 0.475, -0.05)
"""Of a row's largest weight that its 127 levels reach to; what lies beyond is cut off."""
ROWS = 1024
"""Rows at a time, so that what is tried stays small beside the model."""


@dataclass(frozen=True)
class Calibrated:
    """What cutting rows has changed.

    Attributes:
        errors: parameter name -> squared error of its rounded products, over the inputs, (before, after).
        cut: rows that were cut, of all.
        rows: all.
    """

    errors: dict[str, tuple[float, float]]
    cut: int
    rows: int


class InputRecord(Window):
    """A model read in torch, which remembers of each matrix the products of its inputs, (C, C)."""

    def __init__(
        self, ready: CompiledRuntime | SequenceRuntime, batch: int, products: dict[int, Tensor]
    ) -> None:
        super().__init__(ready, batch)
        self.products = products
        self._going = torch.arange(batch)

    def _do(self, step: Step, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> None:
        if step.kind == "affine":
            self._add(step.first, a)
            self._add(step.second, b)
        super()._do(step, y, a, b, c)

    def _add(self, matrix: Format | None, x: Tensor) -> None:
        if matrix is None:
            return
        x = x[:, self._going]
        known = self.products.get(id(matrix))
        self.products[id(matrix)] = x @ x.t() if known is None else known.addmm_(x, x.t())

    def read(self, inputs: Tensor, lengths: Sequence[int]) -> None:
        """Inputs (T, B) or (T, B, I); what stands beyond a sequence's length is not remembered."""
        moving, ends = torch.zeros(1, self.runtime.steps.moving, self.width), torch.tensor(lengths)
        for t, row in enumerate(inputs):
            self._going = (ends > t).nonzero().squeeze(1)
            if row.ndim > 1:
                self._put(moving, row.unsqueeze(0))
            self._twin(moving, row.unsqueeze(0), None, None)


@torch.no_grad()
def calibrate(
    model: nn.Module,
    inputs: Tensor,
    masks: Mapping[str, Tensor] | None = None,
    values: str = "int8",
    lengths: Sequence[int] | Tensor | None = None,
) -> Calibrated:
    """Cut the largest weights of rows, in place, where rounding the row to 8 bits then errs less.

    A row's 127 levels to each side reach to its largest weight; one outlier makes them coarse for all others. For
    each row of each matrix eleven ranges are tried, from the largest weight down to half of it, and the one is kept
    whose rounded row says what the exact row says, in squares over the given inputs. Whatever rounds the model
    afterwards (packed files, the runtime, plain C) then has that range; the model itself is changed by the cut. Where
    no weight stands out nothing is cut: at 8 bits a cut costs more than finer levels bring. At 4 bits each group of
    64 columns has its range, chosen by what the group says; a row that errs more then is left as it was.

    Args:
        model: a language model or a model of vectors that `runtime` compiles.
        inputs: what is of the kind that it will read: words (T, B) int64 within the vocabulary, or vectors (T, B, I).
        masks: parameter name -> bool tensor.
        values: "int8" or "int4", what it will be rounded to.
        lengths: steps of each sequence, 1 to T; T if not given.

    Raises:
        InputError: another model, other values, inputs that are none, or lengths out of range.

    Example:
        >>> from sparsernn.models.language_model import LanguageModel
        >>> done = calibrate(LanguageModel(10, 4, [6]), torch.arange(8).view(4, 2))
        >>> all(after <= before for before, after in done.errors.values())
        True

    Source of the idea: R. Banner, Y. Nahshan, E. Hoffer and D. Soudry, "Post-training 4-bit quantization of
    convolution networks for rapid-deployment", 2018, arXiv:1810.05723, who cut by a model of the distribution.
    Differs from the original: the range is searched for, with the inputs' own products.
    """
    check_value("values", values, Annotated[str, OneOf(ROUNDED)])
    ready = runtime(model, masks, products="dense", threads=1)
    if not isinstance(ready, CompiledRuntime | SequenceRuntime) or _in_strips(model):
        raise InputError(
            f"a {type(model).__name__} like this cannot be calibrated; a language model with the embedding 'dense' "
            "and a model of vectors can."
        )
    seen = _products(ready, inputs, lengths)
    errors, cut, rows, first = {}, 0, 0, dict[str, int]()
    for part, held in ready.held.items():
        name = _parameter(model, part.partition(":")[0])
        if name is None or id(held) not in seen:
            continue
        start = first.get(name, 0)
        first[name] = start + held.shape[0] if ":" in part else 0
        weight = model.get_parameter(name)[start : start + held.shape[0]]
        found = [
            _chosen(rows_of, seen[id(held)], values)
            for rows_of in torch.split(weight.detach().float().cpu(), ROWS)
        ]
        own, before, after = (torch.cat(same) for same in zip(*found, strict=True))
        errors[part] = (float(before.sum()), float(after.sum()))
        changed = (own != weight.cpu()).any(1)
        weight.copy_(own)
        cut, rows = cut + int(changed.sum()), rows + len(changed)
    return Calibrated(errors, cut, rows)


def _in_strips(model: nn.Module) -> bool:
    return hasattr(model, "embedding") and "embedding.weight" not in dict(model.named_parameters())


def _products(
    ready: CompiledRuntime | SequenceRuntime, inputs: Tensor, lengths: Sequence[int] | Tensor | None
) -> dict[int, Tensor]:
    """Of the inputs of each matrix, (C, C), by the matrix's id."""
    words = isinstance(ready, CompiledRuntime)
    read = (
        _checked(inputs, ready.vocabulary_size)
        if words
        else _checked_vectors(inputs, ready.steps.inputs.rows)
    )
    given, found = lengths_of(lengths, *read.shape[:2]), dict[int, Tensor]()
    for k, part in enumerate(torch.split(read, WIDEST, 1)):
        own = given[k * WIDEST : (k + 1) * WIDEST]
        InputRecord(ready, len(own), found).read(part[: max(own)], own)
    return found


def _checked_vectors(x: Any, size: int) -> Tensor:
    good = (
        isinstance(x, Tensor)
        and x.ndim == 3
        and x.is_floating_point()
        and x.numel() > 0
        and x.shape[2] == size
    )
    if not good or not bool(torch.isfinite(x).all()):
        what = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else repr(x)[:60]
        raise InputError(f"the vectors are {what}; they must be finite numbers (T, B, {size}).")
    made: Tensor = x.detach().to("cpu", torch.float32)
    return made


def _checked(words: Any, vocabulary: int) -> Tensor:
    good = isinstance(words, Tensor) and words.dtype == torch.int64 and words.ndim == 2 and words.numel() > 0
    if not good or not bool((words >= 0).all() & (words < vocabulary).all()):
        what = f"{words.dtype} {tuple(words.shape)}" if isinstance(words, Tensor) else repr(words)[:60]
        raise InputError(
            f"the words are {what}; they must be int64 (T, B) of ids from 0 to {vocabulary - 1}."
        )
    given: Tensor = words
    return given


def _parameter(model: nn.Module, name: str) -> str | None:
    """The parameter's name in the model; a matrix that is computed from others has none."""
    known = dict(model.named_parameters())
    if name in known:
        return name
    return "embedding.weight" if name == "head.weight" else None


def _chosen(weight: Tensor, products: Tensor, values: str) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (R, C) cut where that says more nearly what they say, and each row's errors (R,) without and with it."""
    own = weight.clone()
    width = GROUP if values == "int4" else weight.shape[1]
    for start in range(0, weight.shape[1], width):
        span = slice(start, start + width)
        part, seen = weight[:, span], products[span, span]
        tried = torch.stack([_error(_cut(part, share), part, seen, values) for share in SHARES])
        own[:, span] = _cut(part, SHARES[tried.argmin(0)])
    before, after = (_error(w, weight, products, values) for w in (weight, own))
    return torch.where((after < before).unsqueeze(1), own, weight), before, torch.minimum(before, after)


def _cut(weight: Tensor, share: Tensor) -> Tensor:
    limit = weight.abs().amax(1, keepdim=True) * share.reshape(-1, 1)
    return torch.minimum(torch.maximum(weight, -limit), limit)


def _error(own: Tensor, weight: Tensor, products: Tensor, values: str) -> Tensor:
    """Of each row, (R,), when `own` is rounded in its place."""
    off = ROUNDED[values](own) - weight
    return ((off @ products) * off).sum(1)


def round_matrices(model: nn.Module, values: str = "int8") -> None:
    """Every matrix of a model as 8 or 4 bits will have it, in place; what is 0 stays 0.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 0.3]]))
        >>> round_matrices(layer)
        >>> layer.weight.data
        tensor([[1.0000, 0.2992]])
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(ROUNDED[values](parameter.detach()))
