"""Group lasso over units: sizes, gradients, thresholds, the proximal map, frozen units, foreign models."""

import math

import pytest
import torch
from torch import nn

from sparsernn import sparsify
from sparsernn.core.errors import InputError
from sparsernn.models import LanguageModel
from sparsernn.models.tagger import Tagger
from sparsernn.nn import LSTM, ONLSTM, RHN, Bidirectional, Recurrent, Stack
from sparsernn.nn.cells.gru import GRU
from sparsernn.nn.cells.rhn import RHNCell
from sparsernn.sparsity import Groups, LassoSettings, group_lasso, units_of
from sparsernn.sparsity.penalties.group_lasso import GroupLasso
from sparsernn.structure.units import Slice, Units


def language(layer="lstm", hidden=(6, 6), tied=False, embedding=6, vocabulary=11):
    torch.manual_seed(0)
    return LanguageModel(vocabulary, embedding, list(hidden), layer, tied=tied)


class BothWays(nn.Module):
    """A bidirectional layer and its reader."""

    def __init__(self):
        super().__init__()
        back = Recurrent(RHNCell(3, 4, depth=2), reverse=True)
        self.both, self.head = Bidirectional(RHN(3, 5, depth=2), back), nn.Linear(9, 2)

    def units(self):
        return [self.both.as_units("both", (Slice(self.head, "weight", 1),))]


MODELS = {
    "lstm": lambda: language(),
    "lstm, tied": lambda: language(tied=True),
    "gru": lambda: language("gru", (5, 7)),
    "elman": lambda: language("elman"),
    "onlstm": lambda: language({"name": "onlstm", "chunk_size": 2}),
    "rhn, tied": lambda: language({"name": "rhn", "depth": 3}, (6,), tied=True),
    "rhn, untied": lambda: language({"name": "rhn", "depth": 3, "coupled": False}, (6,)),
    "rhn, stacked": lambda: language({"name": "rhn", "depth": 2}, (6, 5)),
    "both ways": BothWays,
    "tagger": lambda: Tagger(9, 3, embedding_size=4, hidden_size=5, layers=2),
    "torch": lambda: Foreign(bidirectional=True),
}


def naive_squares(units, twice=True):
    """Sum of squares of each unit, one unit and slice at a time."""
    if not twice:
        return torch.cat([group.squares() for group in units])
    found = []
    for group in units:
        for k in range(group.width):
            parts = [
                s.parameter.index_select(s.dim, s.indices(torch.tensor([k]))).square().sum()
                for s in group.slices
                if s.in_norm
            ]
            found.append(torch.stack(parts).sum())
    return torch.stack(found)


@pytest.mark.parametrize("twice", [True, False])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_in_closed_form_is_that_of_autograd(name, precision, twice):
    model = MODELS[name]().to(precision)
    units = units_of(model)
    squares = naive_squares(units, twice)
    value = 0.3 * (squares + 1e-8).sqrt().sum()
    owned = {id(s.parameter): s.parameter for group in units for s in group.slices if s.in_norm}
    wanted = torch.autograd.grad(value, list(owned.values()))
    penalty = group_lasso(model, strength=0.3, count_diagonal_twice=twice)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    penalty.after_backward()
    torch.testing.assert_close(penalty.groups.squares(), squares.detach())
    assert penalty.value() == pytest.approx(value.item(), rel=1e-5)
    for parameter, gradient in zip(owned.values(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad - 0.5, gradient, rtol=1e-4, atol=1e-6)
    for name, parameter in model.named_parameters():
        if id(parameter) not in owned:
            assert bool((parameter.grad == 0.5).all()), name


def test_a_parameter_without_a_gradient_gets_the_penaltys():
    model = language()
    group_lasso(model, strength=1.0).after_backward()
    assert model.layers[0].weight_hh.grad.abs().sum() > 0
    assert model.layers[0].bias_ih.grad is None


def test_sizes_of_the_published_groups():
    """Spec: 24000 and 28000 for the two layers 1500 wide, the weights between a unit and itself twice."""
    with torch.device("meta"):
        model = LanguageModel(10_000, 1500, [1500, 1500])
    assert sizes(model) == [24_000, 28_000]
    assert sizes(model, twice=False) == [24_000 - 4, 28_000 - 4]


@pytest.mark.parametrize(("width", "size"), [(830, 46_520), (1000, 54_000)])
def test_sizes_of_the_published_highway_groups(width, size):
    with torch.device("meta"):
        model = LanguageModel(10_000, width, [width], {"name": "rhn", "depth": 10}, tied=True)
    (units,) = units_of(model)
    # as many slices as the published file, where h and t have a matrix each
    assert sum(len(s.starts) if s.dim == 0 else 1 for s in units.slices if s.in_norm) == 22 + 10 + 1 + 1
    assert sizes(model) == [size]


def sizes(model, twice=True):
    """Of each layer; all its groups count the same. Counting needs shapes alone."""
    found = []
    for group in units_of(model):
        counts = set()
        for k in (0, group.width - 1):
            total = sum(
                len(s.indices(torch.tensor([k]))) * s.parameter.numel() // s.parameter.shape[s.dim]
                for s in group.slices
                if s.in_norm
            )
            counts.add(total if twice else total - 4)
        (count,) = counts
        found.append(count)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_sizes_count_what_the_norms_sum(name):
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    for twice in (True, False):
        groups = Groups(units_of(model), twice=twice)
        assert groups.sizes().tolist() == groups.squares().long().tolist()
    assert groups.sizes().tolist() == naive_squares(units_of(model), twice=False).long().tolist()


def test_a_bigger_group_is_penalised_by_the_root_of_its_size():
    """The published scaled file: factors 1.5, 1 and 2 for groups in those ratios, inside the root."""
    layers = [nn.Linear(n, 1, bias=False) for n in (100, 400)]
    units = [Units(str(n), 1, (Slice(layer, "weight", 0),)) for n, layer in enumerate(layers)]
    penalty = GroupLasso(units, LassoSettings(0.5, scale_by_size=True), nn.ModuleList(layers))
    assert penalty.strengths.tolist() == pytest.approx([0.5 * math.sqrt(0.4), 0.5 * math.sqrt(1.6)])


@pytest.mark.parametrize(("size", "steps"), [(24_000, 1459), (28_000, 1578)])
def test_steps_to_zero_without_data(size, steps):
    """Spec, worked there: from uniform(-0.04, 0.04), learning rate 1, strength 0.00245, threshold 1e-4."""
    torch.manual_seed(0)
    unit = nn.Linear(size, 1, bias=False)
    nn.init.uniform_(unit.weight, -0.04, 0.04)
    units = [Units("unit", 1, (Slice(unit, "weight", 0),))]
    penalty = GroupLasso(units, LassoSettings(0.00245), unit)
    optimizer = torch.optim.SGD(unit.parameters(), lr=1.0)
    taken = 0
    while bool(unit.weight.any()):
        optimizer.zero_grad()
        penalty.after_backward()
        optimizer.step()
        penalty.after_step()
        taken += 1
        assert taken < 2 * steps
    assert taken == pytest.approx(steps, rel=0.01)


def test_without_the_threshold_it_never_arrives():
    """It swings between two points whose norms add up to lr * strength, all weights different from 0."""
    torch.manual_seed(0)
    unit = nn.Linear(2400, 1, bias=False)
    units = [Units("unit", 1, (Slice(unit, "weight", 0),))]
    penalty = GroupLasso(units, LassoSettings(0.0245, threshold=0.0), unit)
    optimizer = torch.optim.SGD(unit.parameters(), lr=1.0)
    norms = []
    for _ in range(400):
        optimizer.zero_grad()
        penalty.after_backward()
        optimizer.step()
        penalty.after_step()
        norms.append(unit.weight.norm().item())
    assert bool(unit.weight.all())
    assert norms[-1] + norms[-2] == pytest.approx(0.0245, rel=0.01)


def test_the_threshold_leaves_biases_and_the_embedding_alone_unless_asked():
    model = language()
    small = 5e-5
    for parameter in model.parameters():
        parameter.data.fill_(small)
    group_lasso(model, strength=0.1).after_step()
    zero = {name for name, p in model.named_parameters() if not bool(p.any())}
    assert zero == {
        *(f"layers.{k}.weight_{kind}" for k in (0, 1) for kind in ("ih", "hh")),
        "head.weight",
    }
    group_lasso(model, strength=0.1, threshold_all=True).after_step()
    assert not any(bool(p.any()) for p in model.parameters())


def test_a_weight_as_large_as_the_threshold_stays():
    model = language()
    model.head.weight.data.fill_(0.25)
    group_lasso(model, strength=0.1, threshold=0.25).after_step()
    assert bool(model.head.weight.all())
    group_lasso(model, strength=0.1, threshold=0.2500001).after_step()
    assert not bool(model.head.weight.any())


def test_per_sequence_on_a_summed_loss_is_per_token_on_a_mean():
    """The published loss is summed over the window: lr * T, strength / T and clip / T go the same way."""
    window, ends = 7, []
    for summed in (True, False):
        model = language().double()
        scale = window if summed else 1
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * window / scale)
        strength = 0.02 if summed else 0.02 / window
        penalty = group_lasso(model, strength=strength)
        words = torch.randint(11, (window + 1, 2), generator=torch.Generator().manual_seed(1))
        for _ in range(3):
            loss = model.head.nll(model(words[:-1]).dropped, words[1:]).mean() * scale
            optimizer.zero_grad()
            loss.backward()
            penalty.after_backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.05 * scale)
            optimizer.step()
            penalty.after_step()
        ends.append(model.layers[0].weight_hh.detach())
    torch.testing.assert_close(ends[0], ends[1])
    model = language()
    as_published = group_lasso(model, strength=0.02, lambda_scale="per_sequence", window=window)
    assert as_published.settings.strength == 0.02 / window


@pytest.mark.parametrize(
    "layer", ["lstm", "gru", {"name": "rhn", "depth": 2}, {"name": "onlstm", "chunk_size": 2}]
)
def test_the_proximal_map(layer):
    """Closed form on rows and biases; the unit that reaches 0 is 0 at all times, whatever reads it."""
    model = language(layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    penalty = group_lasso(model, optimizer, strength=0.2, mode="prox")
    units = units_of(model)[0]
    own = [s for s in units.slices if s.dim == 0]
    assert {s.name.split("_")[0] for s in own} == {"weight", "bias"}
    units_of(model)[0].zero(torch.tensor([4]))
    for s in own:  # unit 4 has a norm below lr * strength = 0.1
        s.parameter.data.index_fill_(0, s.indices(torch.tensor([4]))[:1], 0.01)
    before = [s.parameter.detach().clone() for s in own]
    rows = [s.indices(torch.arange(6)) for s in own]
    parts = [b[r].view(len(s.starts), 6, -1) for b, r, s in zip(before, rows, own, strict=True)]
    norms = sum(part.square().sum((0, 2)) for part in parts).sqrt()
    penalty.after_backward()
    assert all(p.grad is None for p in model.parameters())
    penalty.after_step()
    penalty.finalize()  # shrinks no further
    factors = (1 - 0.1 / norms).clamp(min=0)
    for s, r, part in zip(own, rows, parts, strict=True):
        new = (part * factors.view(1, 6, 1)).view(s.parameter[r].shape)
        torch.testing.assert_close(s.parameter.detach()[r], new)
    assert factors[4] == 0
    assert factors[:4].min() > 0
    words = torch.randint(11, (9, 3))
    for reader in units.slices:
        if all(reader.parameter is not s.parameter for s in own):
            reader.parameter.data.normal_()
    y, _ = model.layers[0](model.embedding(words))
    assert not bool(y[..., 4].any())
    assert bool(y[..., 3].all())


def test_a_frozen_unit_stays_dead_with_momentum_and_biases():
    ends = {}
    for freeze in (True, False):
        model = language()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
        penalty = group_lasso(model, optimizer, strength=1e-4, threshold=1e-9, freeze_dead=freeze)
        units = units_of(model)[0]
        words = torch.randint(11, (9, 3), generator=torch.Generator().manual_seed(1))
        for number in range(6):
            if number == 2:  # dies with momentum and biases
                for s in units.slices:
                    if s.in_norm:
                        s.parameter.data.index_fill_(s.dim, s.indices(torch.tensor([3])), 0.0)
            model.head.nll(model(words[:-1]).dropped, words[1:]).mean().backward()
            penalty.after_backward()
            optimizer.step()
            optimizer.zero_grad()
            penalty.after_step()
        ends[freeze] = units.norms()[3].item(), model.layers[0].bias_ih[3].item(), penalty.dead.sum().item()
    assert ends[True] == (0.0, 0.0, 1)
    assert ends[False][0] > 0


def test_the_dead_are_part_of_the_state():
    model = language()
    penalty = group_lasso(model, strength=0.1, freeze_dead=True)
    units_of(model)[1].zero(torch.tensor([2, 5]))
    penalty.after_backward()
    fresh = group_lasso(language(), strength=0.1, freeze_dead=True)
    fresh.load_state_dict(penalty.state_dict())
    assert fresh.dead.nonzero().flatten().tolist() == [8, 11]
    with pytest.raises(InputError, match=r"\(12,\) there and \(5,\) here"):
        group_lasso(language(hidden=(5,)), strength=0.1, freeze_dead=True).load_state_dict(
            penalty.state_dict()
        )


def test_the_epochs_event_and_the_summary():
    model = language()
    units_of(model)[0].zero(torch.tensor([1]))
    penalty = group_lasso(model, strength=0.1)
    event, _ = penalty.end_epoch()
    assert event["event"] == "units"
    rows = event["layers"]
    assert [(row["name"], row["width"], row["dead"]) for row in rows] == [
        ("layer 0", 6, 1),
        ("layer 1", 6, 0),
    ]
    assert rows[0]["norms"][1] == 0
    expected = naive_squares(units_of(model)).sqrt().tolist()
    assert rows[0]["norms"] + rows[1]["norms"] == [round(x, 4) for x in expected]
    summary = penalty.summary()
    assert summary["units"] == [{k: row[k] for k in ("name", "width", "dead")} for row in rows]
    assert summary["tensors"]["layers.0.weight_hh"]["active"] == 20 * 5
    assert summary["parameters_active"] == sum(
        int((p != 0).sum()) for p in model.parameters() if p.ndim > 1
    ) + sum(p.numel() for p in model.parameters() if p.ndim == 1)


# --- models of torch alone


class Foreign(nn.Module):
    """Embedding, a stacked LSTM and a softmax, all torch's own."""

    def __init__(self, cell=nn.LSTM, **options):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.rnn = nn.Embedding(11, 4), cell(4, 5, 2, **options)
        self.head = nn.Linear(5 * (2 if options.get("bidirectional") else 1), 11)

    def forward(self, words):
        return self.head(self.rnn(self.embedding(words))[0])


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"bias": False}], ids=str)
def test_a_unit_of_torchs_modules_can_be_zeroed_without_a_trace(cell, options):
    """Zeroing all slices of a unit is removing it: no output depends on the values it would have had."""
    model = Foreign(cell, **options).double()
    for units in units_of(model):
        units.zero(torch.tensor([3]))
    words = torch.randint(11, (6, 2))
    wanted = model(words)
    for units in units_of(model):
        for s in units.slices:  # the unit comes back to life, but nobody reads it
            if s.dim == 0 and "hh" not in s.name:
                s.parameter.data.index_fill_(0, s.indices(torch.tensor([3])), 0.7)
    assert torch.equal(model(words), wanted)
    names = [units.name for units in units_of(model)]
    ends = ["", " reverse"] if options.get("bidirectional") else [""]
    assert names == [f"rnn layer {k}{end}" for k in (0, 1) for end in ends]


def test_two_lines_kill_units_of_a_foreign_model():
    model = Foreign()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    penalty = sparsify(model, optimizer, method="iss", strength=0.02, threshold=0.01)
    words = torch.randint(11, (12, 4), generator=torch.Generator().manual_seed(2))
    for _ in range(150):
        loss = nn.functional.cross_entropy(model(words[:-1]).flatten(0, 1), words[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    dead = [row["dead"] for row in penalty.summary()["units"]]
    assert sum(dead) > 0
    groups = naive_squares(units_of(model)) == 0
    assert int(groups.sum()) == sum(dead)


@pytest.mark.parametrize("clips", [False, True])
def test_the_gradient_is_added_once_whoever_asks(clips):
    model = Foreign()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    penalty = sparsify(model, optimizer, method="iss", strength=0.02, threshold=0.0)
    before = model.rnn.weight_hh_l0.detach().clone()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    if clips:
        penalty.after_backward()
    optimizer.step()
    moved = before - model.rnn.weight_hh_l0.detach()
    norms = naive_squares(units_of(Foreign())).sqrt()[:5]
    wanted = before * (0.02 / norms).repeat(4).unsqueeze(1) + before * (0.02 / norms)
    torch.testing.assert_close(moved, wanted.detach(), rtol=1e-4, atol=1e-6)


class Attentive(Foreign):
    """The outputs attend to each other before the softmax reads them."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(5, 1)

    def forward(self, words):
        h = self.rnn(self.embedding(words))[0]
        return self.head(self.attention(h, h, h)[0])


def test_readers_are_seen_by_what_they_do_and_not_by_their_width():
    model = Foreign()
    model.other = nn.Linear(5, 2)
    units = units_of(model)[1]
    assert [s.module for s in units.slices if s.module is not model.rnn] == [model.head]
    named = units_of(model, {"rnn": ["head", "other"]})[1]
    assert [s.parameter.shape[0] for s in named.slices if s.module is not model.rnn] == [11, 2]
    alone = units_of(model, {"rnn": []})[1]
    assert {s.module for s in alone.slices} == {model.rnn}


def test_readers_are_named_where_they_cannot_be_told():
    """The head has the width, and so has the attention's own output projection: neither reads the units."""
    model, words = Attentive(), torch.randint(11, (6, 2))
    with pytest.raises(InputError, match=r"who reads the 5 outputs of 'rnn'.*'attention'.*consumers="):
        sparsify(model, method="iss", strength=0.1)
    with pytest.raises(InputError, match=r"who reads the 5 outputs of 'rnn'.*something else than a module"):
        sparsify(model, method="iss", strength=0.1, example=words)
    assert sparsify(model, method="iss", strength=0.1, consumers={"rnn": ["head"]})


def test_readers_are_seen_at_work_where_the_forward_pass_cannot_be_followed():
    class Choosy(Foreign):
        def forward(self, words):
            h = self.rnn(self.embedding(words))[0]
            return self.head(h) if bool(h.sum() > 1e9) else self.head(h.sigmoid())

    model, words = Choosy(), torch.randint(11, (6, 2))
    with pytest.raises(InputError, match="cannot be traced"):
        sparsify(model, method="iss", strength=0.1)
    penalty = sparsify(model, method="iss", strength=0.1, example=words)
    assert penalty.groups.sizes().tolist() == group_lasso(Foreign(), strength=0.1).groups.sizes().tolist()


@pytest.mark.parametrize(
    ("consumers", "message"),
    [
        ({"rn": ["head"]}, "'rn' is no recurrent module; those are rnn"),
        ({"rnn": ["haed"]}, "there is no module 'haed'. Did you mean 'head'"),
        ({"rnn": "head"}, "must be a list"),
        ({"rnn": ["embedding"]}, r"'embedding' \(Embedding\) cannot read 5 outputs"),
    ],
)
def test_names_that_match_nothing_are_errors(consumers, message):
    with pytest.raises(InputError, match=message):
        units_of(Foreign(), consumers)


def test_what_cannot_be_grouped_is_refused():
    with pytest.raises(InputError, match=r"neither a method units\(\) nor"):
        sparsify(nn.Linear(3, 4), method="iss", strength=0.1)
    with pytest.raises(InputError, match="proj_size=3"):
        units_of(nn.ModuleDict({"rnn": nn.LSTM(4, 5, proj_size=3), "head": nn.Linear(3, 2)}))
    with pytest.raises(InputError, match="says itself who reads"):
        units_of(language(), {"layers": ["head"]})
    with pytest.raises(InputError, match="no unit owns a weight"):
        group_lasso(language().requires_grad_(False), strength=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -1.0}, "strength is -1.0"),
        ({"strength": float("nan")}, "must be a finite number"),
        ({"strength": 0.1, "mode": "proximal"}, "mode is 'proximal'; it must be subgradient or prox"),
        ({"strength": 0.1, "mode": "prox"}, "needs the optimizer"),
        ({"strength": 0.1, "threshold": -0.1}, "threshold is -0.1"),
        ({"strength": 0.1, "lambda_scale": "sum"}, "lambda_scale is 'sum'"),
        ({"strength": 0.1, "lambda_scale": "per_sequence"}, "the window is not known"),
        ({"strength": 0.1, "lambda_scale": "per_sequence", "window": 0}, "window is 0"),
        ({}, "needs a value for 'strength'"),
        ({"strength": 0.1, "threshhold": 1.0}, "Did you mean 'threshold'"),
        ({"strength": True}, "must be a finite number"),
    ],
)
def test_impossible_settings_are_answered(settings, message):
    with pytest.raises(InputError, match=message):
        sparsify(Foreign(), method="iss", **settings)


def test_an_unknown_method_names_the_penalties():
    with pytest.raises(InputError, match="iss, l1, "):
        sparsify(Foreign(), method="is")


def test_units_of_a_mixed_stack():
    """Layers of two kinds in a row, where the model is a plain stack with a reader."""
    stack = Stack([LSTM(3, 5), GRU(5, 4), ONLSTM(4, 6, chunk_size=2)])
    first, second = stack.units()
    groups = Groups([first, second])
    assert groups.sizes().tolist() == [4 * (3 + 5) + 20 + 12] * 5 + [3 * (5 + 4) + 12 + 2 * 3 + 24] * 4
