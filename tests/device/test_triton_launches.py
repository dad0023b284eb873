"""Layers on a pretended device with the kernels that a real one would run."""

import copy

import pytest
import torch
from pretended_cuda import THE_DEVICE, is_here, pretended

from sparsernn.core.devices import moved
from sparsernn.kernels import triton_language
from sparsernn.nn import LSTM, ONLSTM, RHN, BlockLSTM, Elman
from sparsernn.nn.drive import loop_choice
from sparsernn.sparsity import sparsify

pytestmark = pytest.mark.skipif(
    not triton_language.installed() or torch.cuda.is_available(), reason="only where Triton is interpreted"
)
LAYERS = {
    "rhn": (2, lambda: RHN(3, 4, depth=2)),
    "onlstm": (2, lambda: ONLSTM(3, 4, chunk_size=2)),
    "elman": (10, lambda: Elman(3, 4, nonlinearity="modrelu")),
}
"""Steps of a window from which the layer is not left to autograd, and the layer."""
WINDOW = ("_ahead_window", "_back_window")
DEVICE = torch.device("cuda", 0)


@pytest.mark.parametrize("name", LAYERS)
def test_a_window_waits_for_nothing_and_is_that_of_the_cpu(name, monkeypatch):
    torch.manual_seed(0)
    steps, make = LAYERS[name]
    layer, x = make().double(), torch.randn(steps, 2, 3, dtype=torch.float64)
    y, _ = layer(x)
    y.square().sum().backward()
    launched, launch = [], triton_language.Kernel.launch
    monkeypatch.setattr(
        triton_language.Kernel, "launch", lambda *args, **named: (launched.append(1), launch(*args, **named))
    )
    with pretended(triton=True) as device:
        twin = copy.deepcopy(layer).to(DEVICE)
        twin.zero_grad()
        there = moved(x, DEVICE)
        device.forget()
        out, _ = twin(there)
        out.square().sum().backward()
        waits = [place for _, place in device.waits if place]
        assert is_here(out)
        torch.testing.assert_close(out.cpu(), y, rtol=1e-10, atol=1e-10)
        for mine, other in zip(layer.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(other.grad.cpu(), mine.grad, rtol=1e-10, atol=1e-10)
    assert waits == []
    assert launched


@pytest.mark.skipif(
    not triton_language.installed() or not triton_language.multiplies(torch.float64),
    reason="no products of float64 in this Triton",
)
@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize(
    ("name", "kernels"), [("rhn", WINDOW), ("elman", WINDOW), ("onlstm", ("_ahead_ordered", "_back_ordered"))]
)
def test_a_window_may_be_one_launch(name, kernels, learns, monkeypatch):
    """One forth and one back, however many steps there are; and what else is launched does not grow with them."""
    counts = []
    for steps in (10, 13):
        torch.manual_seed(0)
        layer, x = LAYERS[name][1]().double(), torch.randn(steps, 2, 3, dtype=torch.float64)
        y, _ = layer(x)
        y.square().sum().backward()
        with pretended(triton=True) as device, torch.set_grad_enabled(learns):
            monkeypatch.setattr(loop_choice, "fastest", lambda kind, steps, ways, device: list(ways)[-1])
            twin, there = copy.deepcopy(layer).to(DEVICE), moved(x, DEVICE)
            twin.zero_grad()
            device.forget()
            out, _ = twin(there)
            if learns:
                out.square().sum().backward()
                for mine, other in zip(layer.parameters(), twin.parameters(), strict=True):
                    torch.testing.assert_close(other.grad.values, mine.grad, rtol=1e-10, atol=1e-10)
            assert [place for _, place in device.waits if place] == []
            counts.append(dict(device.launches))
            torch.testing.assert_close(out.detach().cpu(), y.detach(), rtol=1e-10, atol=1e-10)
        monkeypatch.undo()
    assert counts[0] == counts[1]
    assert [counts[0].get(kernel, 0) for kernel in kernels] == [1, int(learns)]


def test_a_way_is_measured_where_there_are_several():
    """On a device, once for a kind of window; on a draw it is step by step."""
    layer, x = RHN(3, 4, depth=2), torch.randn(10, 2, 3)
    with pretended(triton=True) as device:
        layer, there = layer.to(DEVICE), moved(x, DEVICE)
        layer(there)[0].sum().backward()
        assert device.launches["_ahead_window"] == device.launches["_back_window"] == 1
        device.forget()
        layer(there)[0].sum().backward()
        assert not device.launches["_ahead_window"]
        assert device.launches["_highway"] == 20


def launches(blocks, steps, monkeypatch, bidirectional=False):
    """What a window of a block LSTM launches on its way forth and back, all blocks at once; and what is away."""
    torch.manual_seed(0)
    layer = BlockLSTM(6, 12, blocks=blocks, bidirectional=bidirectional).double()
    x = torch.randn(steps, 2, 6, dtype=torch.float64)
    y, (h, _) = layer(x)
    y.square().sum().backward()
    with pretended(triton=True) as device:
        monkeypatch.setattr(loop_choice, "fastest", lambda kind, steps, ways, device: list(ways)[-1])
        twin, there = copy.deepcopy(layer).to(DEVICE), moved(x, DEVICE)
        twin(there)  # which columns are read is sent there once
        twin.zero_grad()
        device.forget()
        out, (last, _) = twin(there)
        out.square().sum().backward()
        assert [place for _, place in device.waits if place] == []
        counted = dict(device.launches)
        torch.testing.assert_close(out.cpu(), y, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(last.cpu(), h, rtol=1e-10, atol=1e-10)
        for mine, other in zip(layer.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(other.grad.cpu(), mine.grad, rtol=1e-10, atol=1e-10)
    monkeypatch.undo()
    return counted


@pytest.mark.parametrize("bidirectional", [False, True])
def test_blocks_are_launched_as_one(bidirectional, monkeypatch):
    """A product and the gates at each step, however many blocks there are."""
    counts = [launches(blocks, 3, monkeypatch, bidirectional) for blocks in (2, 3, 6)]
    assert counts[0] == counts[1] == counts[2]
    for name in ("_gates", "_gates_back"):
        assert counts[0][name] == 3
    longer = launches(3, 7, monkeypatch, bidirectional)
    more = {name: n - counts[0].get(name, 0) for name, n in longer.items() if n != counts[0].get(name, 0)}
    assert more == {"baddbmm_": 8, "_gates": 4, "_gates_back": 4}


def trained(device):
    """Outputs and weights after two windows, and what the second one waited for."""
    torch.manual_seed(0)
    layer, x = LSTM(2, 16, product="sparse"), torch.randn(2, 2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer, x = layer.to(device), moved(x, device)
    sparsify(layer, optimizer, method="static", density=0.5, block=[16, 1], block_fallback=True)
    for _ in range(2):
        THE_DEVICE.forget()
        optimizer.zero_grad()
        y, _ = layer(x)
        y.square().sum().backward()
        waits = [place for _, place in THE_DEVICE.waits if place]
        optimizer.step()
    assert layer.multiplies_sparsely(x)
    return [y.detach().cpu(), *(p.detach().cpu() for p in layer.state_dict().values())], waits


def test_blocks_are_multiplied_where_they_exist():
    """The layout of a mask is fetched once, when the mask is new; after that a window waits for nothing."""
    wanted, _ = trained(torch.device("cpu"))
    with pretended(triton=True):
        found, waits = trained(DEVICE)
    assert waits == []
    for exact, ours in zip(wanted, found, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-6)
