"""Layers, embeddings and heads; `LAYERS` and `HEADS` name the ones that a recipe can ask for."""

from collections.abc import Callable
from typing import Any

from sparsernn.nn.embedding import Embedding
from sparsernn.nn.heads import LinearHead
from sparsernn.nn.layer import Layer, Stack
from sparsernn.nn.lstm import LSTM

LAYERS: dict[str, Callable[..., Layer]] = {"lstm": LSTM}
HEADS: dict[str, Callable[..., Any]] = {"linear": LinearHead}

__all__ = ["HEADS", "LAYERS", "LSTM", "Embedding", "Layer", "LinearHead", "Stack"]
