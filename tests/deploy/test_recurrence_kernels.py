"""The compiled inner loops of recurrent layers give the numbers of the torch code they stand for."""

import math

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.kernels import recurrence_kernel
from sparsernn.nn.cells.elman import Identity, ModReLU, ReLU, Tanh
from sparsernn.nn.cells.onlstm import OrderedMemory
from sparsernn.nn.cells.rhn import Highway, RHNCell
from sparsernn.nn.drive.cell import Stage
from sparsernn.nn.drive.recurrent import Recurrent
from sparsernn.nn.drive.scan import scan, scan_naively

SHAPES = [(1, 1), (1, 7), (3, 8), (5, 33), (20, 50)]
LARGE = [*SHAPES, (40, 1030)]
"""The last is shared out among threads."""


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def through(rule, pre, state, gradient):
    """The rule's forward and backward: state after, gradient of pre and of the state before."""
    out, d_pre = torch.empty_like(state[0]), torch.empty_like(pre)
    after, kept = rule.forward(pre.clone(), state, out)
    direct, others = rule.backward(gradient, kept, d_pre)
    return [*after, d_pre, *([] if direct is None else [direct]), *others]


def by_autograd(rule, pre, state, gradient):
    """The same from the equations, in float64."""
    pre = pre.double().requires_grad_()
    state = tuple(part.double().requires_grad_() for part in state)
    after = rule.equations(pre, state)
    wanted = torch.autograd.grad(after, (pre, *state), [g.double() for g in gradient], allow_unused=True)
    return [*(part.detach() for part in after), *(g for g in wanted if g is not None)]


RULES = {
    "highway": (Highway, lambda n, h: (normal(n, 2 * h, scale=2), (normal(n, h, seed=1),))),
    "ordered, one chunk": (
        lambda: OrderedMemory(1),
        lambda n, h: (normal(n, 2 + 4 * h, scale=2), (normal(n, h, seed=1), normal(n, h, seed=2))),
    ),
    "ordered, five chunks": (
        lambda: OrderedMemory(5),
        lambda n, h: (normal(n, 10 + 20 * h, scale=2), (normal(n, 5 * h, seed=1), normal(n, 5 * h, seed=2))),
    ),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("rows", "width"), LARGE)
def test_rules_match_their_equations_and_their_twin(compiled, monkeypatch, name, rows, width):
    make, sizes = RULES[name]
    rule, (pre, state) = make(), sizes(rows, width)
    gradient = tuple(normal(*part.shape, seed=9 + k) for k, part in enumerate(state))
    assert recurrence_kernel.takes(pre)
    got = through(rule, pre, state, gradient)
    monkeypatch.setenv("SPARSERNN_NO_KERNELS", "1")
    assert not recurrence_kernel.takes(pre)
    twin = through(rule, pre, state, gradient)
    wanted = by_autograd(rule, pre, state, gradient)
    assert len(got) == len(twin) == len(wanted)
    for ours, torchs, exact in zip(got, twin, wanted, strict=True):
        # sums over the units of a chunk lose a few bits of the sum of absolute values
        torch.testing.assert_close(ours.double(), exact, rtol=2e-5, atol=2e-6 * math.sqrt(width))
        torch.testing.assert_close(ours, torchs, rtol=2e-5, atol=2e-6 * math.sqrt(width))


def test_backward_can_be_called_twice(compiled):
    pre, (s,) = RULES["highway"][1](3, 9)
    _, kept = Highway().forward(pre, (s,), torch.empty_like(s))
    first, second = torch.empty_like(pre), torch.empty_like(pre)
    Highway().backward((s,), kept, first)
    Highway().backward((s,), kept, second)
    assert torch.equal(first, second)


def test_tanh_and_sigmoid_over_their_whole_range(compiled):
    """The bounds that common.h states, tiny and huge arguments included."""
    tiny = torch.logspace(-37, 0, 400)
    x = torch.cat([tiny, torch.linspace(0, 100, 20011), torch.tensor([1e30, math.inf])])
    x = torch.cat([x, -x]).view(1, -1)
    h = torch.empty_like(x)
    pre = torch.cat([x, x], 1)
    recurrence_kernel.highway_forward(pre, torch.zeros_like(x), h)
    tanh, sigmoid = pre.double().chunk(2, 1)
    exact = x.double().tanh()
    assert ((tanh - exact).abs() <= 4e-7 * exact.abs()).all()
    exact = x.double().sigmoid()
    assert ((sigmoid - exact).abs() <= 3e-7 * exact + math.exp(-87)).all()


def rule_of(kind, width):
    if kind == "modrelu":
        return ModReLU(normal(width, seed=5, scale=0.3).requires_grad_())
    return {"none": Identity, "tanh": Tanh, "relu": ReLU}[kind]()


def all_gradients(loop, stage, u, start, **kept):
    """y, the last state, and the gradients of a loss that needs every part of both."""
    tensors = [u, start, stage.weight, *stage.rule.parameters]
    y, (last,) = loop(stage, u, start)
    loss = (y * normal(*y.shape, seed=7).to(y)).sum() + (last * normal(*last.shape, seed=8).to(y)).sum()
    return [y.detach(), last.detach(), *torch.autograd.grad(loss, tensors)]


def fast(stage, u, start):
    return scan((stage,), u, (start,))


def naive(stage, u, start):
    return scan_naively(stage.step, u, (start,))


@pytest.fixture
def any_length(monkeypatch):
    """Short windows go through the kernel too."""
    monkeypatch.setattr(recurrence_kernel, "WINDOW_STEPS_FROM", 1)
    monkeypatch.setattr("sparsernn.nn.drive.scan.SHORT", 1)


@pytest.mark.parametrize("kind", recurrence_kernel.KINDS)
@pytest.mark.parametrize(
    ("steps", "rows", "width"), [(1, 1, 1), (7, 1, 19), (4, 13, 16), (40, 10, 128), (30, 25, 77)]
)
def test_windows_match_the_loop(compiled, any_length, monkeypatch, kind, steps, rows, width):
    weight = normal(width, width, seed=3, scale=0.7 / math.sqrt(width)).requires_grad_()
    u, start = normal(steps, rows, width).requires_grad_(), normal(rows, width, seed=1).requires_grad_()
    stage = Stage(weight, rule_of(kind, width))
    calls = counted(monkeypatch)
    got = all_gradients(fast, stage, u, start)
    assert calls == ["window_forward", "window_backward"]
    with torch.no_grad():
        y, (last,) = fast(stage, u, start)
    assert torch.equal(y, got[0])
    assert torch.equal(last, got[1])
    monkeypatch.setenv("SPARSERNN_NO_KERNELS", "1")
    twin = all_gradients(fast, stage, u, start)
    exact = all_gradients(
        naive, in_double(stage), *(t.detach().double().requires_grad_() for t in (u, start))
    )
    for ours, torchs, wanted in zip(got, twin, exact, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-4)


def counted(monkeypatch):
    """Names of the window calls that are made from now on."""
    calls, window = [], recurrence_kernel._window
    monkeypatch.setattr(
        recurrence_kernel, "_window", lambda name, *rest: (calls.append(name), window(name, *rest))
    )
    return calls


def in_double(stage):
    rule = stage.rule
    if rule.parameters:
        rule = ModReLU(rule.parameters[0].detach().double().requires_grad_())
    return Stage(stage.weight.detach().double().requires_grad_(), rule)


def test_modrelu_at_zero(compiled, any_length):
    """sign(0) = 0, and yet the gradient goes through where the bias alone turns the unit on."""
    z = torch.tensor([[[0.0, 0.0, 0.5, -0.5, 0.5]]], requires_grad=True)
    bias = torch.tensor([1.0, -1.0, -0.5, 0.25, -1.0])
    y, _ = fast(Stage(torch.zeros(5, 5), ModReLU(bias)), z, torch.zeros(1, 5))
    assert y.flatten().tolist() == [0.0, 0.0, 0.0, -0.75, 0.0]
    y.sum().backward()
    assert z.grad.flatten().tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", recurrence_kernel.KINDS)
def test_bad_numbers_are_not_hidden(compiled, any_length, kind, bad):
    u = normal(3, 4, 9)
    u[1, 2, 5] = bad
    weight = torch.full((9, 9), 0.1)
    y, _ = fast(Stage(weight, rule_of(kind, 9)), u, torch.zeros(4, 9))
    assert torch.isfinite(y[0]).all()
    assert torch.isfinite(y[:, [0, 1, 3]]).all()
    if math.isnan(bad):
        assert y[1, 2, 5].isnan()
        assert y[2, 2].isnan().all()


@pytest.mark.parametrize("name", RULES)
def test_nan_stays_nan_in_the_rules(compiled, name):
    make, sizes = RULES[name]
    pre, state = sizes(3, 10)
    pre[1] = math.nan
    out = torch.empty_like(state[0])
    make().forward(pre, state, out)
    assert out[1].isnan().all()
    assert torch.isfinite(out[[0, 2]]).all()


def test_a_whole_layer_is_the_same_with_and_without(compiled, monkeypatch):
    layer = Recurrent(RHNCell(4, 13, depth=3, state_dropout=0.3), learn_initial_state=True)
    outcome = []
    for off in ("0", "1"):
        monkeypatch.setenv("SPARSERNN_NO_KERNELS", off)
        torch.manual_seed(0)
        layer.zero_grad()
        y, _ = layer(normal(6, 5, 4), lengths=torch.tensor([6, 1, 3, 0, 5]))
        (y * normal(*y.shape, seed=2)).sum().backward()
        outcome.append([y.detach(), *(p.grad.clone() for p in layer.parameters())])
    for ours, torchs in zip(*outcome, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5)


def test_changing_what_was_given_or_returned_does_not_reach_the_gradients(compiled, any_length):
    u, start = normal(4, 3, 6).requires_grad_(), normal(3, 6, seed=1)
    stage = Stage(normal(6, 6, seed=3).requires_grad_(), Tanh())

    def weight_gradient(spoil):
        given = start.clone()
        y, (last,) = fast(stage, u, given)
        total = y.sum() + last.sum()
        if spoil:
            for tensor in (given, y.detach(), last.detach()):
                tensor.zero_()
        return torch.autograd.grad(total, stage.weight)[0]

    assert torch.equal(weight_gradient(spoil=True), weight_gradient(spoil=False))


def test_what_the_kernels_do_not_take(compiled, monkeypatch):
    """Other types, masks, lengths and large weights go the long way."""
    monkeypatch.setattr(recurrence_kernel, "_window", None)
    u, weight, start = normal(20, 2, 6), normal(6, 6), torch.zeros(2, 6)
    fast(Stage(weight.double(), Tanh()), u.double(), start.double())
    fast(Stage(weight, Tanh(), mask=torch.ones(2, 6)), u, start)
    scan((Stage(weight, Tanh()),), u, (start,), torch.ones(20, 2, 1, dtype=torch.bool))
    fast(Stage(weight, Tanh()), u[:3], start)
    monkeypatch.setattr(recurrence_kernel, "WINDOW_WEIGHTS_UP_TO", 35)
    fast(Stage(weight, Tanh()), u, start)


def test_shapes_that_do_not_fit_are_refused(compiled):
    with pytest.raises(InputError, match=r"\(3, 8\) met a state of shape \(2, 4\)"):
        recurrence_kernel.highway_forward(torch.zeros(3, 8), torch.zeros(2, 4), torch.zeros(2, 4))
    with pytest.raises(InputError, match=r"state of shape \(2, 4\)"):
        recurrence_kernel.ordered_forward(torch.zeros(3, 20), torch.zeros(2, 4), torch.zeros(2, 4), 2)
    with pytest.raises(InputError, match="dense float32"):
        recurrence_kernel.highway_forward(torch.zeros(8, 2).t(), torch.zeros(2, 4), torch.zeros(2, 4))


def test_no_library_is_said_so(monkeypatch):
    monkeypatch.setenv("SPARSERNN_NO_KERNELS", "1")
    assert not recurrence_kernel.takes(torch.zeros(2, 4))
    with pytest.raises(InputError, match="takes"):
        recurrence_kernel.highway_forward(torch.zeros(2, 8), torch.zeros(2, 4), torch.zeros(2, 4))
