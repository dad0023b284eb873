"""The compiled window of several LSTMs is what torch's LSTMs give one after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsernn.kernels import lstm_kernel
from sparsernn.nn import BlockLSTM
from sparsernn.nn.drive.single_step import no_repacking


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def window(layer, steps, batch, seed=0):
    """x and a state."""
    generator = torch.Generator().manual_seed(seed)
    state = tuple(torch.randn(s.shape, generator=generator) for s in layer.initial_state(batch))
    return torch.randn(steps, batch, layer.input_size, generator=generator), state


def outcome(layer, x, state):
    """y and the last state, and the gradients of a random function of them for x, the state and all weights."""
    leaves = [t.clone().requires_grad_() for t in (x, *state)]
    torch.manual_seed(5)  # for weight drop
    y, (h, c) = layer(leaves[0], tuple(leaves[1:]))
    generator = torch.Generator().manual_seed(1)
    loss = sum((out * torch.randn(out.shape, generator=generator)).sum() for out in (y, h, c))
    return y, h, c, *torch.autograd.grad(loss, [*leaves, *layer.parameters()])


def by_torch(monkeypatch, function, *arguments):
    """The same without kernels."""
    with monkeypatch.context() as changed:
        changed.setenv("SPARSERNN_NO_KERNELS", "1")
        return function(*arguments)


def assert_close(mine, theirs):
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5 * max(1.0, b.abs().max().item()))


LAYERS = [
    (16, 16, {"blocks": 1}),
    (40, 67, {"blocks": 3, "density": 0.6}),
    (70, 101, {"blocks": 3, "density": 0.6, "weight_drop": 0.4}),
    (40, 36, {"blocks": 2, "density": 0.7, "bidirectional": True}),
    (300, 290, {"blocks": 2, "density": 0.9, "batch_first": True}),
]
"""Widths with and without tails, the last one wide enough to be shared out among threads."""
WINDOWS = [(1, 1), (1, 3), (3, 20), (7, 5), (9, 1), (20, 4), (8, 7)]
"""Inputs read inside and outside of the call, weights rearranged and not, blocks of rows with and without tails."""


@pytest.mark.parametrize(("steps", "batch"), WINDOWS)
@pytest.mark.parametrize(("inputs", "hidden", "setting"), LAYERS, ids=str)
def test_outputs_states_and_gradients_are_those_of_torch(
    compiled, monkeypatch, inputs, hidden, setting, steps, batch
):
    torch.manual_seed(0)
    layer = BlockLSTM(inputs, hidden, **setting)
    x, state = window(layer, steps, batch)
    if layer.batch_first:
        x = x.transpose(0, 1)
    mine = outcome(layer, x, state)
    assert_close(mine, by_torch(monkeypatch, outcome, layer, x, state))
    with torch.no_grad():
        torch.manual_seed(5)
        y, (h, c) = layer(x, state)
    assert_close((y, h, c), mine[:3])


def test_the_compiled_window_is_what_runs(compiled):
    layer = BlockLSTM(40, 40, blocks=2)
    assert type(layer(torch.zeros(3, 2, 40))[0].grad_fn).__name__ == "_WindowBackward"


@pytest.mark.parametrize(
    "layer",
    [BlockLSTM(40, 30, blocks=2), BlockLSTM(15, 32, blocks=2), BlockLSTM(40, 40).double()],
    ids=["narrow", "few inputs", "double"],
)
def test_other_layers_go_to_torch(compiled, layer):
    x = torch.zeros(3, 2, layer.input_size, dtype=layer.weights(0)[0].dtype)
    assert type(layer(x)[0].grad_fn).__name__ != "_WindowBackward"


@pytest.mark.parametrize(("learns", "compiled_calls"), [(True, 1), (False, 2)])
def test_large_windows_go_to_torch_in_training(compiled, monkeypatch, learns, compiled_calls):
    layer, calls = BlockLSTM(40, 40, blocks=2), []
    forward = lstm_kernel.window_forward
    monkeypatch.setattr(
        lstm_kernel, "window_forward", lambda *given, **more: calls.append(1) or forward(*given, **more)
    )
    monkeypatch.setattr(lstm_kernel, "LARGE", 4 * 20 * 60 * 3 * 2)
    with torch.set_grad_enabled(learns):
        small, large = layer(torch.zeros(3, 1, 40))[0], layer(torch.zeros(3, 2, 40))[0]
    assert len(calls) == compiled_calls
    torch.testing.assert_close(large[:, :1], small)


@pytest.mark.parametrize(("steps", "batch"), [(70, 3), (70, 1), (65, 2), (9, 70), (61, 1), (25, 20)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_gates_that_are_held_for_some_steps_only(compiled, monkeypatch, bidirectional, steps, batch):
    """Several whole pieces of steps and a shorter one, in both directions; one step is more than what is held."""
    torch.manual_seed(0)
    layer = BlockLSTM(40, 67, blocks=2, density=0.6, bidirectional=bidirectional)
    x, state = window(layer, steps, batch)
    with torch.no_grad():
        y, last = layer(x, state)
        y2, last2 = by_torch(monkeypatch, layer, x, state)
    assert_close((y, *last), (y2, *last2))


def test_wide_lstms_are_read_one_after_the_other(compiled, monkeypatch, threads):
    """Weights beyond what the shared cache keeps: three LSTMs in two turns."""
    torch.manual_seed(0)
    layer = BlockLSTM(200, 1500, blocks=3, density=0.9)
    assert 2 * layer.weights(0)[1].numel() < 3 << 20 < sum(p.numel() for p in layer.parameters())
    x, state = window(layer, 2, 3)
    threads(2)
    with torch.no_grad():
        y, last = layer(x, state)
        y2, last2 = by_torch(monkeypatch, layer, x, state)
    assert_close((y, *last), (y2, *last2))


def test_inputs_are_read_without_onednn_too(compiled):
    torch.manual_seed(0)
    layer = BlockLSTM(40, 67, blocks=3, density=0.6)
    x, state = window(layer, 20, 4)
    with no_repacking():
        mine = outcome(layer, x, state)
    assert_close(mine, outcome(layer, x, state))


@given(st.integers(1, 30), st.integers(1, 13), st.integers(1, 4), st.integers(32, 90), st.booleans())
@settings(deadline=None, max_examples=25)
def test_any_sizes(steps, batch, blocks, width, bidirectional):
    torch.manual_seed(0)
    layer = BlockLSTM(width, max(width - 7, 16 * blocks), blocks=blocks, bidirectional=bidirectional)
    x, state = window(layer, steps, batch)
    dense = layer.to_dense()
    own = state if bidirectional else tuple(s.unsqueeze(0) for s in state)
    y, (h, c) = layer(x, state)
    y2, after = dense(x, own)
    h2, c2 = after if bidirectional else (s.squeeze(0) for s in after)
    assert_close((y, h, c), (y2, h2, c2))


@pytest.mark.parametrize("keep", [True, False])
def test_a_window_in_two_pieces_is_the_window(compiled, keep):
    torch.manual_seed(0)
    layer = BlockLSTM(40, 67, blocks=3, density=0.6)
    x, state = window(layer, 20, 4)
    with torch.set_grad_enabled(keep):
        y, last = layer(x, state)
        first, between = layer(x[:11], state)
        second, end = layer(x[11:], between)
    assert_close((torch.cat([first, second]), *end), (y, *last))


def test_numbers_do_not_depend_on_the_threads(compiled, threads):
    torch.manual_seed(0)
    layer = BlockLSTM(300, 301, blocks=3, density=0.5)
    x, state = window(layer, 10, 5)
    with torch.no_grad():
        threads(1)
        alone = layer(x[:3], state), layer(x[:8, :1], tuple(s[:1] for s in state))
        threads(2)
        together = layer(x[:3], state), layer(x[:8, :1], tuple(s[:1] for s in state))
    for (y, after), (y2, after2) in zip(alone, together, strict=True):
        assert torch.equal(y, y2)
        assert all(torch.equal(s, s2) for s, s2 in zip(after, after2, strict=True))


def test_backward_may_be_repeated_and_takes_any_gradient(compiled):
    torch.manual_seed(0)
    layer = BlockLSTM(40, 40, blocks=2)
    x, state = window(layer, 9, 3)
    y, _ = layer(x.requires_grad_(), state)
    (once,) = torch.autograd.grad(y.sum(), x, retain_graph=True)  # an expanded gradient
    (twice,) = torch.autograd.grad(y, x, torch.ones(3, 9, 40).transpose(0, 1))
    torch.testing.assert_close(once, twice, rtol=0, atol=0)


def test_what_backward_reads_must_not_be_changed(compiled):
    layer = BlockLSTM(40, 40, blocks=2)
    y, _ = layer(torch.randn(9, 3, 40))
    with torch.no_grad():
        layer.weight_hh_0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_large_values_stay_finite(compiled, monkeypatch):
    torch.manual_seed(0)
    layer = BlockLSTM(40, 40, blocks=2)
    x, state = window(layer, 9, 3)
    mine = outcome(layer, 1e4 * x, state)
    assert all(torch.isfinite(t).all() for t in mine)
    assert_close(mine[:3], by_torch(monkeypatch, outcome, layer, 1e4 * x, state)[:3])
    x[4, 1, 3] = float("nan")
    y, _ = layer(x, state)
    assert y[4:, 1].isnan().all()
    assert y[:4].isfinite().all()
    assert y[:, [0, 2]].isfinite().all()
