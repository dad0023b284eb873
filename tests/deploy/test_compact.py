"""Removing dead units: every criterion exact on every kind of layer, nothing removed that is needed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.deploy import compact, compacted, dead_units, macs_per_token
from sparsernn.deploy.dead_units import removable
from sparsernn.models.language_model import LanguageModel
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.models.tagger import Tagger
from sparsernn.nn import GRU, LAYERS, LSTM, BlockLSTM, Elman
from sparsernn.nn.cells.rhn import RHNCell
from sparsernn.nn.drive.layer import Stack
from sparsernn.nn.drive.recurrent import Bidirectional, Recurrent
from sparsernn.runs.checkpoint import load_checkpoint, save_checkpoint
from sparsernn.runs.run import load_weights, weights
from sparsernn.structure.units import Slice, Units

KINDS = {
    "lstm": "lstm",
    "gru": "gru",
    "tanh": {"name": "elman", "learn_initial_state": True},
    "modrelu": {"name": "elman", "nonlinearity": "modrelu"},
    "rhn": {"name": "rhn", "depth": 3, "learn_initial_state": True},
    "free rhn": {"name": "rhn", "depth": 2, "coupled": False},
    "onlstm": {"name": "onlstm", "chunk_size": 3},
    "block_lstm": {"name": "block_lstm", "blocks": 2, "density": 0.75},
}
if "qrnn" in LAYERS:
    KINDS |= {"qrnn": {"name": "qrnn", "window": 2}}
WAYS = ("alive", "strict", "unread", "silent")


def randomized(model, seed):
    """All parameters random, biases and learnt states too: nothing is 0 by chance."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data.copy_(0.5 * torch.randn(p.shape, generator=generator))
    return model.double().eval()


@torch.no_grad()
def kill(group, ways):
    """Make unit k dead in the way given; biases keep their values where the way leaves them."""
    chosen = {
        "strict": [s for s in group.slices if s.in_norm],
        "unread": [s for s in group.slices if s.reading],
        "silent": group.silence,
    }
    for way, slices in chosen.items():
        units = torch.tensor([k for k, own in enumerate(ways) if own == way], dtype=torch.long)
        for s in slices:
            s.parameter.index_fill_(s.dim, s.indices(units), 0.0)


def ways_of(width, seed):
    """A random way for each unit, at least one alive; about half are."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(6, (width,), generator=generator).tolist()
    ways = [WAYS[k] if k < 4 else "alive" for k in drawn]
    return ["alive", *ways[1:]]


def two_windows(model, words):
    """log P of two windows, the state carried from the first to the second."""
    first = model(words[:5])
    second = model(words[5:], first.state)
    return torch.cat([model.head.log_prob(f.raw) for f in (first, second)])


def silent_known(group):
    return bool(group.silence)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=3)
@torch.no_grad()
def test_outputs_stay_the_same_over_windows_whatever_units_die_and_how(kind, seed):
    model = randomized(LanguageModel(11, 5, [9, 6], KINDS[kind]), seed)
    ways = [ways_of(group.width, seed + n) for n, group in enumerate(model.units())]
    for group, own in zip(model.units(), ways, strict=True):
        kill(group, own)
    dead = dead_units(model.units())
    for group, own, found in zip(model.units(), ways, dead, strict=True):
        known = [way != "alive" and (way != "silent" or silent_known(group)) for way in own]
        assert all(found[k] for k, way in enumerate(known) if way)
    words = torch.randint(11, (9, 3), generator=torch.Generator().manual_seed(seed))
    before, size = two_windows(model, words), sum(p.numel() for p in model.parameters())
    for criterion in ("any", "strict", "unread", "silent"):
        try:
            smaller = compacted(model, criterion)
        except InputError:
            continue
        torch.testing.assert_close(two_windows(smaller, words), before, rtol=0, atol=1e-12)
        assert sum(p.numel() for p in smaller.parameters()) < size


@pytest.mark.parametrize("kind", ["lstm", "rhn", "gru", "onlstm"])
@pytest.mark.parametrize("layers", [1, 2])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=3)
@torch.no_grad()
def test_tied_weights_lose_a_column_of_the_embedding_with_each_unit_of_the_top(kind, layers, seed):
    model = randomized(LanguageModel(11, 6, [6] * layers, KINDS[kind], tied=True), seed)
    for n, group in enumerate(model.units()):
        kill(group, ways_of(group.width, seed + n))
    words = torch.randint(11, (9, 3), generator=torch.Generator().manual_seed(seed))
    before = two_windows(model, words)
    if not removable(model.units(), dead_units(model.units()))[-1].any():
        return  # too few died in every chunk
    smaller = compacted(model)
    torch.testing.assert_close(two_windows(smaller, words), before, rtol=0, atol=1e-12)
    assert smaller.embedding.weight is smaller.head.weight
    assert smaller.embedding.weight.shape[1] == smaller.layers[-1].hidden_size == smaller.layers[0].input_size


@torch.no_grad()
def test_a_silent_unit_of_a_tied_network_stays_while_its_column_is_read_as_an_input():
    model = randomized(LanguageModel(11, 6, [6], "lstm", tied=True), 1)
    (group,) = model.units()
    own = model.layers[0].silence()
    for s in own:
        s.parameter.index_fill_(s.dim, s.indices(torch.tensor([2])), 0.0)
    assert not dead_units([group])[0].any()
    model.layers[0].weight_ih[:, 2] = 0
    assert dead_units([group])[0].tolist() == [False, False, True, False, False, False]


def pair(kind, inputs, ahead, back):
    """Both directions, of different widths."""
    if kind == "rhn":
        cells = RHNCell(inputs, ahead, depth=2), RHNCell(inputs, back, depth=2)
        return Bidirectional(Recurrent(cells[0]), Recurrent(cells[1], reverse=True))
    first, second = Elman(inputs, ahead), Elman(inputs, back)
    second.reverse = True
    return Bidirectional(first, second)


@pytest.mark.parametrize("kind", ["rhn", "elman"])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=3)
@torch.no_grad()
def test_both_directions_of_a_pair_lose_units_of_their_own(kind, seed):
    stack = randomized(Stack([pair(kind, 3, 5, 4), pair(kind, 9, 3, 6)]), seed)
    readout = randomized(nn.Linear(9, 2), seed + 1)
    groups = [*stack.units(), stack[-1].as_units("layer 1", (Slice(readout, "weight", 1),))]
    for n, group in enumerate(groups):
        kill(group, ways_of(group.width, seed + n))
    x = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(seed)).double()
    before = readout(stack(x)[0])
    if not any(found.any() for found in dead_units(groups)):
        return
    both = nn.ModuleList([stack, readout])
    assert [units.width for units in groups] == [9, 9]
    compact(both, units=groups)
    torch.testing.assert_close(readout(stack(x)[0]), before, rtol=0, atol=1e-12)


@torch.no_grad()
def test_two_directions_of_blocks_lose_equally_many_units_of_a_component():
    stack = randomized(Stack([BlockLSTM(4, 8, blocks=2, density=0.5, bidirectional=True), LSTM(16, 3)]), 0)
    (group,) = stack.units()
    group.zero(torch.tensor([0, 1, 5, 8]))  # components of 4: two and one ahead, one and none back
    x = torch.randn(5, 2, 4).double()
    before = stack(x)[0]
    done = compact(stack)
    assert done.widths == [("layer 0", 16, 14)]
    assert done.keep[0].tolist() == [k not in (0, 8) for k in range(16)]
    torch.testing.assert_close(stack(x)[0], before, rtol=0, atol=1e-12)


@torch.no_grad()
def test_other_models_lose_their_units_too():
    vectors = randomized(SequenceModel(3, 2, [6, 5], "gru"), 0)
    tagger = randomized(Tagger(10, 3, embedding_size=4, hidden_size=5, layers=2), 0)
    x, words = torch.randn(6, 2, 3).double(), torch.randint(10, (6, 2))
    before = vectors.read_out(vectors(x).raw), tagger(words)
    for model in (vectors, tagger):
        for group in model.units():
            group.zero(torch.tensor([0, group.width // 2]))
    before = vectors.read_out(vectors(x).raw), tagger(words)
    assert compact(vectors).widths == [("layer 0", 6, 4), ("layer 1", 5, 3)]
    assert compact(tagger).widths == [("layer 0", 10, 8), ("layer 1", 10, 8), ("hidden", 5, 3)]
    torch.testing.assert_close(vectors.read_out(vectors(x).raw), before[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(tagger(words), before[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("where", ["recurrent", "reader"])
@torch.no_grad()
def test_one_small_weight_keeps_a_unit(where):
    """Everything but one outgoing weight of 1e-3 is 0: the unit has a bias, so that it is read."""
    model = randomized(LanguageModel(11, 5, [7, 6]), 0)
    group = model.units()[0]
    kill(group, ["alive", "strict", *["alive"] * 5])
    assert dead_units([group])[0].tolist() == [False, True, *[False] * 5]
    weight = model.layers[0].weight_hh if where == "recurrent" else model.layers[1].weight_ih
    weight[3, 1] = 1e-3
    assert not dead_units(model.units())[0].any()
    with pytest.raises(InputError, match="no unit can be removed"):
        compact(model)


@torch.no_grad()
def test_removing_a_unit_leaves_the_one_below_it_unread_and_the_one_above_it_silent():
    model = randomized(LanguageModel(11, 5, [4, 4, 4]), 0)
    bottom, middle, top = model.units()
    kill(middle, ["alive", "unread", "alive", "silent"])
    model.layers[0].weight_hh[:, 2] = 0
    model.layers[1].weight_ih[:, 2] = 0
    model.layers[1].weight_ih[1::4, 2] = 0.3  # unit 2 below is read by unit 1 of the middle alone
    for s in model.layers[2].silence():
        s.parameter.index_fill_(s.dim, s.indices(torch.tensor([0])), 0.0)
    model.layers[2].weight_ih[2 * 4, 3] = 0.3  # unit 0 above is written to by the silent unit 3 alone
    found = dead_units([bottom, middle, top])
    assert [dead.nonzero().squeeze(1).tolist() for dead in found] == [[2], [1, 3], [0]]
    words = torch.randint(11, (9, 3))
    before = two_windows(model, words)
    assert compact(model).widths == [("layer 0", 4, 3), ("layer 1", 4, 2), ("layer 2", 4, 3)]
    torch.testing.assert_close(two_windows(model, words), before, rtol=0, atol=1e-12)


@torch.no_grad()
def test_criteria_differ_in_what_they_find():
    model = randomized(LanguageModel(11, 5, [5]), 0)
    kill(model.units()[0], ["alive", "strict", "unread", "silent", "alive"])
    found = {c: dead_units(model.units(), c)[0].nonzero().squeeze(1).tolist() for c in WAYS[1:]}
    assert found == {"strict": [1], "unread": [1, 2], "silent": [3]}
    assert dead_units(model.units())[0].nonzero().squeeze(1).tolist() == [1, 2, 3]
    with pytest.raises(
        InputError, match="criterion is 'weak'; it must be one of any, strict, unread, silent"
    ):
        dead_units(model.units(), "weak")


@torch.no_grad()
def test_a_layer_that_is_not_needed_keeps_its_strongest_unit():
    model = randomized(LanguageModel(11, 5, [4, 3]), 0)
    model.layers[1].weight_ih.zero_()
    model.layers[0].weight_hh.zero_()
    model.layers[0].weight_ih[2::4] *= 10
    words = torch.randint(11, (9, 3))
    before = two_windows(model, words)
    done = compact(model)
    assert done.keep[0].tolist() == [False, False, True, False]
    torch.testing.assert_close(two_windows(model, words), before, rtol=0, atol=1e-12)


@torch.no_grad()
def test_chunks_lose_equally_many_units_and_never_all():
    model = randomized(LanguageModel(11, 5, [8], {"name": "onlstm", "chunk_size": 4}), 0)
    model.units()[0].zero(torch.tensor([0, 1, 2, 5]))
    done = compact(model)
    assert done.keep[0].tolist() == [False, True, True, True, True, False, True, True]
    assert model.layers[0].cell.chunks == 2
    model = randomized(LanguageModel(11, 5, [4], {"name": "onlstm", "chunk_size": 2}), 0)
    model.head.weight.zero_()
    model.layers[0].cell.weight_hh.zero_()
    assert compact(model).keep[0].sum() == 2


@torch.no_grad()
def test_a_tolerance_must_be_allowed_and_counts_what_was_not_0():
    model = randomized(LanguageModel(11, 5, [5]), 0)
    for s in model.units()[0].slices:
        index = s.indices(torch.tensor([3]))
        s.parameter.index_copy_(s.dim, index, 1e-4 * s.parameter.index_select(s.dim, index))
    assert not dead_units(model.units())[0].any()
    with pytest.raises(InputError, match="say exact=False"):
        compact(model, tol=1e-2)
    with pytest.raises(InputError, match="tol is -1; it must be a finite number of at least 0"):
        compact(model, tol=-1)
    with pytest.raises(InputError, match=r"smallest norm is 0\.000"):
        compact(model)
    words = torch.randint(11, (9, 3))
    before = two_windows(model, words)
    done = compact(model, tol=1e-2, exact=False)
    assert (done.widths, done.weak) == ([("layer 0", 5, 4)], (1,))
    difference = (two_windows(model, words) - before).abs().max()
    assert 0 < difference < 1e-2


def test_units_that_cannot_be_told_apart_are_refused():
    model = LanguageModel(11, 5, [4], {"name": "elman", "map": "orthogonal"})
    with pytest.raises(InputError, match="cannot be told apart"):
        compact(model)
    with pytest.raises(InputError, match=r"neither a method units\(\) nor"):
        compact(nn.Linear(2, 2))


def test_masks_and_buffers_are_cut_like_their_weights():
    model = LanguageModel(11, 5, [6, 4])
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.units()[0].zero(torch.tensor([1, 2]))
    done = compact(model)
    new = {name: p.shape for name, p in model.named_parameters()}
    tree = done.apply({"masks": {n: p > 0 for n, p in old.items()}, "step": 3, "ever": {}})
    assert {name: mask.shape for name, mask in tree["masks"].items()} == new
    assert tree["step"] == 3
    rows = [k for k in range(24) if k % 6 not in (1, 2)]
    expected = (old["layers.0.weight_hh"] > 0)[rows][:, [0, 3, 4, 5]]
    assert torch.equal(tree["masks"]["layers.0.weight_hh"], expected)
    assert done.apply({"dead": torch.arange(10) < 3})["dead"].tolist() == [True] + [False] * 7
    assert done.apply({"layer 0": torch.arange(6)})["layer 0"].tolist() == [0, 3, 4, 5]
    other = {"layer 0": torch.ones(6, 2), "layers.0.weight_hh": torch.ones(6), "dead": torch.ones(9) > 0}
    assert all(torch.equal(value, other[name]) for name, value in done.apply(other).items())
    assert done.shrunk("layers.0.weight_hh", torch.tensor(7)) == 7


def sized(*args, **settings):
    """A model without memory: its sizes are all that is asked for."""
    with torch.device("meta"):
        return LanguageModel(*args, **settings)


@pytest.mark.parametrize(
    ("hidden", "millions"), [([1500, 1500], 66.02), ([373, 315], 21.83), ([381, 535], 25.20)]
)
def test_published_parameter_counts(hidden, millions):
    """Published with one bias vector in each layer, where this library has two."""
    model = sized(10_000, 1500, hidden)
    total = sum(p.numel() for p in model.parameters()) - 4 * sum(hidden)
    sizes = [1500, *hidden]
    layers = sum(4 * h * (i + h) + 4 * h for i, h in zip(sizes, hidden, strict=False))
    assert total == 10_000 * 1500 + layers + 10_000 * hidden[-1] + 10_000
    assert total / 1e6 == pytest.approx(millions, abs=0.01)


def test_published_reductions_of_multiply_adds():
    macs = [macs_per_token(sized(10_000, 1500, h)) for h in ([1500, 1500], [373, 315], [381, 535])]
    assert macs[0] == 51_000_000
    assert macs[0] / macs[1] == pytest.approx(7.49, abs=0.005)
    assert macs[0] / macs[2] == pytest.approx(5.01, abs=0.005)


@pytest.mark.parametrize(
    ("n", "millions"), [(830, 23.48), (726, 18.88), (517, 11.07), (403, 7.62), (328, 5.66)]
)
def test_published_parameter_counts_of_tied_highway_networks(n, millions):
    """Ten depths, h and t; this library has one more bias, of the input's product."""
    model = sized(10_000, n, [n], layer={"name": "rhn", "depth": 10}, tied=True)
    total = sum(p.numel() for p in model.parameters()) - 2 * n
    assert total == 22 * n**2 + 10_020 * n + 10_000
    assert total / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("hidden", [[373, 315], [381, 535]])
def test_layers_of_different_widths_are_saved_loaded_and_trained_on(hidden, tmp_path):
    words, targets = torch.randint(20, (2, 5, 2))

    def step(model, optimizer):
        optimizer.zero_grad()
        model.head.nll(model(words).raw, targets).mean().backward()
        optimizer.step()
        return optimizer.state_dict()

    model = LanguageModel(20, 8, hidden)
    optimizer = torch.optim.Adam(model.parameters())
    state = step(model, optimizer)
    save_checkpoint(tmp_path / "x.safetensors", {"model": weights(model), "optimizer": state}, packed=True)
    tree = load_checkpoint(tmp_path / "x.safetensors")
    other = LanguageModel(20, 8, hidden)
    load_weights(other, tree["model"], "x")
    again = torch.optim.Adam(other.parameters())
    again.load_state_dict(tree["optimizer"])
    step(model, optimizer)
    step(other, again)
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_groups_without_readers_are_never_unread():
    layer = GRU(3, 4)
    groups = [Units("alone", 4, layer.outputs()[:2])]
    assert not dead_units(groups, "unread")[0].any()
    assert not dead_units(groups, "silent")[0].any()
