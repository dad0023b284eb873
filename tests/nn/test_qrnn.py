"""The quasi-recurrent layer against its equations step by step, its state, its dropouts, and the language model."""

import itertools

import pytest
import torch
from torch.nn import functional

from sparsernn.core.errors import InputError
from sparsernn.models import LanguageModel
from sparsernn.nn.cells.qrnn import POOLINGS, QRNN
from sparsernn.structure.units import remove

T, B, WIDE, H = 7, 3, 4, 5
SETTINGS = [{"window": w, "pooling": p} for w, p in itertools.product((1, 2, 3), POOLINGS)]


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def layer_of(settings, seed=0):
    torch.manual_seed(seed)
    return QRNN(WIDE, H, **settings).double()


def state_for(layer, seed=5):
    return tuple(
        numbers(*s.shape, seed=seed + k).requires_grad_() for k, s in enumerate(layer.initial_state(B))
    )


def step_by_step(layer, x, state):
    """The equations, one step and one gate at a time."""
    c, *inputs = state
    weights = dict(zip(layer.gates, layer.weight_ih.chunk(len(layer.gates)), strict=True))
    biases = dict(zip(layer.gates, layer.bias_ih.chunk(len(layer.gates)), strict=True))
    outputs = []
    for x_t in x:
        seen = torch.cat([x_t, *inputs], -1)
        gate = {name: functional.linear(seen, weights[name], biases[name]) for name in layer.gates}
        gate = {name: pre.tanh() if name == "z" else pre.sigmoid() for name, pre in gate.items()}
        if layer.pooling == "ifo":
            c = gate["i"] * gate["z"] + gate["f"] * c
        else:
            c = gate["f"] * gate["z"] + (1 - gate["f"]) * c
        outputs.append(gate["o"] * c if "o" in gate else c)
        inputs = [x_t, *inputs][: len(inputs)]
    return torch.stack(outputs), (c, *inputs)


def all_gradients(run, layer, x, state):
    """Outputs, final state, and the gradients of a loss that needs every part of both."""
    y, last = run(layer, x, state)
    parts = [y, *last]
    loss = sum((part * numbers(*part.shape, seed=20 + k)).sum() for k, part in enumerate(parts))
    return [*parts, *torch.autograd.grad(loss, [x, *state, *layer.parameters()])]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_is_its_equations_step_by_step(settings):
    layer, x = layer_of(settings), numbers(T, B, WIDE).requires_grad_()
    got = all_gradients(lambda q, x, s: q(x, s), layer, x, state_for(layer))
    wanted = all_gradients(step_by_step, layer, x, state_for(layer))
    for ours, exact in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("cuts", [(1, 4), (3,), (0, 6)])
def test_a_stream_in_pieces_is_the_stream(settings, cuts):
    """Windows shorter than the layer's own included."""
    layer, x = layer_of(settings), numbers(T, B, WIDE)
    state = state_for(layer)
    whole, last = layer(x, state)
    pieces, carried = [], state
    for part in x.tensor_split(cuts):
        y, carried = layer(part, carried)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=1e-12, atol=1e-12)
    for ours, exact in zip(carried, last, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)


def test_the_gradient_goes_through_the_previous_input_too():
    """What a cut would lose: the first step of the second window reads the last input of the first."""
    layer = layer_of({"window": 2})
    x = numbers(T, B, WIDE).requires_grad_()
    (whole,) = torch.autograd.grad(layer(x)[0][4].sum(), x)
    _, state = layer(x[:4])
    (pieces,) = torch.autograd.grad(layer(x[4:], state)[0][0].sum(), x)
    torch.testing.assert_close(pieces, whole)
    _, (c, _) = layer(x[:4])
    (lost,) = torch.autograd.grad(layer(x[4:], (c, x[3].detach()))[0][0].sum(), x)
    assert not torch.allclose(lost, whole)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_sequences_of_different_lengths_are_each_alone(settings):
    layer, x, lengths = layer_of(settings), numbers(T, B, WIDE), [7, 0, 2]
    state = state_for(layer)
    y, last = layer(x, state, lengths=torch.tensor(lengths))
    for b, n in enumerate(lengths):
        alone, after = layer(x[:n, b : b + 1], tuple(s[b : b + 1] for s in state))
        torch.testing.assert_close(y[:n, b : b + 1], alone)
        assert not y[n:, b].any()
        for ours, exact in zip(last, after, strict=True):
            torch.testing.assert_close(ours[b : b + 1], exact)


@pytest.mark.parametrize("lengths", [None, torch.tensor([7, 3, 1])])
def test_reading_from_the_end(lengths):
    forth, back = layer_of({"window": 2}), layer_of({"window": 2, "reverse": True})
    x = numbers(T, B, WIDE)
    y, _ = back(x, lengths=lengths)
    for b, n in enumerate([T] * B if lengths is None else lengths.tolist()):
        turned, _ = forth(x[:n, b : b + 1].flip(0))
        torch.testing.assert_close(y[:n, b : b + 1], turned.flip(0))


def test_batch_first_changes_the_layout_and_nothing_else():
    one, two = layer_of({"window": 2}), layer_of({"window": 2, "batch_first": True})
    x = numbers(T, B, WIDE)
    (y, state), (turned, same) = one(x), two(x.transpose(0, 1))
    assert torch.equal(turned.transpose(0, 1), y)
    assert all(torch.equal(a, b) for a, b in zip(state, same, strict=True))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_zoneout_of_one_keeps_the_state_for_ever(pooling):
    layer = layer_of({"pooling": pooling, "zoneout": 1.0})
    state = state_for(layer)
    _, (c,) = layer(numbers(T, B, WIDE), state)
    assert torch.equal(c, state[0])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_zoneout_holds_units_in_training_and_slows_all_in_evaluation(pooling):
    layer = layer_of({"pooling": pooling, "zoneout": 0.3})
    x, (c0,) = numbers(1, 400, WIDE), (numbers(400, H),)
    _, (c,) = layer(x, (c0,))
    assert (c == c0).double().mean().item() == pytest.approx(0.3, abs=0.05)
    plain = layer_of({"pooling": pooling})
    _, (free,) = plain(x, (c0,))
    torch.testing.assert_close(torch.where(c == c0, free, c), free)  # those that move, move as without
    _, (mean,) = layer.eval()(x, (c0,))
    torch.testing.assert_close(mean, 0.3 * c0 + 0.7 * free)
    assert torch.autograd.gradcheck(lambda x: layer(x)[0], numbers(2, 2, WIDE).requires_grad_())


def test_weights_are_dropped_from_all_gates_once_per_pass_and_never_in_evaluation():
    layer, x = layer_of({"weight_drop": 0.4}), torch.zeros(6, 2, WIDE).double()
    x[:, :, 0] = 1
    with torch.no_grad():
        layer.weight_ih.fill_(1.0)
        layer.bias_ih.zero_()
    pre = layer._project(x, 6)
    assert set(pre.detach().unique().tolist()) == {0.0, 1 / 0.6}
    assert torch.equal(pre, pre[0, 0].expand_as(pre))
    assert not torch.equal(layer._project(x, 6), pre)
    assert layer.eval()._project(x, 6).unique().tolist() == [1.0]


def test_removed_units_leave_the_same_function():
    """Between two layers of which the second reads two inputs."""
    torch.manual_seed(0)
    specs = [{"name": "qrnn", "window": 2}, {"name": "qrnn", "window": 2, "pooling": "ifo"}]
    model = LanguageModel(9, 4, [6, 4], layer=specs, tied=True).double()
    words, units = torch.randint(9, (5, 2)), model.units()
    keeps = [torch.tensor([True, False, True, True, False, True]), torch.tensor([True, True, False, True])]
    for group, keep in zip(units, keeps, strict=True):
        group.zero((~keep).nonzero().squeeze(1))
    before = model.head.log_prob(model(words).dropped)
    remove(model, units, keeps)
    assert [layer.hidden_size for layer in model.layers.members] == [4, 3]
    assert [layer.input_size for layer in model.layers.members] == [3, 4]
    torch.testing.assert_close(model.head.log_prob(model(words).dropped), before)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_unit_without_candidate_is_silent(pooling):
    layer = layer_of({"pooling": pooling, "window": 2})
    with torch.no_grad():
        for s in layer.silence():
            s.parameter.index_fill_(s.dim, s.indices(torch.tensor([2])), 0.0)
    y, (c, _) = layer(numbers(T, B, WIDE))
    assert not y[..., 2].any()
    assert not c[:, 2].any()
    assert y[..., [0, 1, 3, 4]].all()


def test_first_weights_are_even_within_one_over_the_root_of_what_a_gate_reads():
    torch.manual_seed(0)
    layer = QRNN(8, 50, window=2)
    for p in layer.parameters():
        assert 0.9 / 4 < float(p.abs().max().detach()) <= 1 / 4


@pytest.mark.parametrize(("vocabulary", "count"), [(10_000, 24_020_150), (33_278, 33_354_628)])
def test_published_parameter_counts(vocabulary, count):
    layers = [{"name": "qrnn", "window": 2}, "qrnn", "qrnn", "qrnn"]
    with torch.device("meta"):
        model = LanguageModel(vocabulary, 400, [1550, 1550, 1550, 400], layer=layers, tied=True)
        elementwise = [QRNN(50, 50, window=2), torch.nn.Linear(1, 50), torch.nn.Linear(50, 1)]
    assert sum(p.numel() for p in model.parameters()) == count
    assert sum(p.numel() for layer in model.layers for p in layer.parameters()) == 20_010_150
    assert sum(p.numel() for module in elementwise for p in module.parameters()) == 15_301  # of a synthesizer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"pooling": "of"}, "pooling is 'of'; it must be one of f, fo, ifo"),
        ({"zoneout": -0.1}, "zoneout is -0.1"),
        ({"weight_drop": 1.0}, "weight_drop is 1.0"),
        ({"hidden_size": 0}, "hidden_size is 0"),
    ],
)
def test_impossible_settings_are_one_sentence(settings, message):
    with pytest.raises(InputError, match=message):
        QRNN(WIDE, **{"hidden_size": H, **settings})


def test_a_carried_state_does_not_hold_on_to_its_window():
    layer = layer_of({"window": 3})
    _, state = layer(numbers(50, B, WIDE))
    assert [s.untyped_storage().nbytes() for s in state] == [8 * s.numel() for s in state]
