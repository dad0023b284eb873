"""The embedding of strips and its head against the dense table of the same numbers, and against worked examples."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sparsernn.core.errors import InputError
from sparsernn.core.registry import make
from sparsernn.nn import EMBEDDINGS, HEADS, TIED_HEADS, BlockEmbedding, BlockHead, Embedding, LinearHead
from sparsernn.nn.blocks.block_embedding import rows_by_count
from sparsernn.nn.blocks.geometry import STRIPS, geometric_strips, greedy_strips
from sparsernn.structure.units import Units, remove

DOUBLE = torch.double

POS = (
    "44000 35307 28332 22735 18243 14639 11747 9426 7564 6070 4871 3909 3137 2517 2020 1621 1301 1045 840 676"
)


def numbers(text):
    return tuple(map(int, text.split()))


# (V, D, strips, density, heights as the original makes them)
GREEDY = [
    (10, 4, 4, 0.5, (10, 5, 3, 2)),
    (10, 4, 2, 0.75, (10, 5)),
    (12, 6, 3, 0.5, (12, 4, 2)),
    (100, 8, 4, 0.5, (100, 54, 29, 17)),
    (10_000, 400, 10, 0.5, (10_000, 8316, 6916, 5751, 4783, 3978, 3309, 2752, 2289, 1906)),
    (10_000, 400, 10, 1 / 3, (10_000, 7097, 5037, 3574, 2537, 1800, 1278, 907, 644, 459)),
    (44_000, 20, 20, 0.25, numbers(POS)),
]


@pytest.mark.parametrize(("words", "width", "blocks", "density", "heights"), GREEDY)
def test_heights_of_the_original_and_the_closed_form_beside_them(words, width, blocks, density, heights):
    assert greedy_strips(words, width, blocks, density) == ((width // blocks,) * blocks, heights)
    widths, rows = geometric_strips(words, width, blocks, density)
    assert widths == (width // blocks,) * blocks
    assert all(abs(a - b) <= 5 for a, b in zip(rows, heights, strict=True))


def test_closed_form_of_the_recited_treebank():
    _, rows = geometric_strips(10_000, 400, 10, 0.5)  # factor .83166
    assert rows == (10_000, 8317, 6917, 5752, 4784, 3979, 3309, 2752, 2289, 1901)
    assert sum(rows) * 40 == 2_000_000


sizes = st.tuples(st.integers(1, 400), st.integers(1, 40), st.integers(1, 12), st.floats(0, 1))


@given(sizes)
@settings(deadline=None)
def test_strips_fall_and_hold_the_density_asked_for(case):
    words, width, blocks, share = case
    blocks = min(blocks, width)
    density = 1 / blocks + share * (1 - 1 / blocks)
    for name, geometry in STRIPS.items():
        widths, rows = geometry(words, width, blocks, density)
        assert sum(widths) == width
        assert len(rows) == len(widths) == blocks
        assert rows[0] == words
        assert list(rows) == sorted(rows, reverse=True)
        assert min(rows) >= 0
        held = sum(w * r for w, r in zip(widths, rows, strict=True))
        if name == "geometric":
            assert (
                -1e-5 * words * width
                <= words * width * density - held
                < max(widths) + 1 + 1e-5 * words * width
            )
        else:
            assert held <= words * width * density + max(widths) + 1e-5 * words * width


def test_bands_and_strips_hold_the_same_weights():
    own = BlockEmbedding(10, 4, blocks=4, density=0.5)
    assert [tuple(strip.shape) for strip in own.strips] == [(10, 1), (5, 1), (3, 1), (2, 1)]
    assert [tuple(band.shape) for band in own.bands()] == [(5, 1), (2, 2), (1, 3), (2, 4)]
    for word, vector in enumerate(own.dense()):
        stored = [strip[word - 10] for strip in own.strips if word >= 10 - len(strip)]
        assert torch.cat(stored).tolist() == vector[: len(stored)].tolist()
        assert vector[len(stored) :].tolist() == [0] * (4 - len(stored))


def table(**setting):
    torch.manual_seed(0)
    given_ = {"blocks": 3, "density": 0.6, **setting}
    return BlockEmbedding(23, 8, **given_).double()


TABLES = [
    {},
    {"geometry": "greedy"},
    {"blocks": 1, "density": 1.0},
    {"blocks": 8, "density": 0.15},
    {"counts": [k * 7 % 23 for k in range(23)]},
    {"counts": [k * 7 % 5 for k in range(23)], "order": "down"},
    {"order": "random"},
]


@pytest.mark.parametrize("setting", TABLES, ids=str)
def test_lookup_and_its_gradient_are_those_of_the_dense_table(setting):
    own = table(**setting)
    dense = own.dense().requires_grad_()
    words, weight = torch.randint(23, (7, 5)), torch.randn(7, 5, 8, dtype=DOUBLE)
    torch.testing.assert_close(own(words), functional.embedding(words, dense))
    (own(words) * weight).sum().backward()
    (functional.embedding(words, dense) * weight).sum().backward()
    assert_gradient(own, dense.grad)


def assert_gradient(own, expected):
    """The strips' gradients are `expected` (V, D) where the table has weights."""
    gradients, ones = copy.deepcopy(own), copy.deepcopy(own)
    for p, g, one in zip(own.strips, gradients.strips, ones.strips, strict=True):
        g.data.copy_(p.grad)
        one.data.fill_(1)
    torch.testing.assert_close(gradients.dense(), expected * ones.dense())


@pytest.mark.parametrize("setting", TABLES, ids=str)
def test_head_is_the_linear_head_over_the_dense_table(setting):
    own = table(**setting)
    head = BlockHead(8, own).double()
    head.bias.data.normal_()
    weight = torch.nn.Parameter(own.dense())
    linear = LinearHead(23, 8, tied=weight).double()
    linear.bias.data.copy_(head.bias)
    y, target = torch.randn(7, 5, 8, dtype=DOUBLE, requires_grad=True), torch.randint(23, (7, 5))
    torch.testing.assert_close(own.decode(y), y @ weight.t())
    with torch.no_grad():
        torch.testing.assert_close(own.decode(y), y @ weight.t())
        for few in (y, y[:1], y[0, :2], y[0, 0]):  # by bands, and by strips
            torch.testing.assert_close(head.logits(few), linear.logits(few))
    torch.testing.assert_close(head.log_prob(y), linear.log_prob(y))
    torch.testing.assert_close(head.log_prob(y).exp().sum(-1), torch.ones(7, 5, dtype=DOUBLE))
    torch.testing.assert_close(head.nll(y, target), linear.nll(y, target))
    with torch.no_grad():
        torch.testing.assert_close(head.nll(y, target), linear.nll(y, target))
    per_token = torch.randn(35, dtype=DOUBLE)
    (mine,) = torch.autograd.grad(head.nll(y, target) @ per_token, y)
    (theirs,) = torch.autograd.grad(linear.nll(y, target) @ per_token, y)
    torch.testing.assert_close(mine, theirs)
    (head.nll(y, target) @ per_token).backward()
    (linear.nll(y, target) @ per_token).backward()
    torch.testing.assert_close(head.bias.grad, linear.bias.grad)
    assert_gradient(own, weight.grad)


def test_gradients_are_right():
    own, words = table(), torch.randint(23, (4, 3))
    y = torch.randn(4, 3, 8, dtype=DOUBLE, requires_grad=True)
    head = BlockHead(8, own).double()
    assert torch.autograd.gradcheck(lambda *_: own(words), tuple(own.strips))
    assert torch.autograd.gradcheck(lambda y, *_: head.nll(y, words), (y, head.bias, *own.strips))


def test_evaluation_in_pieces_is_evaluation_at_once(monkeypatch):
    own = table()
    head, y, target = (
        BlockHead(8, own).double(),
        torch.randn(5, 3, 8, dtype=DOUBLE),
        torch.randint(23, (5, 3)),
    )
    whole = head.nll(y, target)
    monkeypatch.setattr("sparsernn.nn.blocks.block_head.EVAL_ROWS", 4)
    with torch.no_grad():
        torch.testing.assert_close(head.nll(y, target), whole)


def test_absent_weights_stay_absent_through_training_and_weight_decay():
    own = table(counts=[k * 7 % 23 for k in range(23)])
    head, target = BlockHead(8, own).double(), torch.randint(23, (5, 3))
    absent = own.dense() == 0
    assert absent.sum() == 23 * 8 - sum(s.numel() for s in own.strips)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.1, weight_decay=0.1)
    before = own.dense()
    for _ in range(5):
        optimizer.zero_grad()
        head.nll(own(target).tanh(), target).sum().backward()
        optimizer.step()
    assert own.dense()[absent].abs().max() == 0
    assert (own.dense() != before)[~absent].all()


def test_frequent_words_have_the_long_vectors_wherever_they_stand():
    counts = [5, 0, 9, 1, 7, 2]
    lengths = (BlockEmbedding(6, 3, blocks=3, density=0.6, counts=counts).dense() != 0).sum(1)
    by_count = [int(lengths[k]) for k in sorted(range(6), key=counts.__getitem__)]
    assert by_count == sorted(by_count)
    assert (by_count[0], by_count[-1]) == (1, 3)


@pytest.mark.parametrize(
    ("order", "words"),
    [("up", [1, 4, 0, 3, 2]), ("down", [2, 0, 3, 1, 4]), ("given", [0, 1, 2, 3, 4])],
)
def test_ties_keep_the_order_of_the_words(order, words):
    assert rows_by_count([3, 1, 8, 3, 1], order).tolist() == words


def test_random_rows_are_a_fixed_shuffle():
    shuffled = rows_by_count([0] * 50, "random")
    assert sorted(shuffled.tolist()) == list(range(50))
    assert shuffled.tolist() == rows_by_count(list(range(50)), "random").tolist()
    assert shuffled.tolist() != list(range(50))


def test_a_dropped_word_is_dropped_in_all_strips_and_wherever_it_stands():
    own = table(dropout=0.5)
    words = torch.arange(23).repeat(2, 1)
    vectors, whole = own(words), own.dense()
    torch.testing.assert_close(vectors[0], vectors[1])
    kept = (vectors[0] != 0).any(1)
    assert 0 < kept.sum() < 23
    torch.testing.assert_close(vectors[0], 2 * whole * kept.unsqueeze(1))
    torch.testing.assert_close(own.decode(torch.eye(8, dtype=DOUBLE)), whole.t())  # decoding drops nothing
    torch.testing.assert_close(own.eval()(words)[0], whole)


def test_the_same_draw_drops_the_same_words_as_in_the_dense_embedding():
    own = table(dropout=0.5)
    dense = Embedding(23, 8, dropout=0.5).double()
    dense.weight.data.copy_(own.dense())
    words = torch.randint(23, (7, 5))
    torch.manual_seed(3)
    mine = own(words)
    torch.manual_seed(3)
    torch.testing.assert_close(mine, dense(words))


def test_columns_are_features_whatever_the_strips():
    own = table()
    head = BlockHead(8, own).double()
    features = Units("features", 8, own.outputs())
    torch.testing.assert_close(features.norms(), own.dense().norm(dim=0))
    features.zero(torch.tensor([0, 4, 7]))
    assert (own.dense()[:, [0, 4, 7]] == 0).all()
    y, keep = torch.randn(5, 8, dtype=DOUBLE), torch.ones(8, dtype=torch.bool)
    keep[[0, 4, 7]] = False
    before = head.log_prob(y)
    remove(head, [features], [keep])
    assert own.embedding_size == 5
    torch.testing.assert_close(head.log_prob(y[:, keep]), before)


def test_a_saved_table_brings_its_order_along():
    own, other = table(order="random"), table()
    other.load_state_dict(own.state_dict())
    torch.testing.assert_close(other.dense(), own.dense())
    words = torch.randint(23, (4, 3))
    torch.testing.assert_close(other(words), own(words))
    torch.testing.assert_close(other.decode(own(words)), own.decode(own(words)))


@pytest.mark.parametrize("name", sorted(EMBEDDINGS))
def test_every_embedding_of_the_registry(name):
    made = make("embedding", EMBEDDINGS, name, vocabulary_size=20, embedding_size=6, dropout=0.1, counts=None)
    assert made(torch.zeros(3, 2, dtype=torch.long)).shape == (3, 2, 6)
    assert made.vocabulary_size == 20
    width = Units("features", 6, made.outputs()).norms()
    assert (width > 0).all()
    heads = TIED_HEADS.get(name, HEADS)
    head = make(
        "head", heads, "linear", vocabulary_size=20, input_size=6, embedding_size=6, tied=made.decoder
    )
    assert {id(p) for p in head.parameters()} > {id(p) for p in made.parameters()}
    assert head.nll(torch.zeros(3, 2, 6), torch.zeros(3, 2, dtype=torch.long)).shape == (6,)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"blocks": 0}, "blocks is 0"),
        ({"density": 0.2}, r"\[1/3, 1\]"),
        ({"density": 1.5}, "density is 1.5; it must be a finite number in"),
        ({"blocks": 1}, r"\[1/1, 1\]"),
        ({"geometry": "square"}, "geometric or greedy"),
        ({"counts": [1, 2]}, "2 entries"),
        ({"order": "up"}, "without counts"),
        ({"order": "sideways"}, "one of up, down"),
        ({"dropout": 1.0}, r"in \[0, 1\)"),
    ],
)
def test_refuses_impossible_settings(setting, message):
    with pytest.raises(InputError, match=message):
        table(**setting)


def test_refuses_impossible_sizes():
    with pytest.raises(InputError, match="vocabulary_size is 0"):
        BlockEmbedding(0, 4)
    with pytest.raises(InputError, match="they are 7 and 8"):
        BlockHead(7, table())
