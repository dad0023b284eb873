"""Layers put together; `MODELS` names the ones that a recipe can ask for."""

from collections.abc import Callable

from sparsernn.contracts import Model
from sparsernn.models.bidaf import BiDAF
from sparsernn.models.language_model import LanguageModel
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.models.tagger import Tagger

MODELS: dict[str, Callable[..., Model]] = {
    "bidaf": BiDAF,
    "language_model": LanguageModel,
    "sequence_model": SequenceModel,
    "tagger": Tagger,
}

__all__ = ["MODELS", "BiDAF", "LanguageModel", "SequenceModel", "Tagger"]
