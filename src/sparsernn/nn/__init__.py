"""Layers, embeddings and heads; `LAYERS`, `EMBEDDINGS` and `HEADS` name the ones that a recipe can ask for."""

from collections.abc import Callable

from sparsernn.nn.blocks.block_embedding import BlockEmbedding
from sparsernn.nn.blocks.block_head import BlockHead
from sparsernn.nn.blocks.block_lstm import BlockLSTM
from sparsernn.nn.blocks.block_mixture import BlockMixtureHead
from sparsernn.nn.cells.elman import Elman
from sparsernn.nn.cells.gru import GRU
from sparsernn.nn.cells.lstm import LSTM
from sparsernn.nn.cells.onlstm import ONLSTM
from sparsernn.nn.cells.qrnn import QRNN
from sparsernn.nn.cells.rhn import RHN
from sparsernn.nn.drive.layer import Layer, Stack
from sparsernn.nn.drive.recurrent import Bidirectional, Recurrent
from sparsernn.nn.words.heads import Head, LinearHead
from sparsernn.nn.words.mixture import MixtureHead
from sparsernn.nn.words.split_softmax import SplitHead
from sparsernn.nn.words.word_embedding import Embedding
from sparsernn.structure.mixed_width import UnevenRNN

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
TIED_HEADS: dict[str, dict[str, Callable[..., Head]]] = {
    "block": {"linear": BlockHead, "mixture": BlockMixtureHead},
}
"""Embedding -> the heads that can decode with it; embeddings that are not here are matrices, which all heads take."""

__all__ = [
    "EMBEDDINGS",
    "GRU",
    "HEADS",
    "LAYERS",
    "LSTM",
    "ONLSTM",
    "QRNN",
    "RHN",
    "TIED_HEADS",
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
