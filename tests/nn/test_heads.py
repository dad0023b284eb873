"""Heads: probabilities, likelihood, gradients."""

import torch
from torch.nn import functional

from sparsernn.nn import LinearHead


def case(dtype=torch.double):
    torch.manual_seed(0)
    head = LinearHead(11, 4).to(dtype)
    head.bias.data.normal_()
    return head, torch.randn(5, 3, 4, dtype=dtype), torch.randint(11, (5, 3))


def test_probabilities_sum_to_one_and_nll_is_the_log_probability_at_the_target():
    head, y, target = case()
    log_prob = head.log_prob(y)
    torch.testing.assert_close(log_prob.exp().sum(-1), torch.ones(5, 3, dtype=torch.double))
    at_target = log_prob.gather(2, target.unsqueeze(2)).flatten()
    torch.testing.assert_close(head.nll(y, target), -at_target)


def test_gradients_equal_those_of_cross_entropy_for_any_weight_per_token():
    head, y, target = case()
    y.requires_grad_()
    per_token = torch.randn(15, dtype=torch.double)
    inputs = (y, head.weight, head.bias)
    mine = torch.autograd.grad(head.nll(y, target) @ per_token, inputs)
    plain = functional.cross_entropy(head.logits(y).flatten(0, 1), target.flatten(), reduction="none")
    theirs = torch.autograd.grad(plain @ per_token, inputs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_likelihood_without_gradient_is_the_same():
    head, y, target = case()
    with torch.no_grad():
        quiet = head.nll(y, target)
    torch.testing.assert_close(quiet, head.nll(y, target))


def test_an_improbable_target_has_a_large_but_finite_loss():
    head, y, _target = case(torch.float)
    head.bias.data[3] = -500.0
    assert 400 < head.nll(y[:1, :1], torch.tensor([[3]])).item() < 600


def test_a_tied_head_has_no_weight_of_its_own():
    table = torch.nn.Parameter(torch.randn(11, 4))
    assert LinearHead(11, 4, tied=table).weight is table
