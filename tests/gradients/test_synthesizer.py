"""Synthesizers: sizes, what each number may know of, and that merging the encoder changes nothing."""

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.gradients.synthesizer import MLP, Elementwise

CELLS = {"qrnn": 15_301, "gru": 15_451, "lstm": 20_551}
B, D = 3, 7


def built(cell, **settings):
    torch.manual_seed(0)
    made = Elementwise(D, cell=cell, **{"hidden": 5, "zero_init": False, **settings}).double().eval()
    torch.nn.init.normal_(made.encoder.bias)  # at first zero: merging must not lose it
    return made


def numbers(seed=1):
    return torch.randn(B, D, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("cell", CELLS)
def test_parameters_are_as_many_as_published(cell):
    assert sum(p.numel() for p in Elementwise(5050, cell=cell).parameters()) == CELLS[cell]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("axis", ["time", "units", "flat"])
def test_merged_encoder_is_encoder_and_layer(cell, axis):
    """Values, memories and gradients over two calls; the memory of a merged QRNN holds what the encoder has read."""
    merged, plain = built(cell, axis=axis, layers=2), built(cell, axis=axis, layers=2)
    plain.merges = False
    found = []
    for synthesizer in (merged, plain):
        first, memory = synthesizer(numbers(1))
        second, memory = synthesizer(numbers(2), memory)
        (first.square().sum() + second.square().sum()).backward()
        found.append([first, second, *(p.grad for p in synthesizer.parameters())])
        assert (memory is None) == (axis == "units") == (not synthesizer.carries)
    torch.testing.assert_close(*found)


def influence(synthesizer):
    """[answer, number read] -> whether that answer depends on that number."""
    x = numbers().requires_grad_()
    answer, _ = synthesizer(x)
    rows = [torch.autograd.grad(y, x, retain_graph=True)[0].flatten() for y in answer.flatten()]
    return torch.stack(rows) != 0


@pytest.mark.parametrize("cell", CELLS)
def test_who_knows_of_whom(cell):
    eye, below = torch.eye(B * D, dtype=torch.bool), torch.ones(B * D, B * D, dtype=torch.bool).tril()
    same = torch.block_diag(*[torch.ones(D, D)] * B).bool()
    assert torch.equal(influence(built(cell, axis="time")), eye)
    assert torch.equal(influence(built(cell, axis="units")), below & same)
    assert torch.equal(influence(built(cell, axis="flat")), below)


@pytest.mark.parametrize("cell", CELLS)
def test_memory_goes_from_call_to_call(cell):
    for axis in ("time", "flat"):
        synthesizer = built(cell, axis=axis)
        first, memory = synthesizer(numbers(1))
        assert not torch.equal(synthesizer(numbers(2), memory)[0], synthesizer(numbers(2))[0])
    a, b = numbers(1), numbers(2)
    row = built(cell, axis="flat")
    whole = row(torch.cat((a, b)))[0]
    first, memory = row(a)
    torch.testing.assert_close(torch.cat((first, row(b, memory)[0])), whole)


def test_noise_and_zoneout_are_for_training():
    synthesizer = built({"name": "qrnn", "zoneout": 0.5}, noise=0.5, layers=2, dropout=0.5)
    assert torch.equal(synthesizer(numbers())[0], synthesizer(numbers())[0])
    synthesizer.train()
    assert not torch.equal(synthesizer(numbers())[0], synthesizer(numbers())[0])


def test_noise_is_a_factor_of_mean_one():
    """A synthesizer that is linear in what it reads answers, on average, what it answers without noise."""
    synthesizer = built("gru", axis="time", noise=0.5).train()
    synthesizer._first = lambda row, state: (row.unsqueeze(-1).expand(*row.shape, 5), None)
    torch.manual_seed(0)
    x = torch.ones(200, 500).double()
    read = ((synthesizer(x)[0] - synthesizer.decoder.bias) / synthesizer.decoder.weight.sum()).detach()
    assert float(read.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(read.std()) == pytest.approx(0.5, abs=0.01)


def test_first_qrnn_layer_has_window_two_unless_told():
    windows = [
        [layer.window for layer in built(cell, layers=2).layers]
        for cell in ("qrnn", {"name": "qrnn", "window": 1})
    ]
    assert windows == [[2, 1], [1, 1]]


def test_any_other_layer_will_do():
    synthesizer = built({"name": "elman"}, axis="units")
    assert not synthesizer.merges
    assert synthesizer(numbers())[0].shape == (B, D)


def test_zero_at_first():
    for synthesizer in (Elementwise(D, cell="gru"), MLP(D, hidden_sizes=[4])):
        assert not synthesizer(numbers().float())[0].any()
    assert Elementwise(D, cell="gru", zero_init=False)(numbers().float())[0].any()


@pytest.mark.parametrize("cell", CELLS)
def test_first_weights_are_the_published_ones(cell):
    """Encoder and decoder even in +-0.1 without biases; stacked gates of GRU and LSTM with orthonormal columns."""
    torch.manual_seed(0)
    made = Elementwise(D, cell=cell, hidden=50, zero_init=False)
    for linear in (made.encoder, made.decoder):
        assert not linear.bias.any()
        assert 0.08 < float(linear.weight.abs().max().detach()) <= 0.1
    names = [] if cell == "qrnn" else ["weight_ih", "weight_hh"]
    for name in names:
        weight = made.layers[0].get_parameter(name).detach()
        torch.testing.assert_close(weight.T @ weight, torch.eye(50), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hidden": 0}, "hidden is 0; it must be a whole number of at least 1"),
        ({"layers": True}, "layers is True"),
        ({"axis": "batch"}, "axis is 'batch'; it must be one of time, units, flat"),
        ({"noise": -1.0}, "noise is -1.0; it must be .* at least 0"),
        ({"dropout": 1.0}, "dropout"),
        ({"cell": "rnn"}, "cell 'rnn' is unknown"),
    ],
)
def test_what_is_wrong_is_said(settings, words):
    with pytest.raises(InputError, match=words):
        Elementwise(D, **settings)


@pytest.mark.parametrize("sizes", ["64", 64, [0], [True]])
def test_hidden_sizes_out_of_range(sizes):
    with pytest.raises(InputError, match="hidden_sizes is"):
        MLP(D, hidden_sizes=sizes)
