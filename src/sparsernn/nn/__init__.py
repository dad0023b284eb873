"""Layers, embeddings and heads; `LAYERS`, `EMBEDDINGS` and `HEADS` name the ones that a recipe can ask for."""

from collections.abc import Callable

from sparsernn.nn.block_embedding import BlockEmbedding
from sparsernn.nn.block_head import BlockHead
from sparsernn.nn.block_lstm import BlockLSTM
from sparsernn.nn.elman import Elman
from sparsernn.nn.embedding import Embedding
from sparsernn.nn.gru import GRU
from sparsernn.nn.heads import Head, LinearHead
from sparsernn.nn.layer import Layer, Stack
from sparsernn.nn.lstm import LSTM
from sparsernn.nn.mixture import MixtureHead
from sparsernn.nn.onlstm import ONLSTM
from sparsernn.nn.qrnn import QRNN
from sparsernn.nn.recurrent import Bidirectional, Recurrent
from sparsernn.nn.rhn import RHN
from sparsernn.nn.split_softmax import SplitHead
from sparsernn.nn.uneven import UnevenRNN

EMBEDDINGS: dict[str, Callable[..., Embedding | BlockEmbedding]] = {
    "block": BlockEmbedding,
    "dense": Embedding,
}
LAYERS: dict[str, Callable[..., Layer]] = {
    "block_lstm": BlockLSTM,
    "elman": Elman,
    "gru": GRU,
    "lstm": LSTM,
    "onlstm": ONLSTM,
    "qrnn": QRNN,
    "rhn": RHN,
}
HEADS: dict[str, Callable[..., Head]] = {"linear": LinearHead, "mixture": MixtureHead, "split": SplitHead}

__all__ = [
    "EMBEDDINGS",
    "GRU",
    "HEADS",
    "LAYERS",
    "LSTM",
    "ONLSTM",
    "QRNN",
    "RHN",
    "Bidirectional",
    "BlockEmbedding",
    "BlockHead",
    "BlockLSTM",
    "Elman",
    "Embedding",
    "Head",
    "Layer",
    "LinearHead",
    "MixtureHead",
    "Recurrent",
    "SplitHead",
    "Stack",
    "UnevenRNN",
]
