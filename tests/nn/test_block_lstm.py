"""The block LSTM against the dense LSTM with zeros where it has no weights, and against worked examples."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.nn import LSTM, BlockLSTM, Stack
from sparsernn.nn.blocks.geometry import composition, reduced_blocks, spans, windows
from sparsernn.structure.units import Units, remove

F = 0.66666
DOUBLE = torch.double
SETTINGS = [
    {},
    {"blocks": 3, "density": 0.5},
    {"blocks": 4},
    {"blocks": 1, "density": 1.0},
    {"reduce": (0.9, 0.8)},
    {"blocks": 3, "density": 0.6, "bidirectional": True},
]


def edges(ranges):
    return [(r.start, r.stop) for r in ranges]


def total(layer):
    return sum(p.numel() for p in layer.parameters())


def dense_masks(layer):
    """True where the dense LSTM's weights are the layer's own."""
    ones = copy.deepcopy(layer)
    for p in ones.parameters():
        p.data.fill_(1)
    return [p == 1 for p in ones.to_dense().parameters()]


# (I, H, settings, input windows, widths of the components, parameters); worked out by hand or known for the original
EXAMPLES = [
    (8, 6, {"blocks": 2, "density": 0.75}, [(0, 6), (2, 8)], [3, 3], 264),
    (12, 9, {"blocks": 3, "density": 0.5}, [(0, 6), (3, 9), (6, 12)], [3, 3, 3], 396),
    (40, 60, {"reduce": (0.5, 0.5)}, [(0, 12), (7, 19), (14, 26), (21, 33), (28, 40)], [12] * 5, 6240),
    (400, 1725, {"reduce": (1, F)}, [(0, 400)] * 3, [575] * 3, 6_741_300),
    (1725, 1725, {"reduce": (F, F)}, [(0, 957), (383, 1341), (767, 1725)], [575] * 3, 10_589_200),
    (1725, 400, {"reduce": (F, 1)}, [(0, 1349), (375, 1725)], [200] * 2, 2_482_400),
    (
        200,
        1150,
        {"reduce": (1, 0.5)},
        [(0, 99), (33, 132), (67, 166), (101, 200)],
        [287, 288, 287, 288],
        1_787_104,
    ),
    (
        1150,
        1150,
        {"reduce": (0.5, 0.5)},
        [(0, 344), (201, 545), (403, 747), (604, 948), (806, 1150)],
        [230] * 5,
        2_649_600,
    ),
    (1150, 200, {"reduce": (0.5, 1)}, [(0, 675), (475, 1150)], [100] * 2, 621_600),
    (
        400,
        1150,
        {"reduce": (0.5, 0.5)},
        [(0, 156), (60, 217), (121, 278), (182, 339), (243, 400)],
        [230] * 5,
        1_788_480,
    ),
    (
        1150,
        400,
        {"reduce": (0.5, 0.5)},
        [(0, 306), (210, 517), (421, 728), (632, 939), (843, 1150)],
        [80] * 5,
        622_080,
    ),
    (40, 60, {"reduce": (1, 1)}, [(0, 40)], [60], 4 * (40 * 60 + 60 * 60 + 120)),
]


@pytest.mark.parametrize(("inputs", "hidden", "setting", "reads", "widths", "parameters"), EXAMPLES)
def test_worked_examples(inputs, hidden, setting, reads, widths, parameters):
    with torch.device("meta"):
        layer = BlockLSTM(inputs, hidden, **setting)
    assert edges(layer.windows) == reads
    assert [len(span) for span in layer.hidden_spans()] == widths
    assert total(layer) == parameters
    dense = 4 * (inputs * hidden + hidden**2 + 2 * hidden)
    assert layer.density == pytest.approx(parameters / dense)


def test_a_third_of_a_wide_layer_keeps_a_tenth_of_the_recurrent_connections():
    assert reduced_blocks(1150, 1150, (1 / 3, 1 / 3))[0] == 10
    with torch.device("meta"):
        assert total(BlockLSTM(1150, 1150, reduce=(1 / 3, 1 / 3))) == 1_178_980


def test_budget_is_that_of_the_smaller_dense_layer_where_the_density_is_not_capped():
    blocks, density = reduced_blocks(1725, 1725, (F, F))
    assert blocks == 3
    assert float(density) == pytest.approx(0.555151, abs=1e-6)
    small = 1725 * F
    assert total(BlockLSTM(1725, 1725, reduce=(F, F))) == pytest.approx(
        4 * (2 * small**2 + 2 * small), rel=2e-4
    )


@given(st.data(), st.integers(1, 80), st.integers(1, 80))
@settings(deadline=None)
def test_slices_partition_and_windows_cover(data, inputs, hidden):
    blocks = data.draw(st.integers(1, min(inputs, hidden)))
    density = data.draw(st.floats(1 / blocks + 1e-6, 1)) if blocks > 1 else 1.0
    _, part = composition(inputs, hidden, blocks, density, None)
    out, reads = spans(hidden, blocks), windows(inputs, blocks, part)
    assert [k for span in out for k in span] == list(range(hidden))
    assert sorted({k for window in reads for k in window}) == list(range(inputs))
    assert all(span for span in out)
    assert all(window for window in reads)
    assert all(abs(len(window) - inputs * density) < 1 + 1e-4 * inputs for window in reads)
    assert edges(reads) == sorted(edges(reads))


@pytest.mark.parametrize(("total_", "parts"), [(400, 6), (200, 24), (1150, 35), (650, 18)])
def test_slices_that_rounded_borders_let_overlap_are_whole(total_, parts):
    assert sum(len(span) for span in spans(total_, parts)) == total_


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_equals_the_masked_dense_lstm_in_output_state_and_gradient(setting):
    torch.manual_seed(0)
    layer = BlockLSTM(10, 12, **setting).double()
    directions = 2 if layer.bidirectional else 1
    other, x = layer.to_dense(), torch.randn(7, 3, 10, dtype=DOUBLE, requires_grad=True)
    state = [torch.randn(directions, 3, 12, dtype=DOUBLE, requires_grad=True) for _ in "hc"]
    own = state if layer.bidirectional else [s.squeeze(0) for s in state]
    y, after = layer(x, tuple(own))
    y2, after2 = other(x, tuple(state))
    torch.testing.assert_close(y, y2)
    for mine, theirs in zip(after, after2, strict=True):
        torch.testing.assert_close(mine, theirs if layer.bidirectional else theirs[0])
    loss, loss2 = (ys.square().sum() + (s[1] ** 3).sum() for ys, s in ((y, after), (y2, after2)))
    for mine, theirs in zip(
        torch.autograd.grad(loss, [x, *state], retain_graph=True),
        torch.autograd.grad(loss2, [x, *state], retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
    loss.backward()
    loss2.backward()
    gradients = copy.deepcopy(layer)
    for p, mine in zip(gradients.parameters(), layer.parameters(), strict=True):
        p.data.copy_(mine.grad)
    for mine, theirs, mask in zip(
        gradients.to_dense().parameters(), other.parameters(), dense_masks(layer), strict=True
    ):
        torch.testing.assert_close(mine, theirs.grad * mask)


def test_twin_has_as_many_weights_as_the_layer_and_only_in_bands_and_blocks():
    layer = BlockLSTM(8, 6, blocks=2, density=0.75)
    w_ih, w_hh, *_ = masks = dense_masks(layer)
    assert sum(int(mask.sum()) for mask in masks) == total(layer) == 264
    assert w_hh.view(4, 6, 6)[0].int().tolist() == [[1, 1, 1, 0, 0, 0]] * 3 + [[0, 0, 0, 1, 1, 1]] * 3
    assert w_ih.view(4, 6, 8)[3].int().tolist() == [[1] * 6 + [0] * 2] * 3 + [[0] * 2 + [1] * 6] * 3


def test_dense_weights_are_those_of_the_library_s_own_lstm():
    torch.manual_seed(0)
    layer, x = BlockLSTM(8, 6).double(), torch.randn(5, 2, 8, dtype=DOUBLE)
    dense = LSTM(8, 6).double()
    dense.load_state_dict(layer.dense_weights())
    torch.testing.assert_close(layer(x)[0], dense(x)[0])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_lengths_stop_each_sequence_where_it_ends(bidirectional):
    torch.manual_seed(0)
    layer = BlockLSTM(8, 6, blocks=2, density=0.75, bidirectional=bidirectional)
    x, lengths = torch.randn(7, 3, 8), torch.tensor([2, 7, 5])
    start = tuple(torch.randn_like(s) for s in layer.initial_state(3))
    y, after = layer(x, start, lengths)
    for b, length in enumerate(lengths.tolist()):
        alone, after_b = layer(x[:length, b : b + 1], tuple(s[..., b : b + 1, :] for s in start))
        torch.testing.assert_close(y[:length, b : b + 1], alone)
        assert y[length:, b].abs().sum() == 0
        for mine, theirs in zip(after, after_b, strict=True):
            torch.testing.assert_close(mine[..., b, :], theirs[..., 0, :])


def test_directions_come_one_after_the_other():
    torch.manual_seed(0)
    layer, x = BlockLSTM(8, 6, blocks=3, bidirectional=True), torch.randn(5, 2, 8)
    y, (h, _) = layer(x)
    forward, backward = BlockLSTM(8, 6, blocks=3), BlockLSTM(8, 6, blocks=3)
    own = layer.state_dict()
    forward.load_state_dict({name: own[name] for name in forward.state_dict()})
    backward.load_state_dict({name: own[name + "_reverse"] for name in backward.state_dict()})
    torch.testing.assert_close(y[..., :6], forward(x)[0])
    torch.testing.assert_close(y[..., 6:], backward(x.flip(0))[0].flip(0))
    torch.testing.assert_close(h[1], backward(x.flip(0))[1][0])
    assert (layer.hidden_size, layer.input_size) == (12, 8)


def test_batch_first_transposes_both_sides():
    torch.manual_seed(0)
    layer, x = BlockLSTM(8, 6, batch_first=True), torch.randn(3, 7, 8)
    y, _ = layer(x)
    torch.testing.assert_close(y, layer.to_dense()(x)[0])
    layer.batch_first = False
    torch.testing.assert_close(y, layer(x.transpose(0, 1))[0].transpose(0, 1))


def test_weight_drop_meets_recurrent_weights_of_both_directions_in_training_only():
    torch.manual_seed(0)
    layer = BlockLSTM(4, 80, blocks=2, weight_drop=0.5, bidirectional=True)
    x = torch.randn(7, 3, 4)
    torch.testing.assert_close(layer(x[:1])[0], layer.to_dense()(x[:1])[0])  # h = 0: W_hh plays no part
    assert not torch.allclose(layer(x)[0], layer(x)[0])
    layer(x)[0].square().sum().backward()
    for name, p in layer.named_parameters():
        lost = (p.grad == 0).double().mean()
        assert 0.45 < lost < 0.55 if name.startswith("weight_hh") else lost < 0.05
    layer.eval()
    torch.testing.assert_close(layer(x)[0], layer.to_dense()(x)[0])
    layer.train()
    assert not torch.allclose(layer(x)[0], layer(x)[0])


def test_weights_start_in_the_range_of_their_own_component():
    layer = BlockLSTM(30, 63, blocks=7)
    assert all(p.abs().max() <= 1 / 3 for p in layer.parameters())
    assert all(p.abs().max() > 0.25 for p in layer.parameters() if p.ndim > 1)


def twins():
    """Two stacked block LSTMs of uneven components and their dense equals, with a reader on top."""
    torch.manual_seed(0)
    stack = Stack([BlockLSTM(5, 11, blocks=3, density=0.5), BlockLSTM(11, 7, blocks=2, density=0.7)]).double()
    dense = Stack([LSTM(5, 11), LSTM(11, 7)]).double()
    for own, other in zip(stack.members, dense.members, strict=True):
        other.load_state_dict(own.dense_weights())
    return stack, dense


def all_units(stack):
    last = stack.members[-1]
    return [*stack.units(), Units("top", last.hidden_size, last.outputs())]


def test_norms_and_zeros_of_units_are_those_of_the_dense_equal():
    stack, dense = twins()
    for own, other in zip(all_units(stack), all_units(dense), strict=True):
        torch.testing.assert_close(own.norms(), other.norms())
        gone = torch.tensor([0, 4, own.width - 1])
        own.zero(gone)
        other.zero(gone)
    for own, other in zip(stack.members, dense.members, strict=True):
        for name, weight in own.dense_weights().items():
            torch.testing.assert_close(weight, getattr(other, name).data)


def test_group_norms_carry_the_gradient_of_the_dense_equal():
    stack, dense = twins()
    for both in (stack, dense):
        sum((units.squares() + 1e-8).sqrt().sum() for units in all_units(both)).backward()
    for own, other in zip(stack.members, dense.members, strict=True):
        for p in own.parameters():
            p.data.copy_(torch.zeros_like(p) if p.grad is None else p.grad)
        for name in ("weight_ih", "weight_hh"):
            torch.testing.assert_close(own.dense_weights()[name], getattr(other, name).grad)


# the second mask leaves the middle component of the first layer without units
@pytest.mark.parametrize("kept", [[0, 2, 3, 7, 9], [0, 1, 8, 9, 10]])
def test_removed_units_leave_a_smaller_layer_of_the_same_function(kept):
    stack, _ = twins()
    x = torch.randn(6, 2, 5, dtype=DOUBLE)
    keep = [torch.zeros(11, dtype=torch.bool), torch.arange(7) % 3 != 1]
    keep[0][kept] = True
    for units, stays in zip(all_units(stack), keep, strict=True):
        units.zero((~stays).nonzero().squeeze(1))
    before, _ = stack(x)
    remove(stack, all_units(stack), keep)
    after, _ = stack(x)
    first, second = stack.members
    assert (first.hidden_size, second.input_size, second.hidden_size) == (5, 5, int(keep[1].sum()))
    torch.testing.assert_close(after, before[..., keep[1]])
    torch.testing.assert_close(after, second.to_dense()(first.to_dense()(x)[0])[0])
    torch.testing.assert_close(all_units(stack)[0].norms() > 0, torch.ones(5, dtype=torch.bool))


def test_directions_must_stay_of_one_size():
    layer = BlockLSTM(4, 6, bidirectional=True)
    units = Units("all", layer.hidden_size, layer.outputs())
    even = torch.ones(12, dtype=torch.bool)
    even[[1, 6]] = False
    remove(layer, [units], [even])
    assert layer(torch.zeros(3, 2, 4))[0].shape == (3, 2, 10)
    units = Units("all", layer.hidden_size, layer.outputs())
    odd = torch.ones(10, dtype=torch.bool)
    odd[0] = False
    remove(layer, [units], [odd])
    with pytest.raises(InputError, match="equally many from both"):
        layer(torch.zeros(3, 2, 4))


@pytest.mark.parametrize(
    ("sizes", "setting", "message"),
    [
        ((20, 30), {"reduce": (0.1, 0.1)}, "larger fractions"),
        ((400, 1150), {"reduce": (0.05, 0.05)}, "larger fractions"),
        ((20, 30), {"reduce": (0.5, 0)}, "reduce is .*; it must be .* a list of 2"),
        ((20, 30), {"reduce": 0.5}, "reduce is .*; it must be .* a list of 2"),
        ((20, 30), {"reduce": (0.5, 0.5), "blocks": 2}, "one or the other"),
        ((20, 30), {"blocks": 21}, "at most 20"),
        ((20, 30), {"blocks": 0}, "blocks is 0; it must be a whole number of at least 1"),
        ((20, 30), {"blocks": 4, "density": 0.2}, r"\[1/4, 1\]"),
        ((20, 30), {"blocks": 1, "density": 0.5}, r"\[1/1, 1\]"),
        ((20, 30), {"density": 0.5}, "without blocks"),
        ((20, 30), {"weight_drop": 1.0}, "weight_drop is 1.0"),
        ((0, 30), {}, "input_size is 0"),
    ],
)
def test_refuses_impossible_settings(sizes, setting, message):
    with pytest.raises(InputError, match=message):
        BlockLSTM(*sizes, **setting)


def test_a_third_as_density_is_a_third():
    layer = BlockLSTM(9, 9, blocks=3, density=1 / 3)
    assert edges(layer.windows) == [(0, 3), (3, 6), (6, 9)]
