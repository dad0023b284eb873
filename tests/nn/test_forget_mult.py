"""The forget-mult recurrence: every way of working it out against the plain loop under autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.kernels import forget_kernel, forget_triton, triton_language
from sparsernn.nn.cells import forget_mult as module
from sparsernn.nn.cells.forget_mult import forget_mult, forget_mult_naively, linear_scan

SHAPES = [(1, 1, 1), (1, 3, 5), (9, 1, 1), (7, 2, 3), (3, 2, 40), (40, 1, 50)]


def numbers(*shape, seed=0, dtype=torch.double):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double).to(dtype)


def operands(shape, state=None, dtype=torch.double):
    """f with exact zeros and ones among it, z, and a state of the given shape."""
    f = numbers(*shape, seed=1).sigmoid()
    f = torch.where(f < 0.2, 0.0, torch.where(f > 0.8, 1.0, f)).to(dtype)
    c0 = None if state is None else numbers(*state, seed=3, dtype=dtype).requires_grad_()
    return f.requires_grad_(), numbers(*shape, seed=2, dtype=dtype).requires_grad_(), c0


def outcome(operation, f, z, c0, gradient):
    """Values, and the gradients of all that was given."""
    given = [t for t in (f, z, c0) if t is not None]
    c = operation(f, z, c0)
    return [c.detach(), *torch.autograd.grad(c, given, gradient)]


def naive_scan(a, b, c0=None):
    c, after = torch.zeros_like(a[0]) if c0 is None else c0.reshape(a.shape[1:]), []
    for a_t, b_t in zip(a.unbind(0), b.unbind(0), strict=True):
        c = a_t * c + b_t
        after.append(c)
    return torch.stack(after)


PAIRS = [(forget_mult, forget_mult_naively), (linear_scan, naive_scan)]


def states(shape):
    return [None, shape[1:], (1, *shape[1:])]


@pytest.fixture(params=["looped", "chunked"])
def way(request, monkeypatch):
    """One of the two twins in torch, whatever the size."""
    monkeypatch.setattr(module, "LOOP_STEPS_UP_TO", 10**9 if request.param == "looped" else 0)
    monkeypatch.setattr(module, "LOOP_CHANNELS_FROM", 10**9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("fast", "naive"), PAIRS)
def test_the_twins_in_torch_are_the_plain_loop(way, fast, naive, shape):
    for state in states(shape):
        got = outcome(fast, *operands(shape, state), numbers(*shape))
        wanted = outcome(naive, *operands(shape, state), numbers(*shape))
        for ours, exact in zip(got, wanted, strict=True):
            assert ours.shape == exact.shape
            torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [*SHAPES, (5, 3, 4099)])
@pytest.mark.parametrize(("fast", "naive"), PAIRS)
def test_the_kernel_is_the_plain_loop(compiled, monkeypatch, fast, naive, shape):
    calls, call = [], forget_kernel._call
    monkeypatch.setattr(forget_kernel, "_call", lambda name, *rest: (calls.append(name), call(name, *rest)))
    for state in states(shape):
        got = outcome(fast, *operands(shape, state, torch.float32), numbers(*shape).float())
        wanted = outcome(naive, *operands(shape, state), numbers(*shape))
        for ours, exact in zip(got, wanted, strict=True):
            torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)
    assert calls == ["forget_forward", "forget_backward"] * 3


def test_threads_change_nothing(compiled, monkeypatch):
    shape, before = (6, 3, 1000), torch.get_num_threads()
    results = []
    try:
        for threads, least in ((1, 10**9), (2, 0)):
            torch.set_num_threads(threads)
            monkeypatch.setattr(forget_kernel, "SHARED_FROM", least)
            given = operands(shape, shape[1:], torch.float32)
            results.append(outcome(forget_mult, *given, numbers(*shape).float()))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("state", [None, (2, 3), (1, 2, 3)])
def test_gradients_by_differences(state):
    f, z, c0 = operands((4, 2, 3), state)
    f = f.detach().clamp(0.1, 0.9).requires_grad_()
    given = [t for t in (f, z, c0) if t is not None]
    assert torch.autograd.gradcheck(forget_mult, given)
    assert torch.autograd.gradcheck(lambda *g: forget_mult(*g)[-1], given)  # through the final state only
    assert torch.autograd.gradcheck(linear_scan, given)


@pytest.mark.parametrize("steps", [1, 4])
def test_gradients_of_gradients(steps):
    f, z, c0 = operands((steps, 2, 3), (2, 3))
    given = (f.detach().clamp(0.1, 0.9).requires_grad_(), z, c0)
    assert torch.autograd.gradgradcheck(forget_mult, given)
    assert torch.autograd.gradgradcheck(linear_scan, given)


def test_a_penalty_on_gradients_is_that_of_the_naive_loop(compiled):
    """Also where the gradient that comes in has no graph, as that of a sum has none."""
    got, wanted = [], []
    for results, operation in ((got, forget_mult), (wanted, forget_mult_naively)):
        f, z, c0 = operands((7, 2, 3), (2, 3), torch.float32)
        loss = operation(f, z, c0).sum()
        towards = torch.autograd.grad(loss, (f, z, c0), create_graph=True)
        (loss + sum(t.square().sum() for t in towards)).backward()
        results += [f.grad, z.grad, c0.grad]
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_third_derivative_is_refused():
    f, z, c0 = operands((3, 2, 3), (2, 3))
    first = torch.autograd.grad(forget_mult(f, z, c0).sum(), f, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), f, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="differentiable once"):
        second.square().sum().backward()


def test_an_expanded_incoming_gradient(compiled):
    """`sum` sends back one number for all, with strides of 0."""
    for dtype, error in ((torch.double, 1e-12), (torch.float32, 1e-5)):
        got, wanted = [], []
        for results, operation in ((got, forget_mult), (wanted, forget_mult_naively)):
            f, z, c0 = operands((7, 2, 3), (2, 3), dtype)
            operation(f.transpose(1, 2), z.transpose(1, 2), c0.t()).sum().backward()
            results += [f.grad, z.grad, c0.grad]
        for ours, exact in zip(got, wanted, strict=True):
            torch.testing.assert_close(ours, exact, rtol=error, atol=error)


@pytest.mark.parametrize("dtype", [torch.double, torch.float32])
def test_a_closed_gate_keeps_and_an_open_one_takes_to_the_bit(dtype):
    z, c0 = numbers(5, 2, 3, dtype=dtype), numbers(2, 3, seed=4, dtype=dtype)
    assert torch.equal(forget_mult(torch.zeros_like(z), z, c0), c0.expand_as(z))
    assert torch.equal(forget_mult(torch.ones_like(z), z, c0), z)


@settings(max_examples=25, deadline=None)
@given(steps=st.integers(1, 30), cut=st.integers(0, 30), seed=st.integers(0, 99))
def test_a_cut_with_the_state_carried_over_changes_nothing(steps, cut, seed):
    cut = min(cut, steps)
    f, z = numbers(steps, 2, 3, seed=seed).sigmoid(), numbers(steps, 2, 3, seed=seed + 1)
    c0 = numbers(2, 3, seed=seed + 2)
    whole, first = forget_mult(f, z, c0), forget_mult(f[:cut], z[:cut], c0)
    second = forget_mult(f[cut:], z[cut:], first[-1] if cut else c0)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-12, atol=1e-12)


def test_half_precision_is_summed_in_single():
    """3000 steps of 1/512 each: bfloat16 alone would stop growing at 1/2."""
    a, b = (
        torch.ones(3000, 1, 1, dtype=torch.bfloat16),
        torch.full((3000, 1, 1), 1 / 512, dtype=torch.bfloat16),
    )
    last = linear_scan(a, b)[-1]
    assert last.dtype == torch.bfloat16
    assert last.item() == pytest.approx(3000 / 512, rel=0.01)


def test_the_operator_keeps_its_promises_to_the_compiler():
    f, z, c0 = operands((4, 2, 3), (2, 3))
    for gated in (True, False):
        given = (f, z, c0, gated)
        torch.library.opcheck(module._forward, given, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("f", "z", "c0"),
    [((3, 2), (3, 2), None), ((3, 2, 4), (3, 2, 5), None), ((3, 2, 4), (3, 2, 4), (2, 2, 4))],
)
def test_shapes_that_do_not_fit_are_refused(f, z, c0):
    with pytest.raises(InputError, match="do not fit"):
        forget_mult(torch.zeros(f), torch.zeros(z), None if c0 is None else torch.zeros(c0))


@pytest.fixture(params=["step by step", "scanned"])
def by_triton(request, monkeypatch):
    """One of the two ways in Triton, whatever the size."""
    monkeypatch.setattr(forget_triton, "SCAN_UP_TO", 0 if request.param == "step by step" else 10**9)
    monkeypatch.setattr(forget_triton, "SCAN_FROM", 1)
    for size, number in (
        ("BLOCK", 16),
        ("SCAN_STEPS", 8),
        ("SCAN_CHANNELS", 4),
    ):  # the interpreter takes its time
        monkeypatch.setattr(forget_triton, size, number)


@pytest.mark.parametrize("dtype", [torch.double, torch.float32])
@pytest.mark.parametrize(("fast", "naive"), PAIRS)
def test_triton_gives_the_numbers_of_the_plain_loop(interpreted, by_triton, fast, naive, dtype):
    error = 1e-12 if dtype == torch.double else 1e-5
    for shape, state in (((1, 1, 1), None), ((8, 2, 3), (2, 3)), ((19, 1, 5), (1, 5))):
        got = outcome(fast, *operands(shape, state, dtype), numbers(*shape).to(dtype))
        wanted = outcome(naive, *operands(shape, state), numbers(*shape))
        for ours, exact in zip(got, wanted, strict=True):
            assert ours.dtype == dtype
            torch.testing.assert_close(ours.double(), exact, rtol=error, atol=error)
    assert interpreted.launched


def test_no_steps_and_no_channels_are_no_kernel(interpreted):
    for shape in ((0, 2, 3), (4, 0, 3)):
        got = outcome(forget_mult, *operands(shape, shape[1:]), numbers(*shape))
        assert [t.shape for t in got] == [torch.Size(s) for s in (shape, shape, shape, shape[1:])]


@pytest.mark.skipif(
    not torch.cuda.is_available() or not triton_language.installed(), reason="no CUDA with Triton"
)
@pytest.mark.parametrize(("fast", "naive"), PAIRS)
def test_the_device_gives_the_numbers_of_the_plain_loop(by_triton, fast, naive):
    shape = (33, 3, 77)
    f, z, c0 = (t.detach().cuda().requires_grad_() for t in operands(shape, shape[1:]))
    got = outcome(fast, f, z, c0, numbers(*shape).cuda())
    wanted = outcome(naive, *operands(shape, shape[1:]), numbers(*shape))
    for ours, exact in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours.cpu(), exact, rtol=1e-12, atol=1e-12)
