"""The mixture of softmaxes: golden values, pieces of any size, one expert, dropout, settings."""

import math

import pytest
import torch
from torch.nn import functional

from sparsernn.core.errors import InputError
from sparsernn.core.registry import make
from sparsernn.nn import HEADS, LinearHead, MixtureHead
from sparsernn.nn.words import mixture


def random_head(vocabulary=13, hidden=5, embedding=4, **settings):
    torch.manual_seed(0)
    head = MixtureHead(vocabulary, hidden, embedding, **settings).double()
    for parameter in head.parameters():
        parameter.data.normal_()
    return head


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.double)


def by_the_formula(head, y):
    """P(word) summed over the experts as it is written down, (N, V)."""
    experts, size = head.experts, head.weight.shape[1]
    prior = functional.softmax(y @ head.prior.T, -1)
    mixed = 0
    for k in range(experts):
        rows = slice(k * size, (k + 1) * size)
        latent = torch.tanh(y @ head.latent[rows].T + head.latent_bias[rows])
        mixed = mixed + prior[:, k : k + 1] * functional.softmax(latent @ head.weight.T + head.bias, -1)
    return mixed


def test_golden_values():
    head = MixtureHead(4, 3, 2, experts=2).double()
    for parameter in head.parameters():
        parameter.data = (torch.arange(1, parameter.numel() + 1).double().sin() / 2).view_as(parameter)
    head.bias.data, y = double(0.0, 0.1, 0.2, 0.3), double(0.1, -0.2, 0.3)
    prior = (head.prior @ y).softmax(0)
    torch.testing.assert_close(prior, double(0.4890447111, 0.5109552889), atol=1e-10, rtol=0)
    golden = double(0.2310468185, 0.2331695427, 0.2296451844, 0.3061384545)
    torch.testing.assert_close(head.log_prob(y).exp(), golden, atol=1e-10, rtol=0)
    nll = head.nll(y.expand(4, 3), torch.arange(4))
    torch.testing.assert_close(nll, -golden.log(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("logits", [1, 39, 40, 79, 200, 1 << 24])
@pytest.mark.parametrize("per_token", ["alike", "different"])
def test_pieces_of_any_size_give_the_formula_and_its_gradients(monkeypatch, logits, per_token):
    monkeypatch.setattr(mixture, "PIECE", logits)
    head = random_head(experts=3)
    y = torch.randn(7, 5).double().requires_grad_()
    target = torch.tensor([0, 12, 3, 3, 3, 7, 1])
    weights = torch.ones(7).double() / 7 if per_token == "alike" else torch.arange(-3, 4).double()
    inputs = (y, *head.parameters())
    plain = -by_the_formula(head, y).log()
    torch.testing.assert_close(-head.log_prob(y), plain)
    wanted = plain.gather(1, target.unsqueeze(1)).squeeze(1)
    found = head.nll(y, target)
    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        torch.testing.assert_close(head.nll(y, target), wanted)
    mine, theirs = (torch.autograd.grad(loss @ weights, inputs) for loss in (found, wanted))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_the_logits_of_a_window_never_exist_as_a_whole(monkeypatch):
    monkeypatch.setattr(mixture, "PIECE", 3 * 13 * 2)
    head, sizes = random_head(experts=3), []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(t))
            return out

    y = torch.randn(40, 5).double()
    with Watch():
        head.nll(y, torch.zeros(40, dtype=torch.long)).mean().backward()
    assert max(sizes) < 40 * 13


@pytest.mark.parametrize("projection", ["never", "auto"])
def test_one_expert_without_projection_is_the_plain_softmax(projection):
    head = random_head(hidden=4, experts=1, projection=projection)
    plain = LinearHead(13, 4, tied=head.weight)
    plain.bias = head.bias
    assert [name for name, _ in head.named_parameters()] == ["weight", "bias"]
    y, target = torch.randn(6, 2, 4).double(), torch.randint(13, (6, 2))
    torch.testing.assert_close(head.nll(y, target), plain.nll(y, target))
    torch.testing.assert_close(head.log_prob(y), plain.log_prob(y))
    assert head.decodes_directly
    assert [(s.name, s.dim) for s in head.inputs()] == [("weight", 1)]


def test_one_expert_with_projection_has_no_weights_to_choose_with():
    head = random_head(experts=1)
    assert [name for name, _ in head.named_parameters()] == ["latent", "latent_bias", "weight", "bias"]
    y = torch.randn(6, 5).double()
    latent = torch.tanh(y @ head.latent.T + head.latent_bias)
    torch.testing.assert_close(head.log_prob(y), (latent @ head.weight.T + head.bias).log_softmax(1))


def test_automatic_projection_is_none_where_sizes_fit():
    assert MixtureHead(7, 12, 4, experts=3, projection="auto").latent is None
    assert MixtureHead(7, 11, 4, experts=3, projection="auto").latent is not None
    assert MixtureHead(7, 12, 4, experts=3).latent is not None


def test_experts_without_projection_read_their_parts_of_y():
    head = random_head(hidden=8, experts=2, projection="never")
    y = torch.randn(3, 8).double()
    prior = (y @ head.prior.T).softmax(1)
    parts = [(part @ head.weight.T + head.bias).softmax(1) for part in y.split(4, 1)]
    mixed = prior[:, :1] * parts[0] + prior[:, 1:] * parts[1]
    torch.testing.assert_close(head.log_prob(y).exp(), mixed)
    with pytest.raises(InputError, match="no unit below it can be removed"):
        head.inputs()


def test_the_dropout_of_latents_is_one_mask_for_all_time_steps_and_off_in_evaluation():
    head = random_head(embedding=200, experts=2, dropout=0.5)
    y = torch.randn(6, 3, 5).double()
    latents, _ = head._mixed(y)
    gone = (latents == 0).view(6, 3, 400)
    assert torch.equal(gone[0], gone[5])
    assert not torch.equal(gone[0, 0], gone[0, 1])
    assert 0.4 < gone.double().mean() < 0.6
    kept = latents.view(6, 3, 400)[~gone]
    plain = torch.tanh(functional.linear(y, head.latent, head.latent_bias))[~gone]
    torch.testing.assert_close(kept, 2 * plain)
    head.eval()
    assert torch.equal(head.log_prob(y), head.log_prob(y))


def test_with_the_floor_of_the_published_code_no_loss_exceeds_its_logarithm():
    head = random_head(experts=2, floor=1e-8)
    head.bias.data[3] = -100.0
    loss = head.nll(torch.randn(1, 5).double(), torch.tensor([3]))
    assert loss.item() == pytest.approx(8 * math.log(10))
    exact = random_head(experts=2)
    y = torch.randn(4, 5).double()
    torch.testing.assert_close(head.log_prob(y).exp()[:, 0], (by_the_formula(head, y) + 1e-8)[:, 0])
    assert exact.log_prob(y).exp().sum(1).allclose(torch.ones(4).double())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": 0}, "experts is 0; it must be .* at least 1"),
        ({"experts": 2.5}, "head.experts is 2.5; it must be a whole number"),
        ({"dropout": 1.0}, r"dropout is 1.0; it must be .* in \[0, 1\)"),
        ({"floor": -1e-8}, "floor is -1e-08; it must be .* in"),
        ({"projection": "some"}, "projection is 'some'; it must be one of always, auto, never"),
        ({"projection": "never"}, "projection is 'never', but the last hidden size is 5 and not .* 10 x 4"),
        ({"expert": 3}, "Did you mean 'experts'"),
    ],
)
def test_bad_settings_are_answered_in_one_sentence(settings, message):
    context = {"vocabulary_size": 13, "input_size": 5, "embedding_size": 4, "tied": None}
    with pytest.raises(InputError, match=message):
        make("head", HEADS, {"name": "mixture", **settings}, **context)
