"""Windows in one launch, by Triton's interpreter, against the plain loop under autograd."""

import pytest
import torch
from torch.nn import functional

from sparsernn.kernels import triton_language, window_triton
from sparsernn.nn import RHN, Elman
from sparsernn.nn.cells.elman import NONLINEARITIES, ModReLU
from sparsernn.nn.cells.rhn import FreeHighway, Highway
from sparsernn.nn.drive import loop_choice, whole_window
from sparsernn.nn.drive.scan import scan
from sparsernn.sparsity import sparsify

FASTEST = loop_choice.fastest

RULES = {**NONLINEARITIES, "highway": Highway, "free_highway": FreeHighway}
SIZES = {
    "ragged": (2, 17, 19, 2, True),
    "one of each": (2, 1, 1, 1, False),
    "one sequence": (5, 1, 5, 3, True),
    "even": (1, 16, 32, 2, False),
}
"""Steps, sequences, units and stages, and whether the state is masked; tiles are of 16."""


if not triton_language.installed() or not triton_language.multiplies(torch.float64):
    pytest.skip("no Triton with products of float64 here", allow_module_level=True)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """More than one program and tile, the last ones not full."""
    monkeypatch.setattr(window_triton, "TILE", 16)
    monkeypatch.setattr(window_triton, "DEEP", 16)


def naively(rule, u, weight, bias, mask, s):
    """Outputs and last state, by the rule's equations."""
    outputs = []
    for u_t in u:
        for k, w in enumerate(weight):
            pre = (s if mask is None else s * mask) @ w.t()
            (s,) = rule.equations(pre + (bias[k] if k else u_t), (s,))
        outputs.append(s)
    return torch.stack(outputs), s


EXACT, SINGLE = (torch.float64, 1e-11), (torch.float32, 2e-5)


@pytest.mark.parametrize(("sizes", "precision"), [*((name, EXACT) for name in SIZES), ("ragged", SINGLE)])
@pytest.mark.parametrize("kind", window_triton.KINDS)
def test_a_window_is_the_loop_of_its_equations(interpreted, kind, sizes, precision):
    (steps, batch, width, stages, masked), random = SIZES[sizes], torch.Generator().manual_seed(0)
    dtype, error = precision

    def drawn(*shape, scale=1.0):
        return torch.randn(*shape, generator=random, dtype=torch.float64).mul_(scale).to(dtype)

    number = window_triton.KINDS[kind]
    gates, stages = window_triton.GATES[number], stages if number > 3 else 1
    u, s = drawn(steps, batch, gates * width).requires_grad_(), drawn(batch, width).requires_grad_()
    weight = drawn(stages, gates * width, width, scale=width**-0.5).requires_grad_()
    bias = drawn(stages, gates * width)
    bias[0] = 0.0
    own = drawn(width)
    rule = ModReLU(own) if kind == "modrelu" else RULES[kind]()
    mask = functional.dropout(torch.ones(batch, width, dtype=dtype), 0.5) if masked else None
    y, last = naively(rule, u, weight, bias, mask, s)
    gradients = drawn(*y.shape), drawn(*last.shape)
    wanted = torch.autograd.grad((y, last), (u, weight, s), gradients)

    fed = torch.full((steps * stages + 1, batch, width), float("nan"), dtype=dtype)
    fed[0] = s.detach()
    given = own if kind == "modrelu" else bias if number > 3 else None
    opened = window_triton.forward(kind, u.detach(), weight.detach(), given, mask, fed, keep=True)
    d_pre, d_start = window_triton.backward(kind, gradients, weight.detach(), mask, fed, opened)
    assert interpreted.launched == ["_ahead_window", "_back_window"]
    torch.testing.assert_close(fed[stages::stages], y.detach(), rtol=error, atol=error)
    read = torch.stack([fed[k::stages][:steps] for k in range(stages)])
    d_weight = torch.einsum("ktbg,ktbh->kgh", d_pre, read if mask is None else read * mask)
    for ours, exact in zip((d_pre[0], d_weight, d_start), wanted, strict=True):
        torch.testing.assert_close(ours, exact, rtol=error, atol=error)


LAYERS = {
    "rhn": lambda: RHN(3, 19, depth=3, state_dropout=0.5, transform_bias=-1.0),
    "rhn with a gate more": lambda: RHN(3, 10, depth=2, coupled=False),
    "rhn of one depth": lambda: RHN(3, 10, depth=1),
    "elman": lambda: Elman(3, 19),
    "elman with a map": lambda: Elman(3, 8, map="orthogonal", nonlinearity="modrelu"),
    "elman, linear": lambda: Elman(3, 8, map="normal", nonlinearity="none"),
    "elman, cut off": lambda: Elman(3, 17, nonlinearity="relu"),
}


@pytest.mark.parametrize(
    ("name", "batch"), [*((name, 3) for name in LAYERS), ("rhn", 1), ("elman", 1), ("elman", 18)]
)
def test_a_layer_in_one_launch_is_the_naive_loop(interpreted, name, batch):
    torch.manual_seed(0)
    layer, interpreted.way = LAYERS[name]().double(), 1
    steps = 10 if "elman" in name else 3  # the lightest rules leave fewer to autograd
    x = torch.randn(steps, batch, 3, dtype=torch.float64, requires_grad=True)
    start = torch.randn(batch, layer.hidden_size, dtype=torch.float64, requires_grad=True)
    results = []
    for naive in (True, False):
        layer.naive = naive
        torch.manual_seed(1)  # the same dropouts
        y, (last,) = layer(x, (start,))
        weighed = (y * torch.sin(torch.arange(y.numel()).double()).view_as(y)).sum() + last.square().sum()
        results.append((y, last, *torch.autograd.grad(weighed, [x, start, *layer.parameters()])))
        assert interpreted.launched == ([] if naive else ["_ahead_window", "_back_window"])
    for exact, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["rhn", "elman"])
def test_without_gradients_it_is_one_launch(interpreted, name):
    torch.manual_seed(0)
    layer, interpreted.way = LAYERS[name]().double().eval(), 1
    x = torch.randn(4, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        y, (last,) = layer(x)
        assert interpreted.launched == ["_ahead_window"]
        layer.naive = True
        torch.testing.assert_close(y, layer(x)[0])
    assert torch.equal(last, y[-1])


def test_a_graph_may_be_gone_back_through_twice(interpreted):
    torch.manual_seed(0)
    layer, interpreted.way = LAYERS["rhn"]().double(), 1
    y, _ = layer(torch.randn(2, 3, 3, dtype=torch.float64))
    first = torch.autograd.grad(y.sum(), list(layer.parameters()), retain_graph=True)
    second = torch.autograd.grad(y.sum(), list(layer.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_not_a_number_stays_none(interpreted, name):
    """In the sequence that it is in, and in no other."""
    layer, interpreted.way = LAYERS[name]().eval(), 1
    x = torch.ones(3, 2, 3)
    x[1, 0] = float("nan")
    with torch.no_grad():
        y, _ = layer(x)
    assert y[1:, 0].isnan().all()
    assert y[0].isfinite().all()
    assert y[:, 1].isfinite().all()


def test_what_has_no_kernel_goes_step_by_step(interpreted, monkeypatch):
    def taken(layer, x, **named):
        interpreted.way = 1
        interpreted.launched.clear()
        layer(x, **named)
        return "_ahead_window" in interpreted.launched

    x = torch.ones(2, 2, 3)
    assert taken(RHN(3, 4, depth=1), x)
    assert not taken(RHN(3, 4, depth=1), x, lengths=torch.tensor([2, 1]))
    layer = RHN(3, 16, depth=1, product="sparse")
    sparsify(layer, torch.optim.SGD(layer.parameters(), lr=0.1), method="static", density=0.5)
    assert not taken(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not taken(RHN(3, 4, depth=1), x)
    monkeypatch.setattr(window_triton, "WEIGHT_UP_TO", 8 * 4 * 4 - 1)
    assert not taken(RHN(3, 4, depth=1), x)
    assert taken(Elman(3, 4), torch.ones(10, 2, 3))


@pytest.mark.parametrize(("seconds", "chosen"), [((1.0, 0.5), 1), ((1.0, 0.95), 0), ((0.5, 1.0), 0)])
@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("name", ["rhn", "elman"])
def test_the_faster_way_is_measured_once(interpreted, monkeypatch, name, learns, seconds, chosen):
    """Each way is run as the window is going to be, and leaves the generator alone."""
    layer, times = LAYERS[name]().train(learns), iter(seconds)
    x, state = torch.ones(10 if name == "elman" else 2, 2, 3), torch.zeros(2, layer.hidden_size)
    stages = layer.cell.stages(2)
    u = layer.cell.project(x).detach()
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
            scan(stages, u, (state,))
    assert interpreted.launched.count("_ahead_window") == chosen  # in the second one, which measures nothing
    assert torch.equal(torch.get_rng_state(), random)
    assert whole_window.WAYS[chosen] in loop_choice._chosen.values()
