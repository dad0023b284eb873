"""Heads: what holds for every one of them, and the plain softmax."""

import pytest
import torch
from torch.nn import functional

from sparsernn.core.errors import InputError
from sparsernn.core.registry import make
from sparsernn.nn import HEADS, LinearHead
from sparsernn.nn.words.softmax import softmax_nll

V, H = 11, 4

KINDS = {
    "linear": {"name": "linear"},
    "mixture": {"name": "mixture", "experts": 3, "dropout": 0.0},
    "mixture with floor": {"name": "mixture", "experts": 2, "floor": 1e-3},
    "split": {"name": "split", "splits": [3, 4, 9]},
}


@pytest.fixture(params=KINDS)
def kind(request):
    """Every head in turn."""
    return request.param


def build(kind, tied=False, size=H):
    """A head with weights of some size in every parameter, in double precision."""
    torch.manual_seed(0)
    table = torch.nn.Parameter(torch.randn(V, size)) if tied else None
    head = make(
        "head", HEADS, KINDS[kind], vocabulary_size=V, input_size=H, embedding_size=size, tied=table
    ).double()
    for parameter in head.parameters():
        parameter.data.normal_()
    return head


def case(kind="linear", tied=False):
    head = build(kind, tied)
    return head, torch.randn(5, 3, H, dtype=torch.double), torch.randint(V, (5, 3))


def test_every_head_is_in_the_matrix():
    assert {spec["name"] for spec in KINDS.values()} == set(HEADS)


@pytest.mark.parametrize("tied", [False, True])
def test_probabilities_sum_to_one_and_nll_is_the_log_probability_at_the_target(kind, tied):
    head, y, target = case(kind, tied)
    log_prob = head.log_prob(y)
    assert log_prob.shape == (5, 3, V)
    excess = V * KINDS[kind].get("floor", 0.0)
    torch.testing.assert_close(log_prob.exp().sum(-1), torch.full((5, 3), 1 + excess, dtype=torch.double))
    at_target = log_prob.gather(2, target.unsqueeze(2)).flatten()
    torch.testing.assert_close(head.nll(y, target), -at_target)


def test_gradients_are_those_of_the_log_probabilities_for_any_weight_per_token(kind):
    head, y, target = case(kind, tied=True)
    y.requires_grad_()
    inputs = (y, *head.parameters())
    for weights in (torch.randn(15).double(), torch.full((15,), -0.7).double()):
        mine = torch.autograd.grad(head.nll(y, target) @ weights, inputs)
        plain = -head.log_prob(y).gather(2, target.unsqueeze(2)).flatten()
        theirs = torch.autograd.grad(plain @ weights, inputs)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b)
            assert b.abs().sum() > 0


class Likelihood(torch.nn.Module):
    """A head as a module whose forward is its likelihood."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, y, target):
        return self.head.nll(y, target)


@pytest.mark.parametrize("tokens", [1, 4])
def test_gradients_equal_finite_differences(kind, tokens):
    model = Likelihood(build(kind))
    names, values = zip(*model.named_parameters(), strict=True)
    y = torch.randn(tokens, H, dtype=torch.double, requires_grad=True)
    target = torch.arange(tokens) * 3

    def nll(y, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, given, (y, target))

    assert torch.autograd.gradcheck(nll, (y, *values))


def test_likelihood_without_gradient_is_the_same(kind):
    head, y, target = case(kind)
    with torch.no_grad():
        quiet = head.nll(y, target)
    assert not quiet.requires_grad
    torch.testing.assert_close(quiet, head.nll(y, target))


def test_a_backward_pass_may_be_repeated(kind):
    head, y, target = case(kind)
    loss = head.nll(y, target).mean()
    first = torch.autograd.grad(loss, list(head.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(head.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_tied_head_has_no_weight_of_its_own(kind):
    table = torch.nn.Parameter(torch.randn(V, H))
    context = {"vocabulary_size": V, "input_size": H, "embedding_size": H}
    assert make("head", HEADS, KINDS[kind], tied=table, **context).weight is table


def test_a_feature_that_is_zeroed_in_all_its_slices_is_not_read(kind):
    head, y, _ = case(kind)
    for s in head.inputs():
        s.parameter.data.index_fill_(s.dim, s.indices(torch.tensor([2])), 0.0)
    before = head.log_prob(y)
    y[..., 2] += 5
    assert torch.equal(head.log_prob(y), before)
    y[..., 1] += 5
    assert not torch.allclose(head.log_prob(y), before)


def test_an_improbable_target_has_a_large_but_finite_loss(kind):
    head, y, _ = case(kind)
    head.bias.data[5] = -500.0
    loss = head.float().nll(y[:1, :1].float(), torch.tensor([[5]])).item()
    assert loss == pytest.approx(6.9, abs=0.1) if "floor" in kind else 400 < loss < 600


@pytest.mark.parametrize("name", ["linear", "split"])
def test_an_embedding_of_another_width_cannot_be_tied(name):
    table = torch.nn.Parameter(torch.randn(V, H + 1))
    with pytest.raises(InputError, match="tied weights need a last hidden size equal to embedding_size"):
        HEADS[name](V, H, tied=table)


def test_the_plain_softmax_is_cross_entropy():
    head, y, target = case()
    plain = functional.cross_entropy(head.logits(y).flatten(0, 1), target.flatten(), reduction="none")
    torch.testing.assert_close(head.nll(y, target), plain)
    assert isinstance(head, LinearHead)


@pytest.mark.parametrize("sure", [0.0, 9.0], ids=["nothing is known", "the target is nearly certain"])
def test_a_rounded_loss_and_its_gradients_are_near_the_exact_ones(sure):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(12, 8), torch.randn(30, 8) / 3, torch.randn(30) / 3
    target = torch.randint(30, (12,))
    with torch.no_grad():
        weight[target] += sure * x / x.square().sum(1, keepdim=True)  # the last row of a target wins
    parts = [t.to(torch.bfloat16).float().requires_grad_() for t in (x, weight, bias)]
    weights = torch.rand(12)
    exact = functional.cross_entropy(functional.linear(*parts), target, reduction="none")
    wanted = torch.autograd.grad(exact @ weights, parts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = softmax_nll(*parts, target)
    found = torch.autograd.grad(rounded @ weights, parts)
    assert rounded.dtype == torch.float32
    # Scores up to 16 are off by 2^-5 when rounded, and that is what probabilities are off by, relative to themselves.
    torch.testing.assert_close(rounded, exact, rtol=2**-5, atol=2**-6 if not sure else 2**-4)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        assert one.is_contiguous()
        assert (one - other).norm() <= 2**-4 * other.norm()
