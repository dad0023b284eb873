"""Windows of ON-LSTM layers in one launch, by Triton's interpreter, against the plain loop under autograd."""

import pytest
import torch

from sparsernn.kernels import ordered_triton, triton_language, window_triton
from sparsernn.nn import ONLSTM
from sparsernn.nn.cells.onlstm import OrderedMemory
from sparsernn.nn.drive import loop_choice, whole_window
from sparsernn.nn.drive.scan import scan
from sparsernn.sparsity import sparsify

FASTEST = loop_choice.fastest
SIZES = {
    "ragged": (3, 17, 5, 4),
    "one of each": (2, 1, 1, 1),
    "one sequence": (5, 1, 3, 7),
    "even": (2, 16, 16, 2),
    "more chunks than a tile has units": (2, 3, 33, 1),
    "one chunk": (3, 2, 1, 9),
}
"""Steps, sequences, chunks and units of each; tiles are of 16."""
LAUNCHED = ["_ahead_ordered", "_back_ordered"]

if not triton_language.installed() or not triton_language.multiplies(torch.float64):
    pytest.skip("no Triton with products of float64 here", allow_module_level=True)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """More than one program and tile, the last ones not full."""
    monkeypatch.setattr(window_triton, "TILE", 16)
    monkeypatch.setattr(window_triton, "DEEP", 16)


EXACT, SINGLE = (torch.float64, 1e-11), (torch.float32, 2e-5)


@pytest.mark.parametrize(("sizes", "precision"), [*((name, EXACT) for name in SIZES), ("ragged", SINGLE)])
def test_a_window_is_the_loop_of_its_equations(interpreted, sizes, precision):
    (steps, batch, chunks, size), random = SIZES[sizes], torch.Generator().manual_seed(0)
    (dtype, error), width = precision, chunks * size
    rows = 2 * chunks + 4 * width

    def drawn(*shape, scale=1.0):
        return torch.randn(*shape, generator=random, dtype=torch.float64).mul_(scale).to(dtype)

    u, h, c = drawn(steps, batch, rows), drawn(batch, width), drawn(batch, width)
    weight = drawn(rows, width, scale=width**-0.5)
    for tensor in (u, h, c, weight):
        tensor.requires_grad_()
    outputs, state = [], (h, c)
    for u_t in u:
        state = OrderedMemory(chunks).equations(u_t + state[0] @ weight.t(), state)
        outputs.append(state[0])
    y = torch.stack(outputs)
    gradients = drawn(*y.shape), drawn(*h.shape), drawn(*c.shape)
    wanted = torch.autograd.grad((y, *state), (u, weight, h, c), gradients)

    fed = torch.full((steps + 1, batch, width), float("nan"), dtype=dtype)
    cells = fed.clone()
    fed[0], cells[0] = h.detach(), c.detach()
    opened = ordered_triton.forward(chunks, u.detach(), weight.detach(), fed, cells, keep=True)
    d_pre, d_start = ordered_triton.backward(
        chunks, gradients[0], gradients[1:], weight.detach(), cells, opened
    )
    assert interpreted.launched == LAUNCHED
    torch.testing.assert_close(fed[1:], y.detach(), rtol=error, atol=error)
    torch.testing.assert_close(cells[-1], state[1].detach(), rtol=error, atol=error)
    d_weight = torch.einsum("tbg,tbh->gh", d_pre, fed[:-1])
    for ours, exact in zip((d_pre, d_weight, *d_start), wanted, strict=True):
        torch.testing.assert_close(ours, exact, rtol=error, atol=error)


LAYERS = {
    "plain": lambda: ONLSTM(3, 20, chunk_size=4),
    "dropped weights": lambda: ONLSTM(3, 18, chunk_size=6, weight_drop=0.5),
    "a learnt beginning": lambda: ONLSTM(3, 17, chunk_size=1, learn_initial_state=True),
}


@pytest.mark.parametrize(("name", "batch"), [*((name, 3) for name in LAYERS), ("plain", 1), ("plain", 18)])
@pytest.mark.parametrize("whole_state", [True, False])
def test_a_layer_in_one_launch_is_the_naive_loop(interpreted, name, batch, whole_state):
    """Also where nothing comes back to the last cell, or nothing to the last state at all."""
    torch.manual_seed(0)
    layer, interpreted.way = LAYERS[name]().double(), 1
    x = torch.randn(4, batch, 3, dtype=torch.float64, requires_grad=True)
    start = [torch.randn(batch, layer.hidden_size, dtype=torch.float64, requires_grad=True) for _ in "hc"]
    start = list(layer.initial_state(batch)) if name == "a learnt beginning" else start
    results = []
    for naive in (True, False):
        layer.naive = naive
        torch.manual_seed(1)  # the same dropouts
        y, last = layer(x, tuple(start))
        weighed = (y * torch.sin(torch.arange(y.numel()).double()).view_as(y)).sum()
        if whole_state:
            weighed = weighed + last[0].square().sum() + last[1].pow(3).sum()
        learnt = [x, *start, *layer.parameters()]
        results.append((y, *last, *torch.autograd.grad(weighed, learnt, retain_graph=True)))
        assert interpreted.launched == ([] if naive else LAUNCHED)
    for exact, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)


def test_without_gradients_it_is_one_launch(interpreted):
    torch.manual_seed(0)
    layer, interpreted.way = LAYERS["plain"]().double().eval(), 1
    x = torch.randn(4, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        y, (h, c) = layer(x)
        assert interpreted.launched == LAUNCHED[:1]
        layer.naive = True
        exact, (_, cells) = layer(x)
    torch.testing.assert_close(y, exact)
    torch.testing.assert_close(c, cells)
    assert torch.equal(h, y[-1])


def test_states_that_were_given_are_left_alone_and_those_that_come_may_be_changed(interpreted):
    torch.manual_seed(0)
    layer, interpreted.way = LAYERS["plain"]().double(), 1
    state = tuple(torch.randn(3, 20, dtype=torch.float64) for _ in "hc")
    before = [part.clone() for part in state]
    x = torch.randn(2, 3, 3, dtype=torch.float64)
    y, last = layer(x, state)
    wanted = torch.autograd.grad(y.sum(), list(layer.parameters()), retain_graph=True)
    with torch.no_grad():
        for part in (y, *last):
            part.zero_()
    found = torch.autograd.grad(y.sum(), list(layer.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))


def test_what_is_not_a_number_stays_none(interpreted):
    """In the sequence that it is in, and in no other."""
    layer, interpreted.way = LAYERS["plain"]().eval(), 1
    x = torch.ones(3, 2, 3)
    x[1, 0] = float("nan")
    with torch.no_grad():
        y, _ = layer(x)
    assert y[1:, 0].isnan().all()
    assert y[0].isfinite().all()
    assert y[:, 1].isfinite().all()


def test_what_has_no_kernel_goes_step_by_step(interpreted, monkeypatch):
    def taken(layer, **named):
        interpreted.way = 1
        interpreted.launched.clear()
        layer(torch.ones(2, 2, 3), **named)
        return "_ahead_ordered" in interpreted.launched

    layer = ONLSTM(3, 4, chunk_size=2)
    assert taken(layer)
    assert not taken(layer, lengths=torch.tensor([2, 1]))
    with torch.autocast("cpu", torch.bfloat16):
        assert not taken(layer)
    sparse = ONLSTM(3, 16, chunk_size=2, product="sparse")
    sparsify(sparse, torch.optim.SGD(sparse.parameters(), lr=0.1), method="static", density=0.5)
    assert not taken(sparse)
    with monkeypatch.context() as patch:
        patch.setattr(window_triton, "WEIGHT_UP_TO", layer.cell.weight_hh.nbytes - 1)
        assert not taken(layer)
    with monkeypatch.context() as patch:
        patch.setattr(ordered_triton, "CHUNKS_UP_TO", 1)
        assert not taken(layer)
    assert taken(layer)


@pytest.mark.parametrize(("seconds", "chosen"), [((1.0, 0.5), 1), ((1.0, 0.95), 0), ((0.5, 1.0), 0)])
@pytest.mark.parametrize("learns", [True, False])
def test_the_faster_way_is_measured_once(interpreted, monkeypatch, learns, seconds, chosen):
    """Each way is run as the window is going to be, and leaves state and generator alone."""
    layer, times = LAYERS["plain"]().train(learns), iter(seconds)
    x, state = torch.ones(2, 2, 3), (torch.ones(2, 20), torch.ones(2, 20))
    stages, u = layer.cell.stages(2), layer.cell.project(x).detach()
    random = torch.get_rng_state()

    def measured(work, device):
        work()
        return next(times)

    monkeypatch.setattr(loop_choice, "_chosen", {})
    monkeypatch.setattr(loop_choice, "fastest", FASTEST)
    monkeypatch.setattr(loop_choice, "least_seconds", measured)
    for _ in range(2):
        interpreted.launched.clear()
        with torch.set_grad_enabled(learns):
            scan(stages, u, state)
    assert interpreted.launched.count("_ahead_ordered") == chosen  # in the second one, which measures nothing
    assert torch.equal(torch.get_rng_state(), random)
    assert all(bool((part == 1).all()) for part in state)
    assert whole_window.WAYS[chosen] in loop_choice._chosen.values()
