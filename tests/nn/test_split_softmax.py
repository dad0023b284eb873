"""The split softmax: the two levels written out, every number of splits, its own parameters."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sparsernn.core.errors import InputError
from sparsernn.nn import SplitHead

SPLITS = [[], [1], [4], [10], [3, 4], [3, 4, 5], [2, 6, 10], [1, 2, 3], [2, 3, 8, 9]]


def random_head(splits, vocabulary=11, size=4):
    torch.manual_seed(0)
    head = SplitHead(vocabulary, size, splits=splits).double()
    for parameter in head.parameters():
        parameter.data.normal_()
    return head


def by_hand(head, y):
    """P(word), one word and one class at a time."""
    borders = [0, *head.splits, len(head.bias)]
    scores = y @ head.weight.T + head.bias
    tombs = (y @ head.tombstones.T + head.tombstone_bias) if head.splits else y[:, :0]
    norm = scores[:, : borders[1]].exp().sum(1) + tombs.exp().sum(1)
    columns = []
    for word in range(len(head.bias)):
        number = next(c for c, end in enumerate(borders[1:]) if word < end)
        if number == 0:
            columns.append(scores[:, word].exp() / norm)
        else:
            inside = scores[:, borders[number] : borders[number + 1]].exp()
            share = inside[:, word - borders[number]] / inside.sum(1)
            columns.append(tombs[:, number - 1].exp() / norm * share)
    return torch.stack(columns, 1)


@pytest.mark.parametrize("splits", SPLITS)
def test_both_levels_are_those_written_out(splits):
    head = random_head(splits)
    y = torch.randn(22, 4).double().requires_grad_()
    target = torch.arange(22) % 11
    wanted = by_hand(head, y)
    torch.testing.assert_close(wanted.sum(1), torch.ones(22).double())
    torch.testing.assert_close(head.log_prob(y).exp(), wanted)
    nll = head.nll(y, target)
    at_target = -wanted.gather(1, target.unsqueeze(1)).squeeze(1).log()
    torch.testing.assert_close(nll, at_target)
    inputs = (y, *head.parameters())
    weights = torch.randn(22).double()
    mine, theirs = (torch.autograd.grad(loss @ weights, inputs) for loss in (nll, at_target))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_without_splits_it_is_cross_entropy():
    head = random_head([])
    y, target = torch.randn(6, 4).double(), torch.randint(11, (6,))
    plain = functional.cross_entropy(functional.linear(y, head.weight, head.bias), target, reduction="none")
    torch.testing.assert_close(head.nll(y, target), plain)
    assert [name for name, _ in head.named_parameters()] == ["weight", "bias"]


@given(st.data())
def test_probabilities_sum_to_one_for_any_splits(data):
    vocabulary = data.draw(st.integers(2, 30))
    splits = sorted(data.draw(st.sets(st.integers(1, vocabulary - 1), max_size=5)))
    head = random_head(splits, vocabulary)
    log_prob = head.log_prob(torch.randn(2, 3, 4).double())
    torch.testing.assert_close(log_prob.exp().sum(-1), torch.ones(2, 3).double())


@pytest.mark.parametrize("splits", [[4], [3, 4, 9]])
def test_a_class_without_targets_gets_no_gradient_but_its_tombstone_does(splits):
    head = random_head(splits)
    head.nll(torch.randn(5, 4).double(), torch.tensor([0, 1, 2, 0, 1])).mean().backward()
    assert torch.equal(head.weight.grad[splits[0] :], torch.zeros_like(head.weight[splits[0] :]))
    assert (head.tombstones.grad != 0).all()
    assert (head.tombstone_bias.grad != 0).all()


def test_tombstones_are_parameters_of_the_head_and_start_at_zero():
    head = SplitHead(11, 4, splits=[3, 5])
    names = {name: tuple(p.shape) for name, p in head.named_parameters()}
    assert names == {"weight": (11, 4), "bias": (11,), "tombstones": (2, 4), "tombstone_bias": (2,)}
    assert not head.tombstones.any()
    assert not head.tombstone_bias.any()


@pytest.mark.parametrize(
    ("vocabulary", "splits"),
    [
        (10_000, ()),
        (75_000, ()),
        (75_001, (2_800, 20_000)),
        (267_735, (2_800, 20_000, 76_000)),
        (793_471, (4_200, 35_000, 180_000)),
    ],
)
def test_splits_follow_from_the_vocabulary_unless_given(vocabulary, splits):
    with torch.device("meta"):
        assert SplitHead(vocabulary, 4).splits == splits


@pytest.mark.parametrize("splits", [[0, 3], [3, 3], [5, 3], [11], [2.5], [True], "3", 3])
def test_splits_that_are_no_rising_word_numbers_are_refused(splits):
    with pytest.raises(
        InputError,
        match=r"rising word numbers between 1 and 10|a list that rises, each entry a whole number of at least 1",
    ):
        SplitHead(11, 4, splits=splits)
