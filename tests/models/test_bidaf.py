"""BiDAF: sizes, layers against plain twins, padding, groups of units and what is left without them."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from sparsernn.core.errors import InputError
from sparsernn.models import BiDAF
from sparsernn.models.bidaf import READERS, Text
from sparsernn.models.spans import best_spans
from sparsernn.nn.drive.bilstm import BothEnds, turning
from sparsernn.nn.dropout import drop_quickly
from sparsernn.nn.words.attention_flow import AttentionFlow
from sparsernn.nn.words.characters import CharacterCNN, Highway
from sparsernn.nn.words.word_table import WordTable
from sparsernn.structure.units import remove

DROPOUT = {"character": 0.2, "lstm": 0.2, "output": 0.2}


def tiny(hidden_size=3, **changes):
    torch.manual_seed(0)
    cnn = {"embedding_size": 2, "filters": 4, "width": 3}
    return BiDAF(12, 9, word_size=5, hidden_size=hidden_size, character_cnn=cnn, **changes)


def text(*lengths, seed=0, steps=None):
    steps = steps or max(lengths)
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, 12, (steps, len(lengths)), generator=generator)
    return Text(words, torch.randint(0, 9, (*words.shape, 6), generator=generator), torch.tensor(lengths))


# --- sizes


@pytest.fixture(scope="module")
def published():
    return BiDAF(2, 2)


def test_parameters_of_the_published_size(published):
    tables = {"words.weight", "characters.embedding"}
    trained = {name: p for name, p in published.named_parameters() if p.requires_grad and name not in tables}
    assert sum(p.numel() for p in trained.values()) == 2_570_703
    parts: dict[str, int] = {}
    for name, p in trained.items():
        part = name.partition(".")[0]
        parts[part] = parts.get(part, 0) + p.numel()
    assert parts == {
        "characters": 4_100,
        "highway": 160_800,
        "phrase": 240_800,
        "attention": 601,
        "first": 720_800,
        "second": 240_800,
        "start_score": 1_001,
        "end": 1_200_800,
        "end_score": 1_001,
    }


# widths of first, second, end, ahead and back; millions of weights, with and without what reads the dead of `second`
# through the summary: the published counts are the larger ones
PUBLISHED = [
    ((100, 100, 100, 100, 100, 100), 2.69, 2.69),
    ((100, 95, 78, 82, 71, 52), 2.08, 2.06),
    ((84, 90, 38, 46, 34, 21), 1.48, 1.45),
    ((54, 47, 22, 30, 18, 12), 1.03, 1.01),
    ((52, 50, 19, 26, 15, 12), 1.01, 1.00),
    ((87, 81, 87, 92, 74, 96), 2.29, 2.27),
    ((51, 33, 42, 58, 37, 26), 1.17, 1.15),
    ((20, 33, 40, 38, 31, 16), 0.95, 0.93),
    ((23, 22, 35, 35, 25, 14), 0.88, 0.86),
]
TABLES = 0.1163e6
"""Vectors of words and characters, which depend on the data."""


@pytest.mark.parametrize(("widths", "published", "pruned"), PUBLISHED)
def test_weights_of_the_published_networks(widths, published, pruned):
    """They count 200 columns of the `end` LSTMs for the summary, however few units of `second` are left."""
    pairs = [list(widths[k : k + 2]) for k in (0, 2, 4)]
    sizes = dict(zip(READERS, ([100, 100], *pairs), strict=True))
    with torch.device("meta"):
        model = BiDAF(2, 2, hidden_size=sizes)
    own = sum(p.numel() for p in model.parameters() if p.requires_grad) + TABLES
    kept = 4 * sum(sizes["end"]) * (200 - sum(sizes["second"]))
    assert (own / 1e6, (own + kept) / 1e6) == pytest.approx((pruned, published), abs=0.005)


@pytest.mark.parametrize(
    ("groups", "sizes"),
    [
        ("published", [4800, 4800, 3201, 3201, 6401, 6401]),
        ("six", [4800, 4800, 4001, 4001, 6401, 6401]),
    ],
)
def test_weights_of_a_group(published, groups, sizes):
    """As the published groups count them: a weight between a unit and itself twice."""
    published.groups = groups
    found = [
        sum(len(s.starts) * s.parameter.numel() // s.parameter.shape[s.dim] for s in u.slices if s.in_norm)
        for u in published.units()
    ]
    assert found == sizes
    assert [u.name for u in published.units()][::2] == ["first ahead", "second ahead", "end ahead"]


def test_initial_weights(published):
    lstm = published.end.back
    assert lstm.weight_ih.abs().max().item() == pytest.approx((6 / (1400 + 100 + 400)) ** 0.5, rel=1e-3)
    assert lstm.weight_hh.abs().max() <= (6 / (1400 + 100 + 400)) ** 0.5
    assert (lstm.bias_ih == 0).all()
    assert lstm.bias_hh.view(4, 100).mean(1).tolist() == [0, 1, 0, 0]
    assert not lstm.bias_hh.requires_grad
    assert all((layer.bias == 0).all() for layer in published.highway.gates)
    assert published.attention.score.weight.abs().max() <= (6 / 601) ** 0.5


# --- layers against plain twins


def test_lstms_from_both_ends_are_torchs_on_packed_sequences():
    torch.manual_seed(0)
    layer, twin = BothEnds(3, 4, 4), nn.LSTM(3, 4, bidirectional=True)
    with torch.no_grad():
        for own, end in ((layer.ahead, ""), (layer.back, "_reverse")):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(twin, f"{name}_l0{end}").copy_(getattr(own, name))
    x, lengths = torch.randn(6, 3, 3), torch.tensor([6, 2, 4])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(twin(packed)[0])
    inside = (torch.arange(6).unsqueeze(1) < lengths).unsqueeze(-1)
    found = layer(x, turning(lengths, 6))
    torch.testing.assert_close(found * inside, expected)
    (found * inside).square().sum().backward()
    ours = layer.back.weight_ih.grad
    expected.square().sum().backward()
    torch.testing.assert_close(ours, twin.weight_ih_l0_reverse.grad)


def test_attention_is_the_sum_that_the_paper_writes():
    torch.manual_seed(0)
    flow = AttentionFlow(4)
    h, u = torch.randn(5, 1, 4), torch.randn(3, 1, 4)
    everything = torch.ones(1, 5, dtype=torch.bool)
    p = flow(h, u, everything, everything[:, :3])[:, 0]
    s = torch.tensor([[flow.score(torch.cat([a[0], b[0], a[0] * b[0]])) for b in u] for a in h])
    for t in range(5):
        found = sum(w * b[0] for w, b in zip(s[t].softmax(0), u, strict=True))
        summary = sum(w * a[0] for w, a in zip(s.amax(1).softmax(0), h, strict=True))
        expected = torch.cat([h[t, 0], found, h[t, 0] * found, h[t, 0] * summary])
        torch.testing.assert_close(p[t], expected)


def test_the_character_cnn_is_a_convolution():
    torch.manual_seed(0)
    cnn = CharacterCNN(9, embedding_size=2, filters=4, width=3)
    spelt = torch.randint(0, 9, (7, 6))
    kernel = cnn.weight.view(4, 3, 2).transpose(1, 2)
    vectors = cnn.embedding[spelt].transpose(1, 2)
    expected = functional.conv1d(vectors, kernel, cnn.bias).relu().amax(2)
    torch.testing.assert_close(cnn(spelt), expected)


def test_a_closed_highway_passes_on_what_it_gets():
    highway, x = Highway(3), torch.randn(4, 3)
    for gate in highway.gates:
        nn.init.constant_(gate.bias, -100.0)
    torch.testing.assert_close(highway(x), x)


def test_given_words_follow_the_trained_ones_and_learn_nothing():
    table = WordTable(2, 3, fixed=2)
    table.fixed.copy_(torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    found = table(torch.tensor([[1, 3], [2, 0]]))
    torch.testing.assert_close(found, torch.cat([table.weight, table.fixed])[torch.tensor([[1, 3], [2, 0]])])
    found.sum().backward()
    assert table.weight.grad.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_quick_dropout_keeps_the_mean_and_draws_from_torchs_generator():
    x = torch.full((200, 500), 2.0)
    torch.manual_seed(3)
    y = drop_quickly(x, 0.2, training=True)
    assert y.mean().item() == pytest.approx(2.0, abs=0.02)
    assert (y == 0).float().mean().item() == pytest.approx(0.2, abs=0.005)
    torch.manual_seed(3)
    assert torch.equal(y, drop_quickly(x, 0.2, training=True))
    assert drop_quickly(x, 0.2, training=False) is x


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 7), st.integers(0, 1000))
def test_the_best_span_is_the_best_of_all(steps, seed):
    generator = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, 1, steps, generator=generator, dtype=torch.float64).unbind(0)
    p, q = start.softmax(1)[0], end.softmax(1)[0]
    best = max((float(p[i] * q[j]), i, j) for i in range(steps) for j in range(i, steps))
    found = best_spans(start, end)
    assert (found.first.item(), found.last.item()) == best[1:]
    assert found.probability.item() == pytest.approx(best[0])


# --- padding


def test_what_stands_beyond_the_end_changes_nothing():
    model = tiny().double()
    short, asked = text(4), text(3, seed=1)
    alone = model(short, asked)
    batch, questions = text(4, 7, seed=2), text(3, 5, seed=3)
    for padded, own in ((batch, short), (questions, asked)):
        for tensor, values in zip(padded[:2], own[:2], strict=True):
            tensor[: len(values), :1] = values
    together = model(batch, questions)
    for one, many in zip(alone, together, strict=True):
        torch.testing.assert_close(many[:1, :4], one, rtol=0, atol=1e-12)
        assert (many[0, 4:].softmax(0).isfinite()).all()
        assert many[0].softmax(0)[4:].abs().max() == 0


def test_padding_gets_no_gradient():
    model = tiny(dropout=DROPOUT)
    context, asked = text(3, steps=6), text(2, steps=4, seed=1)
    context.words[3:], asked.words[2:] = 11, 11
    context.words[:3], asked.words[:2] = 1, 2
    pointers = model(context, asked)
    (pointers.start.log_softmax(1)[0, 1] + pointers.end.log_softmax(1)[0, 1]).backward()
    assert model.words.weight.grad[11].abs().max() == 0
    assert model.words.weight.grad[1].abs().max() > 0


def test_dropout_of_the_context_can_be_left_out():
    assert tiny(dropout=DROPOUT).dropout["context"] == 0.2
    assert tiny(dropout={**DROPOUT, "context": 0.0}).dropout["context"] == 0.0
    assert tiny().dropout == dict.fromkeys(("character", "lstm", "context", "output"), 0.0)


# --- units


def with_biases(model):
    """Biases as training leaves them: a unit without weights is then not silent."""
    generator = torch.Generator().manual_seed(7)
    for name, p in model.named_parameters():
        if name.endswith("bias_ih"):
            p.data.copy_(torch.randn(p.shape, generator=generator))
    return model.double().eval()


def removed(model, dead):
    """The largest change of a score when the given units, zeroed but for their biases, are taken out."""
    units = model.units()
    keep = []
    for group in units:
        gone = torch.tensor(dead.get(group.name, []), dtype=torch.int64)
        for s in group.slices:
            if s.in_norm:
                s.parameter.data.index_fill_(s.dim, s.indices(gone), 0.0)
        keep.append(torch.ones(group.width, dtype=torch.bool).index_fill_(0, gone, False))
    texts = text(6, 4), text(3, 2, seed=1)
    before = [t.clone() for t in model(*texts)]
    remove(model, units, keep)
    return max(float((a - b).abs().max()) for a, b in zip(before, model(*texts), strict=True))


DEAD = {"first ahead": [0], "second ahead": [1, 2], "second back": [0], "end back": [2]}


@torch.no_grad()
def test_removing_dead_units_changes_nothing():
    model = with_biases(tiny())
    assert removed(model, DEAD) < 1e-12
    widths = model.resized({"word_size": 5})["hidden_size"]
    assert widths == {"phrase": [3, 3], "first": [2, 3], "second": [1, 2], "end": [3, 2]}
    again = tiny(hidden_size=widths)
    assert {n: p.shape for n, p in again.named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }


@torch.no_grad()
def test_with_the_published_groups_it_does_change_something():
    """They forget the weights that read the summary: a unit with a bias is still read through them."""
    assert removed(with_biases(tiny(groups="published")), DEAD) > 1e-4


@torch.no_grad()
def test_units_of_the_phrase_layer_have_groups_as_well():
    dead = {**DEAD, "phrase ahead": [2], "phrase back": [0, 1]}
    assert removed(with_biases(tiny(groups="all")), dead) < 1e-12


def test_the_gradient_of_group_lasso_is_autograds():
    from sparsernn.sparsity.penalties.group_lasso import group_lasso

    model = tiny(groups="all").double()
    penalty = group_lasso(model, strength=0.3, count_diagonal_twice=False)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    penalty.after_backward()
    total = 0.3 * sum((units.squares() + 1e-8).sqrt().sum() for units in model.units())
    trained = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(total, trained, allow_unused=True)
    for p, gradient in zip(trained, expected, strict=True):
        torch.testing.assert_close(p.grad, torch.zeros_like(p) if gradient is None else gradient)


# --- settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": {"phrase": [1, 1]}}, "it needs first, second, end as well"),
        (
            {"hidden_size": {reader: [1, 0] for reader in READERS}},
            "hidden_size.phrase is .1, 0.; it must be a list of 2",
        ),
        ({"groups": "seven"}, "groups is 'seven'"),
        ({"dropout": {"hidden": 0.1}}, "no setting 'hidden'"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(InputError, match=message):
        tiny(**changes)


def test_an_unknown_setting_of_the_cnn():
    with pytest.raises(InputError, match=r"character_cnn has no setting 'widht'.*Did you mean 'width'"):
        BiDAF(3, 3, character_cnn={"widht": 3})
