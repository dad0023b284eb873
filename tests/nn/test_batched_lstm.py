"""Several LSTMs as one of more rows, against the layer that reads with one after the other."""

import pytest
import torch

from sparsernn.nn import BlockLSTM
from sparsernn.nn.blocks import batched_lstm
from sparsernn.nn.drive import loop_choice
from sparsernn.nn.drive.recurrent import within

T, B, D, H = 5, 3, 9, 10
SETTINGS = {
    "even": {"blocks": 2},
    "one": {"blocks": 1},
    "uneven": {"blocks": [[2, 0, 4], [5, 1, 8], [3, 2, 9]]},
    "both ways": {"blocks": 2, "bidirectional": True},
    "both ways, uneven": {"blocks": 3, "density": 0.6, "bidirectional": True},
}


def given(layer, dtype=torch.double, seed=0):
    """An input and a first state, (D, B, H) each."""
    random, sides = torch.Generator().manual_seed(seed), 1 + layer.bidirectional
    shapes = ((T, B, D), (sides, B, H), (sides, B, H))
    return [torch.randn(shape, generator=random, dtype=dtype).requires_grad_() for shape in shapes]


def gradients(outputs, inputs):
    """Of a number that each output has its own part in."""
    weighed = [(y * torch.sin(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)).sum() for y in outputs]
    return torch.autograd.grad(sum(weighed), inputs)


def one_by_one(layer, x, h, c, lengths=None):
    """What the layer gives, its state with a direction in any case."""
    if layer.bidirectional:
        y, (h, c) = layer(x, (h, c), lengths)
        return y, h, c
    y, (h, c) = layer(x, (h.squeeze(0), c.squeeze(0)), lengths)
    return y, h.unsqueeze(0), c.unsqueeze(0)


@pytest.mark.parametrize("lengths", [None, [5, 2, 4], [1, 3, 1]], ids=str)
@pytest.mark.parametrize("name", SETTINGS)
def test_all_at_once_are_one_after_the_other(name, lengths):
    torch.manual_seed(0)
    layer = BlockLSTM(D, H, **SETTINGS[name]).double()
    x, h, c = given(layer)
    lengths = None if lengths is None else torch.tensor(lengths)
    wanted = one_by_one(layer, x, h, c, lengths)
    valid = None if lengths is None else within(lengths, T, B)
    found = batched_lstm.read(layer._parts(layer._own()), x, h, c, valid=valid)
    inputs = [x, h, c, *layer.parameters()]
    for ours, exact in zip(
        (*found, *gradients(found, inputs)), (*wanted, *gradients(wanted, inputs)), strict=True
    ):
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "error"), [(torch.double, 1e-10), (torch.float32, 1e-5)])
def test_the_gates_in_triton_give_the_same(interpreted, dtype, error):
    torch.manual_seed(0)
    layer = BlockLSTM(D, H, **SETTINGS["uneven"]).to(dtype)
    x, h, c = given(layer, dtype)
    wanted, inputs = one_by_one(layer, x, h, c), [x, h, c, *layer.parameters()]
    assert interpreted.launched == []
    found = batched_lstm.read(layer._parts(layer._own()), x, h, c)
    ours, exact = gradients(found, inputs), gradients(wanted, inputs)
    assert interpreted.launched == ["_gates"] * T + ["_gates_back"] * T
    for a, b in zip((*found, *ours), (*wanted, *exact), strict=True):
        torch.testing.assert_close(a, b, rtol=error, atol=error)


def test_one_step_and_none_to_learn():
    torch.manual_seed(0)
    layer = BlockLSTM(D, H, **SETTINGS["uneven"]).double()
    x, h, c = given(layer)
    parts = layer._parts(layer._own())
    with torch.no_grad():
        for ours, exact in zip(batched_lstm.read(parts, x, h, c), one_by_one(layer, x, h, c), strict=True):
            torch.testing.assert_close(ours, exact)
    found, wanted = batched_lstm.read(parts, x[:1], h, c), one_by_one(layer, x[:1], h, c)
    inputs = [x, h, c, *layer.parameters()]
    for ours, exact in zip(gradients(found, inputs), gradients(wanted, inputs), strict=True):
        torch.testing.assert_close(ours, exact)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_parameter_has_a_gradient_of_its_own(name):
    """What is done to one in place, as a clip does, is done to no other."""
    layer = BlockLSTM(D, H, **SETTINGS[name]).double()
    batched_lstm.read(layer._parts(layer._own()), *given(layer))[0].sum().backward()
    before = [p.grad.clone() for p in layer.parameters()]
    for p in layer.parameters():
        p.grad.mul_(2.0)
    for p, single in zip(layer.parameters(), before, strict=True):
        assert torch.equal(p.grad, 2 * single)


def test_a_component_without_units_is_left_out():
    torch.manual_seed(0)
    layer = BlockLSTM(D, H, **SETTINGS["uneven"]).double()
    layer.weight_hh_1.data = torch.empty(0, 0, dtype=torch.double)
    layer.weight_ih_1.data = torch.empty(0, 7, dtype=torch.double)
    layer.bias_ih_1.data = layer.bias_hh_1.data = torch.empty(0, dtype=torch.double)
    x, h, c = given(layer)
    h, c = h[..., :5], c[..., :5]
    found = batched_lstm.read(layer._parts(layer._own()), x, h, c)
    for ours, exact in zip(found, one_by_one(layer, x, h, c), strict=True):
        torch.testing.assert_close(ours, exact)


def test_weights_are_dropped_once_for_a_window():
    """A weight that was dropped has no gradient, whichever step it met; those of inputs all have one."""
    torch.manual_seed(0)
    layer = BlockLSTM(D, 80, blocks=2).double()
    x, state = torch.randn(T, B, D, dtype=torch.double), torch.ones(1, B, 80, dtype=torch.double)
    batched_lstm.read(layer._parts(layer._own()), x, state, state, drop=0.5)[0].square().sum().backward()
    for name, p in layer.named_parameters():
        lost = (p.grad == 0).double().mean()
        assert 0.45 < lost < 0.55 if name.startswith("weight_hh") else lost < 0.05


@pytest.mark.parametrize(
    ("seconds", "chosen"), [((1.0, 0.5), True), ((1.0, 0.95), False), ((0.5, 1.0), False)]
)
@pytest.mark.parametrize("learns", [True, False])
def test_the_faster_way_is_measured_once(seconds, chosen, learns, monkeypatch):
    """Each way is run as the window is going to be, and leaves weights, gradients and random numbers alone."""
    layer = BlockLSTM(D, H, **SETTINGS["both ways, uneven"], weight_drop=0.5)
    x, h, c = given(layer, torch.float32)
    parts, times = layer._parts(layer._own()), iter(seconds)

    def measured(work, device):
        work()
        return next(times)

    monkeypatch.setattr(loop_choice, "_chosen", {})
    monkeypatch.setattr(loop_choice, "least_seconds", measured)
    random = torch.get_rng_state()
    with torch.set_grad_enabled(learns):
        assert batched_lstm.pays(parts, x, h, c) is chosen
        assert batched_lstm.pays(parts, x, h, c) is chosen
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in layer.parameters())


def test_what_is_to_be_the_same_bits_is_not_measured(monkeypatch):
    monkeypatch.setattr(loop_choice, "_chosen", {})
    monkeypatch.setattr(loop_choice, "least_seconds", lambda work, device: pytest.fail("measured"))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    ways = {"first": lambda: None, "second": lambda: None}
    assert loop_choice.fastest("a loop", 5, ways, torch.device("cpu")) == "first"


def test_what_another_process_has_found_is_taken(monkeypatch):
    asked = []
    monkeypatch.setattr(loop_choice, "_chosen", {})
    monkeypatch.setattr(loop_choice, "least_seconds", lambda work, device: 1.0)
    monkeypatch.setattr(loop_choice, "common_answer", lambda *given: asked.append(given) or "second")
    ways = {"first": lambda: None, "second": lambda: None}
    for _ in range(2):
        assert loop_choice.fastest("a loop", 5, ways, torch.device("cpu")) == "second"
    assert asked == [(("a loop", 8), "first")]


def test_windows_of_about_one_length_share_a_measurement(monkeypatch):
    monkeypatch.setattr(loop_choice, "_chosen", {})
    seen = []
    monkeypatch.setattr(loop_choice, "least_seconds", lambda work, device: seen.append(work()) or 1.0)
    for steps in (33, 64, 65):
        loop_choice.fastest("a loop", steps, {"one": lambda: 1, "two": lambda: 2}, torch.device("cpu"))
    assert seen == [1, 2, 1, 2]
