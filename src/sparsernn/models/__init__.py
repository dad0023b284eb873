"""Layers put together; `MODELS` names the ones that a recipe can ask for."""

from collections.abc import Callable

from torch import nn

from sparsernn.models.language_model import LanguageModel

MODELS: dict[str, Callable[..., nn.Module]] = {"language_model": LanguageModel}

__all__ = ["MODELS", "LanguageModel"]
