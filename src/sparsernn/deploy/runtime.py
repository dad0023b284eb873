"""Inference one token, or one sentence, at a time, for a batch of 1 to 16, with products chosen per weight.

For a language model of this library's layers and heads, whole tokens (embedding, layers, head) are one call into C,
and for a tagger whole sentences. Other models run through their own forward pass behind the same interface, so
callers need not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json, Part
from sparsernn.deploy.compiled_runtime import CompiledRuntime, TaggerRuntime
from sparsernn.deploy.layer_steps import HeldWeights
from sparsernn.deploy.lstm_tensors import count_layers
from sparsernn.deploy.model_steps import (
    Written,
    check_given,
    is_written,
    is_written_tagger,
    of_language_model,
    of_tagger,
    of_tensors,
)
from sparsernn.deploy.token_stream import ModuleRuntime, evaluating
from sparsernn.kernels.library import check_threads
from sparsernn.kernels.weight_formats import padded

SETTINGS = {"products", "int8", "threads", "batch"}


def runtime(
    model: nn.Module | Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None, **settings: Json
) -> CompiledRuntime | ModuleRuntime:
    """The runtime that fits: compiled for this library's language models and taggers, else the own forward pass.

    Args:
        model: a language model (see `ModuleRuntime` for those of others) with the embedding "dense", any layers and
            any head; a tagger, which gives a `TaggerRuntime`; or the tensors of an LSTM language model by name (as
            `unpack` gives them).
        masks: parameter name -> bool tensor; without one, zeros count as absent.
        settings: of `LSTMRuntime`; without effect for models that run through their own forward pass.

    Raises:
        InputError: an unknown setting, a model that cannot be read token by token, or what `LSTMRuntime` refuses.

    Example:
        >>> from sparsernn.models.language_model import LanguageModel
        >>> type(runtime(LanguageModel(10, 4, [6], layer="gru", head="mixture"))).__name__
        'CompiledRuntime'
    """
    if odd := sorted(settings.keys() - SETTINGS):
        raise InputError(f"a runtime has no setting '{odd[0]}'; it has {', '.join(sorted(SETTINGS))}.")
    if not isinstance(model, nn.Module):
        return LSTMRuntime(model, masks, **settings)
    if is_written(model):
        return _compiled(CompiledRuntime, model, of_language_model, masks, **settings)
    if is_written_tagger(model):
        return _compiled(TaggerRuntime, model, of_tagger, masks, **settings)
    return ModuleRuntime(model)


def _compiled(
    kind: type[CompiledRuntime],
    model: nn.Module,
    write: Callable[[Part, HeldWeights], Written],
    masks: Mapping[str, Tensor] | None,
    *,
    products: str | Mapping[str, str] = "auto",
    int8: bool = False,
    threads: int | None = None,
    batch: int = 1,
) -> CompiledRuntime:
    check_threads(threads)
    check_given(model.state_dict(), masks or {}, products)
    weights = HeldWeights(masks or {}, products, int8, padded(batch))
    with torch.no_grad(), evaluating(model.modules()):  # in training some matrices are others
        done = write(model, weights)
    return kind(done.steps, done.outputs, done.held, threads, batch)


class LSTMRuntime(CompiledRuntime):
    """A language model of stacked LSTM layers, from its tensors.

    Args:
        state: `embedding.weight` (V, E), `layers.N.weight_ih` (4H, I), `layers.N.weight_hh` (4H, H),
            `layers.N.bias_ih`, `layers.N.bias_hh`, `head.bias` (V,) and, unless tied, `head.weight` (V, H).
        masks: parameter name -> bool tensor; without one, zeros count as absent.
        products: "auto" times the formats of `sparsernn.kernels.FORMATS` for each weight and keeps the
            fastest; a name takes that one for all; a mapping parameter -> name leaves the others to "auto".
        int8: lets "auto" round weights to 8 bits where that is faster.
        threads: of a token; None times one thread against torch's number and keeps the faster.
        batch: streams that "auto" tunes for, 1 to 16 (any other batch works too).

    Raises:
        InputError: other tensors, numbers that are not finite, masks or products for what is not there, weights that
            are not 0 where their mask says absent, or an impossible number of threads or streams.

    Example:
        >>> from sparsernn.models.language_model import LanguageModel
        >>> model = LanguageModel(10, 4, [6, 6])
        >>> LSTMRuntime(model.state_dict(), threads=1).stream(2).step([3, 5]).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
        *,
        products: str | Mapping[str, str] = "auto",
        int8: bool = False,
        threads: int | None = None,
        batch: int = 1,
    ) -> None:
        check_threads(threads)
        layers = count_layers(state)
        check_given(state, masks or {}, products)
        done = of_tensors(state, layers, HeldWeights(masks or {}, products, int8, padded(batch)))
        super().__init__(done.steps, done.outputs, done.held, threads, batch)
