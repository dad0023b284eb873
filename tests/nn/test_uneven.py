"""Layers and directions of different widths: torch's own modules, and chains of them, are the oracle."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from sparsernn.core.errors import InputError
from sparsernn.nn import UnevenRNN
from sparsernn.structure.gates import cell_groups, gate_blocks

TORCH = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k),
}
CARRIES = {"lstm": 2}


def states(kind, hx):
    """The tensors of a state, in the form of `UnevenRNN`, of h and then c."""
    return [list(part) for part in (hx if kind == "lstm" else (hx,))]


def twins(kind, layers=2, directions=2, **options):
    """A torch module and an `UnevenRNN` of the same widths and weights."""
    torch.manual_seed(0)
    theirs = TORCH[kind](3, 5, layers, bidirectional=directions == 2, **options).double()
    sizes = [(5, 5)] * layers if directions == 2 else [5] * layers
    ours = UnevenRNN(kind, 3, sizes, **options).double()
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    return theirs, ours


def agree(kind, theirs, ours):
    """Outputs and final states are the same."""
    (y, hx), (other, state) = theirs, ours
    if isinstance(y, PackedSequence):
        for a, b in zip(y[1:], other[1:], strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
        y, other = y.data, other.data
    torch.testing.assert_close(other, y, rtol=0, atol=1e-14)
    for whole, parts in zip(states(kind, hx), states(kind, state), strict=True):
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-14)


def initial(kind, layers, directions, *batch):
    """A random state as torch has it, and the same one as `UnevenRNN` has it."""
    parts = [torch.randn(layers * directions, *batch, 5).double() for _ in range(CARRIES.get(kind, 1))]
    if kind == "lstm":
        return tuple(parts), tuple(tuple(part) for part in parts)
    return parts[0], tuple(parts[0])


@pytest.mark.parametrize("kind", TORCH)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"bias": False}], ids=str)
def test_equal_widths_are_torchs_module(kind, directions, options):
    theirs, ours = twins(kind, directions=directions, **options)
    x = torch.randn(4, 6, 3).double()
    batch = 4 if options.get("batch_first") else 6
    agree(kind, theirs(x), ours(x))
    hx, state = initial(kind, 2, directions, batch)
    agree(kind, theirs(x, hx), ours(x, state))
    hx, state = initial(kind, 2, directions)
    agree(kind, theirs(x[0], hx), ours(x[0], state))
    agree(kind, theirs(x[0]), ours(x[0]))


@pytest.mark.parametrize("kind", TORCH)
@pytest.mark.parametrize("ordered", [False, True])
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5))
@settings(max_examples=5)
def test_packed_sequences_are_read_as_torch_does(kind, ordered, lengths):
    theirs, ours = twins(kind)
    lengths = sorted(lengths, reverse=True) if ordered else lengths
    packed = pack_sequence([torch.randn(n, 3).double() for n in lengths], enforce_sorted=ordered)
    agree(kind, theirs(packed), ours(packed))
    hx, state = initial(kind, 2, 2, len(lengths))
    agree(kind, theirs(packed, hx), ours(packed, state))


@pytest.mark.parametrize("kind", TORCH)
def test_gradients_and_dropout_are_torchs(kind):
    theirs, ours = twins(kind, dropout=0.4)
    x = torch.randn(4, 6, 3).double()
    gradients = []
    for module in (theirs, ours):
        torch.manual_seed(1)
        y, _ = module(x)
        y.square().sum().backward()
        gradients.append([y, *(p.grad for p in module.parameters())])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-12)
    assert not torch.allclose(gradients[0][0], theirs.eval()(x)[0])
    agree(kind, theirs(x), ours.eval()(x))


SIZES = ([4, 6, 3], [(4, 6), (2, 3)])


def chained(kind, module, x):
    """One sequence (T, I) through modules of torch that have one layer and one direction each."""
    weights = module.state_dict()
    for layer in range(module.num_layers):
        outputs = []
        for end in ("", "_reverse") if module.bidirectional else ("",):
            own = {n: weights[f"{n}_l{layer}{end}"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            single = TORCH[kind](x.shape[1], own["weight_hh"].shape[1]).double()
            single.load_state_dict({f"{n}_l0": weight for n, weight in own.items()})
            outputs.append(single(x.flip(0))[0].flip(0) if end else single(x)[0])
        x = torch.cat(outputs, -1)
    return x


@pytest.mark.parametrize("kind", TORCH)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@torch.no_grad()
def test_uneven_layers_are_a_chain_of_torchs(kind, sizes):
    torch.manual_seed(0)
    module = UnevenRNN(kind, 3, sizes).double()
    sequences = [torch.randn(n, 3).double() for n in (3, 5, 1, 5)]
    wanted = [chained(kind, module, x) for x in sequences]
    y, last = module(pack_sequence(sequences, enforce_sorted=False))
    torch.testing.assert_close(unpack_sequence(y), wanted, rtol=0, atol=1e-14)
    top = states(kind, last)[0][
        -1
    ]  # of the last layer and, if there is one, the direction that ends at the start
    width = top.shape[1]
    ends = [y[0, -width:] if module.bidirectional else y[-1, -width:] for y in wanted]
    torch.testing.assert_close(top, torch.stack(ends), rtol=0, atol=1e-14)
    torch.testing.assert_close(module(sequences[1])[0], wanted[1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", TORCH)
@torch.no_grad()
def test_a_carried_state_reads_on(kind):
    module = UnevenRNN(kind, 3, [4, 6]).double()
    x = torch.randn(7, 2, 3).double()
    first, state = module(x[:3])
    second, _ = module(x[3:], state)
    torch.testing.assert_close(torch.cat([first, second]), module(x)[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(module(x, module.initial_state(2))[0], module(x)[0], rtol=0, atol=0)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes_gates_and_names_follow_the_weights(sizes):
    module = UnevenRNN("gru", 3, sizes, batch_first=True, dropout=0.5)
    assert list(module.hidden_sizes) == sizes
    assert (module.input_size, module.output_size) == (3, sizes[-1] if sizes[-1] == 3 else 5)
    assert repr(module) == f"UnevenRNN('gru', 3, {sizes}, batch_first=True, dropout=0.5)"
    blocks = gate_blocks(module)["weight_ih_l1"]
    width = 6 if sizes[-1] == 3 else 2
    assert [(b.name, b.start, b.stop) for b in blocks] == [
        (name, k * width, (k + 1) * width) for k, name in enumerate("rzn")
    ]
    assert ("weight_ih_l1", "weight_hh_l1") in cell_groups(module)
    assert len(cell_groups(module)) == (3 if sizes[-1] == 3 else 4)
    assert gate_blocks(UnevenRNN("rnn_tanh", 3, sizes)) == {}


def test_it_is_saved_copied_and_loaded_from_sizes():
    module = UnevenRNN("lstm", 3, [(4, 6), (2, 3)], bias=False)
    x = torch.randn(5, 2, 3)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    other = UnevenRNN("lstm", 3, module.hidden_sizes, bias=False)
    other.load_state_dict(module.state_dict())
    for again in (copy.deepcopy(module), torch.load(file, weights_only=False), other):
        assert torch.equal(again(x)[0], module(x)[0])
    bounds = {n: p.abs().max().item() for n, p in UnevenRNN("lstm", 300, [100, 4]).named_parameters()}
    assert 0.099 < bounds["weight_ih_l0"] <= 0.1
    assert 0.4 < bounds["weight_ih_l1"] <= 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("LSTM", 3, [4]), "kind is 'LSTM'; it must be one of lstm, gru, rnn_tanh, rnn_relu"),
        (("lstm", 0, [4]), "input_size is 0"),
        (("lstm", 3, [4, 0]), r"hidden_sizes is \[4, 0\]; .*each entry a whole number of at least 1"),
        (("lstm", 3, [4, 2.5]), r"hidden_sizes is \[4, 2.5\]; .*each entry a whole number"),
        (("lstm", 3, []), r"hidden_sizes is \[\]"),
        (("lstm", 3, 7), "hidden_sizes is 7"),
        (("lstm", 3, [(2, 3), 4]), "must list a width for each layer"),
        (("lstm", 3, [(2, 3, 4)]), "each entry .* or a list of 1 to 2"),
    ],
)
def test_impossible_sizes_are_answered(arguments, message):
    with pytest.raises(InputError, match=message):
        UnevenRNN(*arguments)
    with pytest.raises(InputError, match=r"dropout is 1\.5"):
        UnevenRNN("lstm", 3, [4], dropout=1.5)


def test_impossible_inputs_are_answered():
    module = UnevenRNN("lstm", 3, [4, 6])
    x = torch.zeros(5, 2, 3)
    for wrong in (torch.zeros(5, 2, 4), torch.zeros(3), torch.zeros(1, 5, 2, 3)):
        with pytest.raises(InputError, match=r"cannot be read; it must be \(T, B, 3\), or \(T, 3\)"):
            module(wrong)
    with pytest.raises(InputError, match="packed inputs of 4 features"):
        module(pack_sequence([torch.zeros(2, 4)]))
    h = (torch.zeros(2, 4), torch.zeros(2, 6))
    for wrong in (h, (h, h, h), (h, h[:1]), (torch.zeros(2, 2, 5), torch.zeros(2, 2, 5))):
        with pytest.raises(InputError, match=r"a pair \(h, c\), each a tuple .* \(2, 4\), \(2, 6\)"):
            module(x, wrong)
    with pytest.raises(InputError, match=r"must be a tuple of tensors of shapes \(2, 4\)"):
        UnevenRNN("gru", 3, [4])(x, torch.zeros(1, 2, 5))
    module.flatten_parameters()
    assert torch.equal(module(x, (h, h))[0], module(x)[0])
