"""Element-wise rules in Triton against their equations under autograd, by Triton's interpreter."""

import pytest
import torch

from sparsernn.kernels import recurrence_triton, rule_kernels, triton_language
from sparsernn.nn import RHN, Elman
from sparsernn.nn.cells.elman import ModReLU
from sparsernn.nn.cells.lstm_gates import LSTMGates
from sparsernn.nn.cells.onlstm import ONLSTM, OrderedMemory
from sparsernn.nn.cells.rhn import FreeHighway, Highway

WIDTH, ROWS = 10, 3
RULES = {
    "highway": (Highway(), 2 * WIDTH, 1, ["_highway", "_highway_back"]),
    "free highway": (FreeHighway(), 3 * WIDTH, 1, ["_highway", "_highway_back"]),
    "gates": (LSTMGates(), 4 * WIDTH, 2, ["_gates", "_gates_back"]),
    "one chunk": (OrderedMemory(1), 2 + 4 * WIDTH, 2, ["_ordered", "_ordered_back"]),
    "five chunks": (OrderedMemory(5), 10 + 4 * WIDTH, 2, ["_ordered", "_ordered_back"]),
    "single units": (OrderedMemory(WIDTH), 6 * WIDTH, 2, ["_ordered", "_ordered_back"]),
    "modrelu": (ModReLU(torch.linspace(-1, 1, WIDTH)), WIDTH, 1, ["_modrelu"]),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """More than one program, the last one not full."""
    monkeypatch.setattr(recurrence_triton, "BLOCK", 16)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_its_equations(interpreted, name, dtype, error):
    rule, gates, parts, kernels = RULES[name]
    rule.parameters = tuple(p.to(dtype) for p in rule.parameters)
    random = torch.Generator().manual_seed(0)
    scales = torch.tensor([0.03, 1.0, 30.0], dtype=dtype).unsqueeze(1)  # near 0, as usual, and saturated
    pre = (scales * torch.randn(ROWS, gates, generator=random, dtype=dtype)).requires_grad_()
    state = tuple(
        torch.randn(ROWS, WIDTH, generator=random, dtype=dtype).requires_grad_() for _ in range(parts)
    )
    gradient = tuple(torch.randn(ROWS, WIDTH, generator=random, dtype=dtype) for _ in range(parts))
    wanted = rule.equations(pre, state)
    wanted_d = torch.autograd.grad(wanted, (pre, *state), gradient, allow_unused=True)

    out, d_pre = torch.empty(ROWS, WIDTH, dtype=dtype), torch.empty(ROWS, gates, dtype=dtype)
    got, kept = rule.forward(pre.detach().clone(), tuple(s.detach() for s in state), out)
    direct, others = rule.backward(gradient, kept, d_pre)
    assert interpreted.launched == kernels
    assert got[0].data_ptr() == out.data_ptr()
    for ours, exact in zip((*got, d_pre), (*wanted, wanted_d[0]), strict=True):
        torch.testing.assert_close(ours, exact, rtol=error, atol=error)
    assert (direct is None) == (wanted_d[1] is None)
    for ours, exact in zip((direct, *others), wanted_d[1:], strict=True):
        if exact is not None:
            torch.testing.assert_close(ours, exact, rtol=error, atol=error)


def test_what_is_not_a_number_stays_none(interpreted):
    """So that a run that diverges is seen to."""
    for name, (rule, gates, parts, _) in RULES.items():
        pre, state = torch.full((1, gates), float("nan")), tuple(torch.ones(1, WIDTH) for _ in range(parts))
        rule.parameters = tuple(p.float() for p in rule.parameters)
        got, _ = rule.forward(pre, state, torch.empty(1, WIDTH))
        assert got[0].isnan().all(), name


LAYERS = {
    "rhn": lambda: RHN(3, WIDTH, depth=2, state_dropout=0.5),
    "rhn with a gate more": lambda: RHN(3, WIDTH, depth=2, coupled=False),
    "onlstm": lambda: ONLSTM(3, WIDTH, chunk_size=2, weight_drop=0.3),
    "elman": lambda: Elman(3, WIDTH, nonlinearity="modrelu"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_over_time_is_the_naive_loop(interpreted, name):
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    # the lightest rules leave fewer steps than ten to autograd
    x, lengths = torch.randn(11, ROWS, 3, dtype=torch.float64), torch.tensor([11, 2, 3])
    results = []
    for naive in (True, False):
        layer.naive = naive
        torch.manual_seed(1)  # the same dropouts
        y, state = layer(x, lengths=lengths)
        d = torch.autograd.grad((y.square().sum(), *(s.sum() for s in state)), list(layer.parameters()))
        results.append((y, *state, *d))
        assert bool(interpreted.launched) == (not naive)
    for exact, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)


def test_what_lies_apart_is_left_to_torch(interpreted):
    assert rule_kernels.rule_kernels(torch.zeros(2, 8)) is recurrence_triton
    assert rule_kernels.rule_kernels(torch.zeros(8, 2).t()) is None


class Elsewhere(torch.Tensor):
    """Says that it is on a second device."""

    device = torch.device("cuda", 1)


@pytest.mark.parametrize(("current", "entered"), [(1, []), (0, [torch.device("cuda", 1)])])
def test_a_kernel_is_launched_where_its_tensors_are(monkeypatch, current, entered):
    seen = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "device", seen.append)
    triton_language._on_device_of((3, torch.empty(1).as_subclass(Elsewhere)))
    assert seen == entered
