"""The fast loop over time against its naive twin, for every cell, and cells that are a plain step."""

from pathlib import Path

import pytest
import torch
from cells import CELLS, make_cell
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.kernels import available, describe
from sparsernn.nn import RHN, Bidirectional, Recurrent
from sparsernn.nn.drive.cell import Cell
from sparsernn.nn.drive.recurrent import turned, within
from sparsernn.nn.drive.scan import scan_naively
from sparsernn.nn.drive.step_product import (
    CompiledProduct,
    PackedProduct,
    PlainProduct,
    compiling_pays,
    packing_pays,
    recurrent_product,
)

T, B, WIDTH = 11, 3, 4


def outcome(layer, naive, lengths=None, seed=0):
    """Outputs, final state and every gradient of a loss that looks at all of them."""
    layer.naive = naive
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(T, B, WIDTH, generator=generator, dtype=torch.double, requires_grad=True)
    start = [
        torch.randn(B, layer.hidden_size, generator=generator, dtype=torch.double).mul_(0.5).requires_grad_()
        for _ in range(layer.cell.parts)
    ]
    torch.manual_seed(seed)  # of the dropouts
    y, last = layer(x, tuple(start), lengths)
    weights = torch.sin(torch.arange(y.numel(), dtype=torch.double)).view_as(y)
    loss = (y * weights).sum() + sum(part.square().sum() for part in last)
    return y, *last, *torch.autograd.grad(loss, [x, *start, *layer.parameters()])


@pytest.mark.parametrize("lengths", [None, [11, 2, 0], [1, 11, 3]], ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_fast_and_naive_agree_in_outputs_states_and_gradients(name, lengths):
    layer = Recurrent(make_cell(name, WIDTH)).double()
    lengths = None if lengths is None else torch.tensor(lengths)
    fast, naive = outcome(layer, False, lengths), outcome(layer, True, lengths)
    for a, b in zip(fast, naive, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_backwards_in_time_both_loops_agree(name):
    layer = Recurrent(make_cell(name, WIDTH), reverse=True).double()
    lengths = torch.tensor([11, 2, 4])
    for a, b in zip(outcome(layer, False, lengths), outcome(layer, True, lengths), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_gradcheck(name):
    layer = Recurrent(make_cell(name, WIDTH)).double().eval()
    x = torch.randn(10, 1, WIDTH, dtype=torch.double, requires_grad=True)
    start = tuple(
        torch.randn(1, layer.hidden_size, dtype=torch.double, requires_grad=True)
        for _ in range(layer.cell.parts)
    )
    assert torch.autograd.gradcheck(lambda x, *s: layer(x, s)[0], (x, *start))


@pytest.mark.parametrize("name", CELLS)
def test_evaluation_saves_nothing_and_gives_the_same(name):
    layer = Recurrent(make_cell(name, WIDTH)).eval()
    x = torch.randn(T, B, WIDTH)
    with_graph, _ = layer(x)
    with torch.no_grad():
        without, _ = layer(x)
    assert with_graph.requires_grad
    assert not without.requires_grad
    torch.testing.assert_close(without, with_graph, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_single_steps_give_the_window(name):
    layer = Recurrent(make_cell(name, WIDTH)).double().eval()
    x = torch.randn(T, B, WIDTH, dtype=torch.double)
    whole, last = layer(x)
    state, steps = layer.initial_state(B), []
    for t in range(T):
        y, state = layer(x[t : t + 1], state)
        steps.append(y)
    torch.testing.assert_close(torch.cat(steps), whole)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("name", CELLS)
def test_only_wanted_gradients_are_computed(name):
    layer = Recurrent(make_cell(name, WIDTH)).requires_grad_(False)
    x = torch.randn(T, B, WIDTH, requires_grad=True)
    layer(x)[0].sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in layer.parameters())


@pytest.mark.parametrize(("width", "off"), [(24, "0"), (640, "0"), (640, "1")])
def test_the_faster_products_change_no_more_than_rounding(monkeypatch, width, off):
    """1280 x 640 weights go to the compiled product, or are packed where oneDNN is there; 24 never."""
    monkeypatch.setenv("SPARSERNN_NO_KERNELS", off)
    torch.manual_seed(1)
    layer, twin = RHN(WIDTH, width, depth=2), RHN(WIDTH, width, depth=2).double()
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(9, B, WIDTH)
    y, y_twin = layer(x)[0], twin(x.double())[0]
    y.square().sum().backward()
    y_twin.square().sum().backward()
    torch.testing.assert_close(y.double(), y_twin, rtol=1e-4, atol=1e-5)
    for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad.double(), q.grad, rtol=1e-3, atol=1e-4)


def test_the_product_is_chosen_by_size_alone(monkeypatch):
    monkeypatch.setenv("SPARSERNN_NO_KERNELS", "1")
    large, small = torch.empty(1600, 400), torch.empty(128, 128)
    assert isinstance(recurrent_product(small, 20, 35), PlainProduct)
    assert isinstance(recurrent_product(large.double(), 20, 35), PlainProduct)
    assert not packing_pays(large, rows=128, uses=150)
    assert not packing_pays(large, rows=20, uses=1)
    if torch.backends.mkldnn.is_available():
        assert isinstance(recurrent_product(large, 20, 35), PackedProduct)


def test_the_compiled_product_is_chosen_by_size_alone(monkeypatch):
    monkeypatch.delenv("SPARSERNN_NO_KERNELS", raising=False)
    large, small = torch.empty(1600, 400), torch.empty(128, 128)
    if not available():
        pytest.skip(describe())
    for weight in (large, large.t()):
        assert isinstance(recurrent_product(weight, 20, 35), CompiledProduct)
        assert not any(compiling_pays(weight, rows, 35) for rows in (1, 64))
    assert compiling_pays(large, 20, uses=1)
    assert not compiling_pays(large.t(), 20, uses=1)  # it would be copied
    assert not compiling_pays(large.double(), 20, 35)
    assert not compiling_pays(large[:, ::2], 20, 35)
    assert isinstance(recurrent_product(small, 20, 35), PlainProduct)


@pytest.mark.parametrize("kind", [PlainProduct, lambda w: PackedProduct(w, 5)], ids=["plain", "packed"])
def test_products_add_to_their_base(kind):
    if kind is not PlainProduct and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    weight, a, bias = torch.randn(7, 4), torch.randn(5, 4), torch.randn(7)
    product = kind(weight)
    torch.testing.assert_close(product(bias, a), bias + a @ weight.t())
    base = torch.randn(5, 7)
    torch.testing.assert_close(product(base.clone(), a), base + a @ weight.t())


# --- cells of one's own


class PlainLSTM(Cell):
    """What a user writes: the equations, and nothing about gradients or time."""

    parts = 2

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.ih = nn.Linear(input_size, 4 * hidden_size)
        self.hh = nn.Linear(hidden_size, 4 * hidden_size)

    def project(self, x):
        return self.ih(x)

    def step(self, u, state):
        i, f, g, o = (u + self.hh(state[0])).chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


@pytest.fixture
def own_and_torch():
    """A user's LSTM cell and nn.LSTM with the same weights."""
    own, theirs = Recurrent(PlainLSTM(WIDTH, 5)).double(), nn.LSTM(WIDTH, 5).double()
    ours = (own.cell.ih.weight, own.cell.hh.weight, own.cell.ih.bias, own.cell.hh.bias)
    for p, q in zip(theirs.parameters(), ours, strict=True):
        p.data.copy_(q)
    return own, theirs


def test_a_plain_step_is_a_layer(own_and_torch):
    own, theirs = own_and_torch
    x = torch.randn(T, B, WIDTH, dtype=torch.double)
    y, (h, c) = own(x)
    wanted, (h_wanted, c_wanted) = theirs(x)
    for a, b in ((y, wanted), (h, h_wanted[0]), (c, c_wanted[0])):
        torch.testing.assert_close(a, b)


def test_a_plain_step_reads_sequences_of_different_lengths(own_and_torch):
    own, theirs = own_and_torch
    x, lengths = torch.randn(T, B, WIDTH, dtype=torch.double), torch.tensor([2, 11, 3])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    wanted, (h, _) = theirs(packed)
    y, (last, _) = own(x, lengths=lengths)
    torch.testing.assert_close(y, nn.utils.rnn.pad_packed_sequence(wanted, total_length=T)[0])
    torch.testing.assert_close(last, h[0])


def test_both_directions_are_nn_lstm_bidirectional():
    torch.manual_seed(0)
    ahead, back = Recurrent(PlainLSTM(WIDTH, 5)), Recurrent(PlainLSTM(WIDTH, 5), reverse=True)
    both, theirs = Bidirectional(ahead, back).double(), nn.LSTM(WIDTH, 5, bidirectional=True).double()
    for suffix, layer in (("", ahead), ("_reverse", back)):
        pairs = (("ih", layer.cell.ih), ("hh", layer.cell.hh))
        for name, linear in pairs:
            getattr(theirs, f"weight_{name}_l0{suffix}").data.copy_(linear.weight)
            getattr(theirs, f"bias_{name}_l0{suffix}").data.copy_(linear.bias)
    x, lengths = torch.randn(T, B, WIDTH, dtype=torch.double), torch.tensor([11, 3, 4])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    wanted = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], total_length=T)[0]
    torch.testing.assert_close(both(x, lengths=lengths)[0], wanted)
    torch.testing.assert_close(both(x)[0], theirs(x)[0])
    assert (both.input_size, both.hidden_size) == (WIDTH, 10)


# --- the layer around a cell


def test_a_learnt_initial_state_gets_its_gradient():
    layer = RHN(WIDTH, 5, depth=2, learn_initial_state=True).double()
    assert [tuple(p.shape) for p in layer.start] == [(5,)]
    x = torch.randn(T, B, WIDTH, dtype=torch.double)
    layer(x)[0].sum().backward()
    by_hand = torch.zeros(B, 5, dtype=torch.double, requires_grad=True)
    layer(x, (by_hand,))[0].sum().backward()
    torch.testing.assert_close(layer.start[0].grad, by_hand.grad.sum(0))


def test_batch_first_is_a_transpose():
    torch.manual_seed(0)
    layer, x = RHN(WIDTH, 5, depth=2), torch.randn(T, B, WIDTH)
    wanted, _ = layer(x)
    layer.batch_first = True
    torch.testing.assert_close(layer(x.transpose(0, 1))[0].transpose(0, 1), wanted)


def test_the_output_may_be_changed_in_place_before_backward():
    layer = RHN(WIDTH, 5, depth=2)
    x = torch.randn(T, B, WIDTH, requires_grad=True)
    layer(x)[0].sum().backward()
    wanted, x.grad = x.grad, None
    y, (last,) = layer(x)
    y.mul_(1.0).add_(3.0)
    last.zero_()
    y.sum().backward()
    torch.testing.assert_close(x.grad, wanted)


def test_steps_beyond_a_length_do_not_exist():
    layer, x = RHN(WIDTH, 5, depth=2), torch.randn(T, B, WIDTH)
    changed = x.clone()
    changed[3:, 1] = 100.0
    lengths = torch.tensor([11, 3, 5])
    for a, b in zip(layer(x, lengths=lengths), layer(changed, lengths=lengths), strict=True):
        torch.testing.assert_close(a, b)


def test_turning_twice_is_standing_still():
    valid = within(torch.tensor([4, 0, 2]), 5, 3)
    order = turned(valid, 5)
    x = torch.randn(5, 3, 2)
    once = x.gather(0, order.expand_as(x))
    torch.testing.assert_close(once.gather(0, order.expand_as(x)), x)
    torch.testing.assert_close(once[0, 0], x[3, 0])


@pytest.mark.parametrize(
    ("lengths", "said"), [([1, 2], "shape"), ([1, 2, 19], "1 to 19"), ([-1, 2, 3], "-1 to 3")]
)
def test_impossible_lengths_are_refused(lengths, said):
    with pytest.raises(InputError, match=said):
        RHN(WIDTH, 5, depth=1)(torch.zeros(T, B, WIDTH), lengths=torch.tensor(lengths))


def test_two_directions_must_read_the_same():
    with pytest.raises(InputError, match="4 and 3"):
        Bidirectional(RHN(4, 5, depth=1), RHN(3, 5, depth=1))


def test_the_naive_loop_is_the_recurrence():
    """s_t = 0.5 s_{t-1} + u_t by hand: 1, 2.5, 4.25."""
    u = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    y, (last,) = scan_naively(lambda u, s: (0.5 * s[0] + u,), u, (torch.zeros(1, 1),))
    assert y.flatten().tolist() == [1.0, 2.5, 4.25]
    assert last.item() == 4.25


def test_the_cell_of_the_documentation_is_a_layer():
    page = (Path(__file__).parents[2] / "docs" / "recurrences.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    names = {}
    exec(code, names)
    assert names["y"].shape == (7, 3, 20)
    assert names["y"][2:, 1].abs().sum() == 0
