"""Models of torch alone without their dead units: the dense model with its zeros is the oracle."""

import copy
import io
import itertools
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from sparsernn import sparsify
from sparsernn.core.errors import InputError
from sparsernn.deploy import compact, compacted, dead_units, macs_per_token
from sparsernn.deploy.shrink import units_of
from sparsernn.nn import UnevenRNN

CELLS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k),
}
WAYS = ("strict", "unread", "silent")


class Reader(nn.Module):
    """Vectors, a recurrent module of torch inside another module, and a read-out."""

    def __init__(self, cell, layers=2, width=6, **options):
        super().__init__()
        self.body = nn.ModuleDict({"rnn": CELLS[cell](3, width, layers, **options)})
        self.head = nn.Sequential(
            nn.Dropout(0.1), nn.Linear(width * (1 + options.get("bidirectional", 0)), 4)
        )

    def forward(self, x, state=None):
        y, state = self.body["rnn"](x, state)
        return self.head(y.data if isinstance(y, PackedSequence) else y), state


def randomized(model, seed):
    """All parameters random and no dropout: nothing is 0 by chance."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data.copy_(0.5 * torch.randn(p.shape, generator=generator))
    return model.double().eval()


@torch.no_grad()
def kill(group, seed, share=0.5):
    """Make a random half of the units dead, each in a way of its own, and at least one not; which are dead."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(group.width, generator=generator)
    draws[int(draws.argmax())] = 1.0
    ways = torch.randint(3, (group.width,), generator=generator)
    kinds = [[s for s in group.slices if s.in_norm], [s for s in group.slices if s.reading], group.silence]
    for number, slices in enumerate(kinds):
        units = ((draws < share) & (ways == number)).nonzero().squeeze(1)
        for s in slices:
            s.parameter.index_fill_(s.dim, s.indices(units), 0.0)
    return draws < share


def half_dead(model, seed):
    """Kill units in every layer and direction."""
    return [kill(group, seed + n) for n, group in enumerate(units_of(model))]


def carried(state):
    """h, and c where there is one, each with a tensor for every layer and direction."""
    if isinstance(state, torch.Tensor):
        return [list(state)]
    pair = not isinstance(state[0], torch.Tensor) or state[0].ndim == 3
    return [list(part) for part in (state if pair else (state,))]


def same(model, smaller, done, *inputs):
    """Windows read one after the other: equal outputs, and the same states of the units that stay."""
    before = after = None
    for x in inputs:
        y, before = model(x, before)
        other, after = smaller(x, after)
        torch.testing.assert_close(other, y, rtol=0, atol=1e-12)
        for whole, parts in zip(carried(before), carried(after), strict=True):
            for dense, part, keep in zip(whole, parts, done.keep, strict=True):
                torch.testing.assert_close(part, dense[..., keep], rtol=0, atol=1e-12)


FORMS = [
    {"bidirectional": both, "batch_first": first, "bias": bias}
    for both, first, bias in itertools.product([False, True], [False, True], [True, False])
]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("options", FORMS, ids=lambda o: "-".join(n for n, on in o.items() if on) or "plain")
@torch.no_grad()
def test_outputs_stay_the_same_in_every_form(cell, layers, options):
    model = randomized(Reader(cell, layers, **options), 0)
    assert all(dead.any() for dead in half_dead(model, 5))
    smaller = copy.deepcopy(model)
    done = compact(smaller)
    x = [torch.randn(4, 5, 3).double() for _ in range(2)]
    same(model, smaller, done, *x)
    lengths = (3, 1, 4, 4)
    packs = [pack_sequence([torch.randn(n, 3).double() for n in lengths], enforce_sorted=False) for _ in x]
    same(model, smaller, done, *packs)
    torch.testing.assert_close(smaller(x[0][0])[0], model(x[0][0])[0], rtol=0, atol=1e-12)
    widths = [after for _, _, after in done.widths]
    assert all(after < before for _, before, after in done.widths)
    rnn, linear = smaller.body["rnn"], smaller.head[1]
    ends = 2 if options["bidirectional"] else 1
    assert linear.in_features == linear.weight.shape[1] == sum(widths[-ends:])
    if len(set(widths)) == 1:
        assert type(rnn) is type(model.body["rnn"])
        assert rnn.hidden_size == widths[0]
    else:
        flat = [w for size in rnn.hidden_sizes for w in (size if options["bidirectional"] else [size])]
        assert (type(rnn), flat) == (UnevenRNN, widths)
    assert done.parameters == tuple(sum(p.numel() for p in m.parameters()) for m in (model, smaller))


@pytest.mark.parametrize("cell", CELLS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=4)
@torch.no_grad()
def test_every_criterion_is_exact_and_finds_what_was_killed(cell, seed):
    model = randomized(Reader(cell, bidirectional=bool(seed % 2)), seed)
    killed = half_dead(model, seed)
    for dead, found in zip(killed, dead_units(units_of(model)), strict=True):
        assert bool(found[dead].all())
    x = [torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(seed)).double() for _ in range(2)]
    for criterion in ("any", *WAYS):
        smaller = copy.deepcopy(model)
        try:
            done = compact(smaller, criterion)
        except InputError:
            continue
        same(model, smaller, done, *x)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
@torch.no_grad()
def test_a_silent_unit_is_0_whatever_its_other_weights_are(cell):
    """What is written is g, n, or h itself: with those rows and biases at 0 the unit starts and stays at 0."""
    model = randomized(Reader(cell, 1), 0)
    (group,) = units_of(model)
    for s in group.silence:
        s.parameter.index_fill_(s.dim, s.indices(torch.tensor([2])), 0.0)
    rnn = model.body["rnn"]
    y, _ = rnn(torch.randn(20, 3, 3).double())
    assert not y[..., 2].any()
    assert y[..., [0, 1, 3, 4, 5]].all()
    rnn.bias_hh_l0[2 if cell == "rnn_tanh" else 14] = (
        0.1  # row 2 of the block that is written, of 6 rows each
    )
    assert not dead_units([group])[0].any()
    assert rnn(torch.randn(20, 3, 3).double())[0][..., 2].all()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
@torch.no_grad()
def test_a_second_compaction_of_an_uneven_model(cell, bidirectional):
    model = randomized(Reader(cell, bidirectional=bidirectional, width=9), 3)
    half_dead(model, 6)  # 2, 5, 2 and 4 of 9
    first = compact(model)
    assert type(model.body["rnn"]) is UnevenRNN
    with pytest.raises(InputError, match="no unit can be removed"):
        compact(model)
    half_dead(model, 1)
    again = copy.deepcopy(model)
    done = compact(again)
    same(model, again, done, *[torch.randn(4, 5, 3).double() for _ in range(2)])
    assert [before for _, before, _ in done.widths] == [after for _, _, after in first.widths]
    assert again.head[1].in_features == again.body["rnn"].output_size


@torch.no_grad()
def test_equal_widths_stay_the_module_that_torch_has():
    model = randomized(Reader("gru", bidirectional=True), 0)
    held = model.body["rnn"]
    for k, group in enumerate(units_of(model)):
        group.zero(torch.tensor([k, 5]))
    x = torch.randn(4, 5, 3).double()
    wanted = model(x)[0]
    compact(model)
    assert model.body["rnn"] is held
    assert (type(held), held.hidden_size, held.input_size) == (nn.GRU, 4, 3)
    assert repr(held) == "GRU(3, 4, num_layers=2, bidirectional=True)"
    assert repr(model.head[1]) == "Linear(in_features=8, out_features=4, bias=True)"
    torch.testing.assert_close(model(x)[0], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_an_uneven_model_is_copied_saved_and_loaded(cell):
    model = randomized(Reader(cell, bidirectional=True, batch_first=True), 1)
    half_dead(model, 3)
    calls = []
    model.body["rnn"].register_forward_hook(lambda *_: calls.append(1))
    names = list(model.state_dict())
    compact(model)
    assert list(model.state_dict()) == names
    x = torch.randn(4, 5, 3).double()
    wanted = model(x)[0]
    assert calls == [1]
    rnn = model.body["rnn"]
    assert repr(rnn) == f"UnevenRNN('{cell}', 3, {list(rnn.hidden_sizes)}, batch_first=True)"
    rnn._forward_hooks.clear()  # a lambda cannot be pickled
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    fresh = copy.deepcopy(model)
    fresh.body["rnn"] = UnevenRNN(cell, 3, rnn.hidden_sizes, batch_first=True).double()
    fresh.load_state_dict(model.state_dict())
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False), fresh):
        assert torch.equal(other(x)[0], wanted)
        assert not set(vars(other.body["rnn"])) & {"hidden_size", "_flat_weights", "mode"}


def text(seed=2, size=11):
    return torch.randint(size, (12, 4), generator=torch.Generator().manual_seed(seed))


class Language(nn.Module):
    """Embedding, a stacked module of torch, a softmax."""

    def __init__(self, cell=nn.LSTM, width=12, tied=False, **options):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.rnn = nn.Embedding(11, 12), cell(12, width, 2, **options)
        self.head = nn.Linear(width, 11)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, words):
        return self.head(self.rnn(self.embedding(words))[0])


def train(model, optimizer, steps):
    words, losses = text(), []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(words[:-1]).flatten(0, 1), words[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("cell", "tied", "strength"),
    [(nn.LSTM, False, 0.015), (nn.GRU, True, 0.05)]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            (nn.GRU, False, 0.02),
            (nn.RNN, False, 0.03),
            (nn.LSTM, True, 0.05),
            (nn.RNN, True, 0.05),
        )
    ],
)
def test_two_lines_a_compaction_and_on(cell, tied, strength):
    """Group lasso until units die, the smaller model with the same outputs, and training that goes on."""
    model = Language(cell, tied=tied)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    penalty = sparsify(model, optimizer, method="iss", strength=strength, threshold=0.01)
    train(model, optimizer, 200)
    dead = [row["dead"] for row in penalty.summary()["units"]]
    assert sum(dead) > 0
    with torch.no_grad():
        wanted = copy.deepcopy(model).double()(text())
    before, macs = sum(p.numel() for p in model.parameters()), macs_per_token(model)
    done = compact(model)
    assert all(old - new >= gone for (_, old, new), gone in zip(done.widths, dead, strict=True))
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(model).double()(text()), wanted, rtol=0, atol=1e-12)
    assert sum(p.numel() for p in model.parameters()) == done.parameters[1] < before
    assert macs_per_token(model) < macs
    losses = train(model, torch.optim.Adam(model.parameters(), lr=0.01), 60)
    assert losses[-1] < losses[0]
    again = torch.optim.SGD(model.parameters(), lr=0.5)
    penalty = sparsify(model, again, method="iss", strength=0.02, threshold=0.01)
    train(model, again, 2)
    assert [row["width"] for row in penalty.summary()["units"]] == [new for _, _, new in done.widths]


def test_masks_are_cut_and_a_smaller_model_can_be_made_sparse():
    model = Language(nn.GRU)
    half_dead(model, 0)
    masks = {name: p != 0 for name, p in model.named_parameters()}
    done = compact(model)
    cut = done.apply(masks)
    assert {n: m.shape for n, m in cut.items()} == {n: p.shape for n, p in model.named_parameters()}
    assert type(model.rnn) is UnevenRNN
    sparsifier = sparsify(model, method="selfish", density=0.5)
    assert list(sparsifier.summary()["tensors"]["rnn.weight_hh_l1"]["gates"]) == ["r", "z", "n"]


@torch.no_grad()
def test_tied_weights_lose_a_feature_of_the_embedding():
    model = randomized(Language(tied=True), 0)
    top = units_of(model)[1]
    kinds = [s for s in top.slices if s.in_norm], [s for s in top.slices if s.reading], top.silence
    for k, slices in enumerate(kinds):
        for s in slices:
            s.parameter.index_fill_(s.dim, s.indices(torch.tensor([k])), 0.0)
    wanted = model(text())
    assert compact(model).widths == [("rnn layer 0", 12, 12), ("rnn layer 1", 12, 9)]
    torch.testing.assert_close(model(text()), wanted, rtol=0, atol=1e-12)
    assert model.head.weight is model.embedding.weight
    assert model.embedding.embedding_dim == model.rnn.input_size == model.head.in_features == 9


@torch.no_grad()
def test_a_silent_unit_of_a_tied_model_stays_while_its_column_is_read_as_an_input():
    model = randomized(Language(tied=True), 0)
    top = units_of(model)[1]
    for s in top.silence:
        if s.dim == 0:
            s.parameter.index_fill_(s.dim, s.indices(torch.tensor([2])), 0.0)
    assert not dead_units(units_of(model))[1].any()
    model.rnn.weight_ih_l0[:, 2] = 0
    assert dead_units(units_of(model))[1].nonzero().tolist() == [[2]]


@torch.no_grad()
def test_who_reads_a_tied_embedding_can_be_named():
    model = Language(tied=True)
    model.second = nn.Linear(12, 3)
    named = {"rnn": ["head", "second"]}
    found = units_of(model, named)[1]  # whoever reads the embedding is seen
    assert [x.module for x in found.slices if x.name == "weight_ih_l0"] == [model.rnn]
    named["embedding"] = ["rnn"]
    units_of(model, named)[1].zero(torch.tensor([3, 4]))
    randoms = randomized(model, 1)
    units_of(randoms, named)[1].zero(torch.tensor([3, 4]))
    y = randoms.second(randoms.rnn(randoms.embedding(text()))[0])
    wanted = randoms(text())
    compact(randoms, consumers=named)
    torch.testing.assert_close(randoms(text()), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        randoms.second(randoms.rnn(randoms.embedding(text()))[0]), y, rtol=0, atol=1e-12
    )


@torch.no_grad()
def test_a_module_that_is_the_whole_model_keeps_its_outputs():
    module = randomized(nn.LSTM(3, 5, num_layers=2, bidirectional=True), 0)
    for s in ("weight_hh_l1", "weight_hh_l1_reverse", "weight_hh_l0"):
        getattr(module, s)[:, 1] = 0  # unread by its own layer: but the outputs are read by somebody
    module.weight_ih_l1[:, 1] = module.weight_ih_l1_reverse[:, 1] = 0
    x = torch.randn(4, 2, 3).double()
    wanted = module(x)[0]
    done = compact(module)
    assert done.widths == [("layer 0", 5, 4), ("layer 0 reverse", 5, 5)]
    assert repr(module) == "UnevenRNN('lstm', 3, [(4, 5), (5, 5)])"
    torch.testing.assert_close(module(x)[0], wanted, rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="all units of this GRU are its outputs"):
        compact(nn.GRU(3, 4))


@torch.no_grad()
def test_without_readers_in_the_model_the_last_layer_stays():
    encoder = randomized(nn.Sequential(nn.Linear(2, 3), nn.GRU(3, 5, num_layers=2)), 0)
    encoder[1].weight_hh_l1[:, 2] = 0
    with pytest.raises(InputError, match="no unit can be removed"):
        compact(encoder)  # the model returns them
    with pytest.raises(InputError, match="no unit can be removed"):
        compact(encoder, consumers={"1": []})
    units_of(encoder, {"1": []})[0].zero(torch.tensor([0, 3]))
    x = torch.randn(4, 2, 2).double()
    wanted = encoder(x)[0]
    smaller = compacted(encoder, consumers={"1": []})
    assert smaller[1].hidden_sizes == (3, 5)
    assert encoder[1].hidden_size == 5
    torch.testing.assert_close(smaller(x)[0], wanted, rtol=0, atol=1e-12)


@torch.no_grad()
def test_modules_that_read_each_other():
    model = randomized(
        nn.ModuleDict(
            {"a": nn.GRU(3, 6, bidirectional=True), "b": nn.LSTM(12, 8, proj_size=5), "c": nn.Linear(5, 2)}
        ),
        0,
    )
    model["b2"] = randomized(nn.RNN(12, 7), 1)
    consumers = {"a": ["b", "b2"], "b2": []}
    with pytest.raises(InputError, match="proj_size=5"):
        compact(model, consumers=consumers)
    model["b"] = randomized(nn.LSTM(12, 5), 2)
    consumers["b"] = ["c"]
    for group in units_of(model, consumers):
        group.zero(torch.tensor([1]))
    x = torch.randn(4, 2, 3).double()

    def outputs():
        y = model["a"](x)[0]
        return model["c"](model["b"](y)[0]), model["b2"](y)[0]

    wanted = outputs()
    compact(model, consumers=consumers)
    torch.testing.assert_close(outputs(), wanted, rtol=0, atol=1e-12)
    assert (model["a"].hidden_size, model["b"].hidden_size, model["b"].input_size) == (5, 4, 10)
    assert (model["b2"].hidden_size, model["b2"].input_size) == (7, 10)


@torch.no_grad()
def test_the_final_state_of_an_uneven_module_is_read_as_torchs():
    """A classifier of the last hidden state: `h[-1]`, or both directions of the last layer."""
    rnn, head = nn.LSTM(3, 6, 2, bidirectional=True), nn.Linear(12, 2)
    model = randomized(nn.ModuleDict({"rnn": rnn, "head": head}), 0)
    named = {"rnn": ["head"]}
    for n, group in enumerate(units_of(model, named)):
        kill(group, 3 + n)
    x = torch.randn(4, 2, 3).double()

    def answer():
        _, (h, _) = model["rnn"](x)
        return model["head"](torch.cat([h[-2], h[-1]], 1))

    wanted = answer()
    compact(model, consumers=named)
    assert type(model["rnn"]) is UnevenRNN
    torch.testing.assert_close(answer(), wanted, rtol=0, atol=1e-12)


def test_what_cannot_be_taken_apart_is_refused():
    two = nn.ModuleDict({"a": nn.LSTM(3, 5), "b": nn.LSTM(3, 5), "head": nn.Linear(5, 2)})
    with pytest.raises(InputError, match="'head' reads both 'a' and 'b', so that none of their units"):
        compact(two, consumers={"a": ["head"], "b": ["head"]})
    model = Language()
    units_of(model)[1].zero(torch.tensor([0]))
    model.head = weight_norm(model.head)
    with pytest.raises(InputError, match=r"'weight' of a Parametrized\w+ is no parameter of the model"):
        compact(model)
    with pytest.raises(InputError, match=r"neither a method units\(\) nor an nn\.LSTM"):
        compact(nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"there is no module 'hed'\. Did you mean 'head'"):
        compact(Language(), consumers={"rnn": ["hed"]})


def test_the_example_of_the_page_makes_a_module_smaller():
    page = (Path(__file__).parents[2] / "docs" / "compaction.md").read_text(encoding="utf-8")
    section = page.split("## A model of your own")[1].split("\n## ")[0]
    names = {"__name__": "example"}
    for block in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL):
        exec(compile(block, "compaction.md", "exec"), names)
    before, after = names["done"].parameters
    assert after < 0.9 * before
    assert names["loss"] < 0.1
    assert type(names["model"].rnn) is UnevenRNN
    assert "UnevenRNN(" in section
