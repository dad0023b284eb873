"""Layers put together; `MODELS` names the ones that a recipe can ask for."""

from collections.abc import Callable

from torch import nn

from sparsernn.models.language_model import LanguageModel
from sparsernn.models.sequence_model import SequenceModel

MODELS: dict[str, Callable[..., nn.Module]] = {
    "language_model": LanguageModel,
    "sequence_model": SequenceModel,
}

__all__ = ["MODELS", "LanguageModel", "SequenceModel"]
