"""Inference one token at a time, for a batch of 1 to 16 texts, with products chosen per weight.

For a language model of plain LSTM layers a whole token (embedding, layers, head) is one call into C. Other
models run through their own forward pass behind the same interface, so callers need not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.deploy.autotune import fastest
from sparsernn.deploy.lstm_stream import LSTMStream
from sparsernn.deploy.lstm_weights import LSTMWeights, count_layers
from sparsernn.deploy.token_stream import ModuleRuntime, Stream
from sparsernn.kernels.library import check_threads
from sparsernn.nn.cells.lstm import LSTM
from sparsernn.nn.drive.layer import Stack
from sparsernn.nn.words.heads import LinearHead
from sparsernn.nn.words.word_embedding import Embedding

SETTINGS = {"products", "int8", "threads", "batch"}


def runtime(
    model: nn.Module | Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None, **settings: Json
) -> LSTMRuntime | ModuleRuntime:
    """The runtime that fits: `LSTMRuntime` for stacked plain LSTMs, else the model's own forward pass.

    Args:
        model: a language model (see `ModuleRuntime` for those of others), or the tensors of an LSTM language model by
            name (as `unpack` gives them).
        masks: parameter name -> bool tensor.
        settings: of `LSTMRuntime`; without effect for other models.

    Raises:
        InputError: an unknown setting, a model that cannot be read token by token, or what `LSTMRuntime` refuses.

    Example:
        >>> from sparsernn.models.language_model import LanguageModel
        >>> type(runtime(LanguageModel(10, 4, [6]))).__name__
        'LSTMRuntime'
    """
    if odd := sorted(settings.keys() - SETTINGS):
        raise InputError(f"a runtime has no setting '{odd[0]}'; it has {', '.join(sorted(SETTINGS))}.")
    if isinstance(model, nn.Module):
        if not _is_plain(model):
            return ModuleRuntime(model)
        model = model.state_dict()
    return LSTMRuntime(model, masks, **settings)


def _is_plain(model: nn.Module) -> bool:
    """Whether the model computes what `LSTMRuntime` does: no part of it, nor the whole, is another's version."""
    layers, forward = getattr(model, "layers", None), getattr(type(model).forward, "__module__", "")
    return (
        forward == "sparsernn.models.language_model"
        and type(getattr(model, "embedding", None)) is Embedding
        and type(getattr(model, "head", None)) is LinearHead
        and isinstance(layers, Stack)
        and all(type(layer) is LSTM for layer in layers)
        and _fits(model.state_dict())
    )


def _fits(state: Mapping[str, Tensor]) -> bool:
    try:
        count_layers(state)
    except InputError:
        return False
    return True


class LSTMRuntime(LSTMWeights):
    """A language model of stacked LSTM layers that reads one token after the other.

    Args:
        state, masks, products, int8, batch: see `LSTMWeights`.
        threads: of a token; None times one thread against torch's number and keeps the faster.

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
        super().__init__(state, masks, products=products, int8=int8, batch=batch)
        self.threads = 1 if self.library is None else self._threads(threads, batch)
        self.structure.threads = self.threads

    def _threads(self, wanted: int | None, batch: int) -> int:
        assert self.library is not None
        most = self.library.threads(wanted)
        if wanted is not None or most == 1:
            return most
        return int(fastest({str(n): self._timed(n, batch) for n in (1, most)}))

    def _timed(self, threads: int, batch: int) -> Callable[[], None]:
        stream = LSTMStream(self, batch, threads)

        def call() -> None:
            self.structure.threads = threads
            stream.step([0] * batch)

        return call

    def describe(self) -> str:
        """One line: the format of each weight, and the threads."""
        way = "compiled" if self.library else "torch"
        return f"{way}, {self.threads} thread(s): " + ", ".join(f"{n} {k}" for n, k in self.formats().items())

    def stream(self, batch: int = 1) -> Stream:
        """New texts, from a state of zeros; `batch` from 1 to 16."""
        return LSTMStream(self, batch, self.threads)
