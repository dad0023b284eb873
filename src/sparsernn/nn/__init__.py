"""Layers, embeddings and heads; `LAYERS` and `HEADS` name the ones that a recipe can ask for."""

from collections.abc import Callable

from sparsernn.nn.block_lstm import BlockLSTM
from sparsernn.nn.embedding import Embedding
from sparsernn.nn.heads import Head, LinearHead
from sparsernn.nn.layer import Layer, Stack
from sparsernn.nn.lstm import LSTM
from sparsernn.nn.mixture import MixtureHead
from sparsernn.nn.split_softmax import SplitHead

LAYERS: dict[str, Callable[..., Layer]] = {"block_lstm": BlockLSTM, "lstm": LSTM}
HEADS: dict[str, Callable[..., Head]] = {"linear": LinearHead, "mixture": MixtureHead, "split": SplitHead}

__all__ = [
    "HEADS",
    "LAYERS",
    "LSTM",
    "BlockLSTM",
    "Embedding",
    "Head",
    "Layer",
    "LinearHead",
    "MixtureHead",
    "SplitHead",
    "Stack",
]
