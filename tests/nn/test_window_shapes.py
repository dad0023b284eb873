"""Windows, states, lengths and words that a layer cannot read: a sentence, for torch's kernels read beyond memory."""

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.nn import (
    GRU,
    LSTM,
    RHN,
    BlockEmbedding,
    BlockHead,
    BlockLSTM,
    BlockMixtureHead,
    Elman,
    Embedding,
)
from sparsernn.sparsity import sparsify

X = torch.ones(5, 3, 4)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("x", "given", "said"),
    [
        (torch.ones(5, 3, 3), {}, r"the shape \(5, 3, 3\); this layer reads \(T, B, 4\)"),
        (torch.ones(5, 3, 7), {}, r"the shape \(5, 3, 7\)"),
        (torch.ones(5, 4), {}, r"the shape \(5, 4\)"),
        (
            X,
            {"state": 1},
            r"the state has the shape .*1, 6\); for 3 sequences and 6 units it must be \(3, 6\)",
        ),
        (X[:, :1], {"state": 3}, r"the state has the shape .*3, 6\); for 1 sequences"),
        (X, {"lengths": torch.tensor([5, 3])}, r"lengths has the shape \(2,\)"),
        (X, {"lengths": torch.tensor([5, 3, 1, 2])}, r"lengths has the shape \(4,\)"),
        (X, {"lengths": torch.tensor([5.0, 3.0, 1.5])}, "whole numbers"),
        (X, {"lengths": torch.tensor([6, 3, 1])}, "lengths go from 1 to 6; they must lie in 1 to 5"),
        (X, {"lengths": torch.tensor([5, 3, 0])}, "lengths go from 0 to 5"),
    ],
)
def test_what_does_not_fit_is_one_sentence(x, given, said, training, bidirectional):
    layer = BlockLSTM(4, 6, blocks=2, bidirectional=bidirectional).train(training)
    if "state" in given:
        given = {"state": layer.initial_state(given["state"])}
    with pytest.raises(InputError, match=said):
        layer(x, **given)


@pytest.mark.parametrize("word", [-1, -3, 10, -100])
def test_no_number_stands_for_a_word_from_behind(word):
    torch.manual_seed(0)
    words, y = torch.tensor([[1, word]]), torch.randn(1, 2, 4)
    table, plain = BlockEmbedding(10, 4, blocks=2, density=0.6), Embedding(10, 4, product="sparse")
    for learning in (True, False):
        with torch.set_grad_enabled(learning):
            for read in (table, plain):
                with pytest.raises(IndexError):
                    read(words)
            for head in (BlockHead(4, table), BlockMixtureHead(4, 4, table, experts=2)):
                with pytest.raises(IndexError):
                    head.nll(y, words)
                with pytest.raises((IndexError, RuntimeError)):
                    head.nll(y, words[:, :1].clamp(0, 9))
    sparse = sparsify(plain, torch.optim.SGD(plain.parameters(), lr=0.1), method="static", density=0.5)
    with sparse.condensed(), pytest.raises(IndexError):
        plain(words)


@pytest.mark.parametrize("kind", [LSTM, GRU, RHN, Elman])
@pytest.mark.parametrize("training", [True, False])
def test_every_layer_refuses_what_does_not_fit(kind, training):
    layer = kind(4, 6).train(training)
    for x, said in ((torch.ones(5, 3, 3), r"\(5, 3, 3\)"), (torch.ones(5, 3, 7), r"\(5, 3, 7\)")):
        with pytest.raises(InputError, match=rf"the window has the shape {said}"):
            layer(x)
    with pytest.raises(InputError, match="the window has the shape"):
        layer(torch.ones(5, 4))
    for batch in (1, 2, 5):
        with pytest.raises(InputError, match="the state has the shape"):
            layer(X, layer.initial_state(batch))


@pytest.mark.parametrize("kind", [LSTM, RHN, Elman])
def test_every_layer_that_takes_lengths_refuses_others(kind):
    layer = kind(4, 6)
    for lengths in ([5, 3], [5, 3, 1, 2], [6, 3, 1], [5, -1, 1], [5.0, 3.0, 1.5]):
        with pytest.raises(InputError, match="lengths"):
            layer(X, lengths=torch.tensor(lengths))
