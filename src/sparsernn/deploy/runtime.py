"""Inference one token, vector or sentence at a time, for a batch of 1 to 16, with products chosen per weight.

For a language model of this library's layers and heads, whole tokens (embedding, layers, head) are one call into C,
for a model of vectors whole time steps, and for a tagger whole sentences. Other models, and those with forward hooks,
run through their own forward pass behind the same interface, so callers need not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json, Part
from sparsernn.deploy.compiled_runtime import CompiledRuntime
from sparsernn.deploy.described_models import Tensors, rebuilt_model
from sparsernn.deploy.layer_steps import HeldWeights, reads_backwards
from sparsernn.deploy.lstm_tensors import count_layers
from sparsernn.deploy.model_steps import (
    Written,
    check_given,
    is_written,
    is_written_sequence_model,
    is_written_tagger,
    of_language_model,
    of_sequence_model,
    of_tagger,
    of_tensors,
)
from sparsernn.deploy.sequence_runtime import SequenceRuntime
from sparsernn.deploy.tagger_runtime import TaggerModuleRuntime, TaggerRuntime
from sparsernn.deploy.token_stream import ModuleRuntime, evaluating
from sparsernn.deploy.vector_stream import VectorModuleRuntime
from sparsernn.kernels.library import check_threads
from sparsernn.kernels.weight_formats import padded
from sparsernn.models.tagger import Tagger

SETTINGS = {"products", "int8", "threads", "batch"}


OwnForward = ModuleRuntime | VectorModuleRuntime | TaggerModuleRuntime
Compiled = CompiledRuntime | SequenceRuntime | TaggerRuntime
AnyRuntime = Compiled | OwnForward


def runtime(
    model: nn.Module | Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None, **settings: Json
) -> AnyRuntime:
    """The runtime that fits: compiled for this library's models, else the own forward pass behind the same methods.

    Args:
        model: a language model with the embedding "dense", any layers and any head, or one of others (see
            `ModuleRuntime`); a `SequenceModel` of any layers, which gives a `SequenceRuntime`, or one of others over
            vectors (see `VectorModuleRuntime`); a tagger, which gives a `TaggerRuntime`; what `unpack` gives of any
            of these, if the file says which model it is; or the tensors of an LSTM language model by name.
        masks: parameter name -> bool tensor; without one, zeros count as absent.
        settings: of `LSTMRuntime`; without effect for models that run through their own forward pass.

    Returns:
        What has `stream(batch)`, or of taggers `tag(words, lengths)`, and `describe()`.

    Raises:
        InputError: an unknown setting, a model that can be read neither word by word nor vector by vector, or what
            `LSTMRuntime` refuses.

    Example:
        >>> from sparsernn.models.language_model import LanguageModel
        >>> type(runtime(LanguageModel(10, 4, [6], layer="gru", head="mixture"))).__name__
        'CompiledRuntime'
    """
    if odd := sorted(settings.keys() - SETTINGS):
        raise InputError(f"a runtime has no setting '{odd[0]}'; it has {', '.join(sorted(SETTINGS))}.")
    if isinstance(model, Tensors):
        model = rebuilt_model(model) or model
    if not isinstance(model, nn.Module):
        return LSTMRuntime(model, masks, **settings)
    for fits, kind, write in WAYS:
        if fits(model) and not has_hooks(model):
            return _compiled(kind, model, write, masks, **settings)
    return own_forward(model)


def has_hooks(model: nn.Module) -> bool:
    """Whether something beside a module's code has a say in its forward pass, which steps in C know nothing of.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> handle = layer.register_forward_hook(lambda module, given, made: 2 * made)
        >>> has_hooks(nn.Sequential(layer)), has_hooks(nn.Linear(2, 2))
        (True, False)
    """
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def own_forward(model: nn.Module) -> OwnForward:
    """The model's own forward pass as a runtime.

    Raises:
        InputError: it can be read neither word by word nor vector by vector, and is no tagger; or a layer reads
            backwards.

    Example:
        >>> from sparsernn.models.sequence_model import SequenceModel
        >>> type(own_forward(SequenceModel(3, 2, [5]))).__name__
        'VectorModuleRuntime'
    """
    if not isinstance(model, Tagger) and reads_backwards(model):
        raise InputError(
            f"a layer of this {type(model).__name__} reads backwards, so that nothing can be said step by step; call "
            "the model itself, on whole sequences."
        )
    if isinstance(model, Tagger):
        return TaggerModuleRuntime(model)
    return VectorModuleRuntime(model) if hasattr(model, "read_out") else ModuleRuntime(model)


Write = Callable[[Part, HeldWeights], Written]
WAYS: tuple[tuple[Callable[[nn.Module], bool], type[Compiled], Write], ...] = (
    (is_written, CompiledRuntime, of_language_model),
    (is_written_sequence_model, SequenceRuntime, of_sequence_model),
    (is_written_tagger, TaggerRuntime, of_tagger),
)
"""Whether a model can be written as steps, what runs it, and how it is written."""


def _compiled(
    kind: type[Compiled],
    model: nn.Module,
    write: Write,
    masks: Mapping[str, Tensor] | None,
    *,
    products: str | Mapping[str, str] = "auto",
    int8: bool = False,
    threads: int | None = None,
    batch: int = 1,
) -> Compiled:
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
