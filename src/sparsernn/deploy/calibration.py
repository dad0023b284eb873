"""Which range of a row's weights 8 bits should cover, decided by what the row says of real inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsernn.core.errors import InputError
from sparsernn.deploy.compiled_runtime import CompiledRuntime, Window
from sparsernn.deploy.runtime import runtime
from sparsernn.deploy.step_list import Step
from sparsernn.kernels.weight_formats import Format, to_int8

SHARES = torch.arange(1.0, 0.475, -0.05)
"""Of a row's largest weight that its 127 levels reach to; what lies beyond is cut off."""
ROWS = 1024
"""Rows at a time, so that what is tried stays small beside the model."""


@dataclass(frozen=True)
class Calibrated:
    """What cutting rows has changed.

    Attributes:
        errors: parameter name -> squared error of its products in 8 bits, over the inputs, (before, after).
        cut: rows that were cut, of all.
        rows: all.
    """

    errors: dict[str, tuple[float, float]]
    cut: int
    rows: int


class InputRecord(Window):
    """A model read in torch, which remembers of each matrix the products of its inputs, (C, C)."""

    def __init__(self, ready: CompiledRuntime, batch: int) -> None:
        super().__init__(ready, batch)
        self.products: dict[int, Tensor] = {}

    def _do(self, step: Step, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> None:
        if step.kind == "affine":
            self._add(step.first, a)
            self._add(step.second, b)
        super()._do(step, y, a, b, c)

    def _add(self, matrix: Format | None, x: Tensor) -> None:
        if matrix is None:
            return
        x = x[:, : self.batch]
        known = self.products.get(id(matrix))
        self.products[id(matrix)] = x @ x.t() if known is None else known.addmm_(x, x.t())

    def read(self, words: Tensor) -> None:
        """words (T, B)."""
        moving = torch.zeros(1, self.runtime.steps.moving, self.width)
        for row in words:
            self._twin(moving, row.unsqueeze(0), None)


@torch.no_grad()
def calibrate(model: nn.Module, words: Tensor, masks: Mapping[str, Tensor] | None = None) -> Calibrated:
    """Cut the largest weights of rows, in place, where rounding the row to 8 bits then errs less.

    A row's 127 levels to each side reach to its largest weight; one outlier makes them coarse for all others. For
    each row of each matrix eleven ranges are tried, from the largest weight down to half of it, and the one is kept
    whose rounded row says what the exact row says, in squares over the given inputs. Whatever rounds the model
    afterwards (packed files, the runtime, plain C) then has that range; the model itself is changed by the cut. Where
    no weight stands out nothing is cut: at 8 bits a cut costs more than finer levels bring.

    Args:
        model: a language model that `runtime` compiles.
        words: (T, B) int64 within the vocabulary, B from 1 to 16: text of the kind that it will read.
        masks: parameter name -> bool tensor.

    Raises:
        InputError: another model, or words that are none.

    Example:
        >>> from sparsernn.models.language_model import LanguageModel
        >>> done = calibrate(LanguageModel(10, 4, [6]), torch.arange(8).view(4, 2))
        >>> all(after <= before for before, after in done.errors.values())
        True

    Source of the idea: R. Banner, Y. Nahshan, E. Hoffer and D. Soudry, "Post-training 4-bit quantization of
    convolution networks for rapid-deployment", 2018, arXiv:1810.05723, who cut by a model of the distribution.
    Differs from the original: the range is searched for, with the inputs' own products.
    """
    ready = runtime(model, masks, products="dense", threads=1)
    if not isinstance(ready, CompiledRuntime) or "embedding.weight" not in dict(model.named_parameters()):
        raise InputError(
            f"a {type(model).__name__} cannot be calibrated; a language model with the embedding 'dense' can."
        )
    record = InputRecord(ready, _checked(words, ready.vocabulary_size).shape[1])
    record.read(words)
    errors, cut, rows, first = {}, 0, 0, dict[str, int]()
    for part, held in ready.held.items():
        name = _parameter(model, part.partition(":")[0])
        if name is None or id(held) not in record.products:
            continue
        start = first.get(name, 0)
        first[name] = start + held.shape[0] if ":" in part else 0
        weight = model.get_parameter(name)[start : start + held.shape[0]]
        share, before, after = _ranges(weight.detach().float().cpu(), record.products[id(held)])
        errors[part] = (before, after)
        limit = weight.abs().amax(1, keepdim=True) * share.to(weight).unsqueeze(1)
        weight.copy_(torch.minimum(torch.maximum(weight, -limit), limit))
        cut, rows = cut + int((share < 1).sum()), rows + len(share)
    return Calibrated(errors, cut, rows)


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


def _ranges(weight: Tensor, products: Tensor) -> tuple[Tensor, float, float]:
    """The best share of each row (R,), and the summed errors without and with it."""
    shares, before, after = [], 0.0, 0.0
    for part in torch.split(weight, ROWS):
        tried = torch.stack([_error(part, float(share), products) for share in SHARES])
        least = tried.min(0)
        shares.append(SHARES[least.indices])
        before, after = before + float(tried[0].sum()), after + float(least.values.sum())
    return torch.cat(shares), before, after


def _error(weight: Tensor, share: float, products: Tensor) -> Tensor:
    """Of each row, (R,)."""
    limit = weight.abs().amax(1, keepdim=True) * share
    rounded, scale = to_int8(torch.minimum(torch.maximum(weight, -limit), limit))
    off = rounded.float() * scale.unsqueeze(1) - weight
    return ((off @ products) * off).sum(1)


def round_to_int8(model: nn.Module) -> None:
    """Every matrix of a model as 8 bits will have it, in place; what is 0 stays 0.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 0.3]]))
        >>> round_to_int8(layer)
        >>> layer.weight.data
        tensor([[1.0000, 0.2992]])
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                rounded, scale = to_int8(parameter.detach().float())
                parameter.copy_(rounded.float() * scale.unsqueeze(1))
