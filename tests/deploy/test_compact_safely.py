"""Somebody else's forward pass: a compaction leaves its numbers as they are, or leaves the model as it is."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from sparsernn.core.errors import InputError
from sparsernn.deploy import compact, compacted, dead_units
from sparsernn.models.language_model import LanguageModel
from sparsernn.structure.dataflow import Graph, Untraceable
from sparsernn.structure.observation import distance, observed, same
from sparsernn.structure.torch_units import units_of

WIDTH = 24


class Model(nn.Module):
    """An LSTM of 24 units, whatever is done with its outputs, and modules of that width to do it with."""

    def __init__(self, use, layers=1, cell=nn.LSTM, **options):
        super().__init__()
        self.use = use
        self.rnn = cell(8, WIDTH // (2 if options.get("bidirectional") else 1), layers, **options)
        self.norm, self.batch_norm = nn.LayerNorm(WIDTH), nn.BatchNorm1d(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, dropout=0.0)
        self.skip, self.hidden, self.head = nn.Linear(8, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5)
        self.second, self.third, self.drop = nn.GRU(WIDTH, 5), nn.Linear(5, 5), nn.Dropout(0.3)
        self.start = nn.Parameter(torch.zeros(layers, 3, WIDTH))

    def forward(self, x, state=None):
        h, after = self.rnn(x, state)
        return self.use(self, x, h, after)


def model_of(use, *args, **options):
    """In float64, all parameters random, six units of the last layer unread and two silent."""
    torch.manual_seed(0)
    model = Model(use, *args, **options).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.4 * torch.randn(p.shape))
        last = f"l{model.rnn.num_layers - 1}"
        getattr(model.rnn, f"weight_hh_{last}")[:, :6] = 0
        for reader in (model.head.weight, model.hidden.weight, model.second.weight_ih_l0):
            reader[:, :6] = 0
        rows = slice(2 * model.rnn.hidden_size + 8, 2 * model.rnn.hidden_size + 10)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(model.rnn, f"{name}_{last}")[rows] = 0
    return model


def inputs():
    return torch.randn(7, 3, 8, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def packed(model, h):
    y = pack_padded_sequence(h, torch.tensor([7, 5, 2]))
    return model.head(pad_packed_sequence(y)[0])


def unpacked(model, h):
    steps, batch, width = h.shape
    return model.head(h.reshape(steps * batch, width)).view(steps, batch, 5)


# what is known to leave every unit in its column, and who reads then
CLEAR = {
    "plain": (lambda m, x, h, s: m.head(h), {"head"}),
    "last step": (lambda m, x, h, s: m.head(h[-1]), {"head"}),
    "last steps": (lambda m, x, h, s: m.head(h[-2:, :, :]), {"head"}),
    "by position": (lambda m, x, h, s: m.head(h[torch.tensor([3, 1, 0]), torch.arange(3)]), {"head"}),
    "by mask": (lambda m, x, h, s: m.head(h[x[..., 0] > 0]), {"head"}),
    "last state": (lambda m, x, h, s: m.head(s[0][-1]), {"head"}),
    "last cell": (lambda m, x, h, s: m.head(s[1][-1]), {"head"}),
    "state without layers": (lambda m, x, h, s: m.head(s[0].squeeze(0)), {"head"}),
    "transposed": (lambda m, x, h, s: m.head(h.transpose(0, 1).contiguous()), {"head"}),
    "permuted": (lambda m, x, h, s: m.head(h.permute(1, 0, 2)), {"head"}),
    "flat": (lambda m, x, h, s: m.head(h.flatten(0, 1)), {"head"}),
    "reshaped": (lambda m, x, h, s: m.head(h.reshape(-1, h.size(-1))), {"head"}),
    "by its sizes": (lambda m, x, h, s: unpacked(m, h), {"head"}),
    "mean over time": (lambda m, x, h, s: m.head(h.mean(0)), {"head"}),
    "sum over the batch": (lambda m, x, h, s: m.head(h.sum(dim=1, keepdim=True)), {"head"}),
    "largest over time": (lambda m, x, h, s: m.head(h.max(0)[0]), {"head"}),
    "largest values": (lambda m, x, h, s: m.head(torch.max(h, 0).values), {"head"}),
    "nonlinear": (lambda m, x, h, s: m.head(functional.relu(h).tanh()), {"head"}),
    "dropped": (lambda m, x, h, s: m.head(m.drop(functional.dropout(h, 0.1, m.training))), {"head"}),
    "scaled": (lambda m, x, h, s: m.head(h * 0.5 / 2), {"head"}),
    "two readers": (lambda m, x, h, s: (m.head(h), m.hidden(h[0])), {"head", "hidden"}),
    "recurrent reader": (lambda m, x, h, s: m.third(m.second(h)[0]), {"second"}),
    "both": (lambda m, x, h, s: m.third(m.second(h)[0]) + m.head(h), {"second", "head"}),
    "carried on": (lambda m, x, h, s: (m.head(h), m.head(m.rnn(x, s)[0])), {"head"}),
    "twice": (lambda m, x, h, s: (m.head(h), m.head(m.rnn(x.flip(0))[0])), {"head"}),
    "state returned": (lambda m, x, h, s: (m.head(h), s), {"head"}),
    "packed": (lambda m, x, h, s: packed(m, h), {"head"}),
    "sizes used": (lambda m, x, h, s: m.head(h) / (h.size(0) + h.shape[1]), {"head"}),
}

# what may need every unit, or mixes them, or has their number written into it
MIXED = {
    "attention over time": lambda m, x, h, s: m.head(torch.softmax(h @ h.transpose(1, 2), -1) @ h),
    "attention module": lambda m, x, h, s: m.head(m.attention(h, h, h)[0]),
    "attention, and itself": lambda m, x, h, s: m.head(h + m.attention(h, h, h)[0]),
    "functional norm": lambda m, x, h, s: m.head(functional.layer_norm(h, h.shape[-1:])),
    "norm module": lambda m, x, h, s: m.head(m.norm(h)),
    "batch norm": lambda m, x, h, s: m.head(m.batch_norm(h.flatten(0, 1))),
    "unit length": lambda m, x, h, s: m.head(functional.normalize(h, dim=-1)),
    "skip connection": lambda m, x, h, s: m.head(h + m.skip(x)),
    "gated": lambda m, x, h, s: m.head(h * m.skip(x).sigmoid()),
    "sigmoid": lambda m, x, h, s: m.head(h.sigmoid()),
    "plus one": lambda m, x, h, s: m.head(h + 1),
    "softmax": lambda m, x, h, s: m.head(h.softmax(-1)),
    "other order": lambda m, x, h, s: m.head(h.flip(-1)),
    "rolled": lambda m, x, h, s: m.head(h.roll(1, -1)),
    "half of them": lambda m, x, h, s: m.third(h[..., :5]) + m.head(h),
    "one of them": lambda m, x, h, s: m.head(h) + h[:, :, 3:4],
    "their mean": lambda m, x, h, s: m.head(h) + h.mean(-1, keepdim=True),
    "chunks": lambda m, x, h, s: m.head(torch.cat(h.chunk(2, -1)[::-1], -1)),
    "joined": lambda m, x, h, s: m.head(torch.cat([h[..., :12], m.skip(x)[..., 12:]], -1)),
    "written size": lambda m, x, h, s: m.head(h.view(-1, WIDTH)),
    "their number": lambda m, x, h, s: m.head(h / h.shape[-1] ** 0.5),
    "their number, doubled": lambda m, x, h, s: m.head(h) * h.size(2),
    "own state": lambda m, x, h, s: m.head(m.rnn(x, (m.start, m.start))[0] + h * 0),
    "weight by itself": lambda m, x, h, s: functional.linear(h, m.head.weight),
    "reader of more": lambda m, x, h, s: m.head(h) + m.head(m.skip(x)),
    "squared weights": lambda m, x, h, s: m.head(h) + m.rnn.weight_hh_l0.square().mean(),
    "while training": lambda m, x, h, s: m.head(m.norm(h)) if m.training else m.head(h),
    "features over time": lambda m, x, h, s: m.head(h.cumsum(-1)),
    "in place": lambda m, x, h, s: m.head(h.add_(1.0)),
    "as another's state": lambda m, x, h, s: m.head(h) + m.third(m.second(m.skip(x), h[:1, :, :5])[0]),
}


def refused(call):
    """The sentence of an InputError; None where there is none."""
    try:
        call()
    except InputError as error:
        sentence = str(error)
    else:
        return None
    assert "\n" not in sentence
    return sentence


def assert_untouched(model, before, x, wanted):
    assert type(model.rnn) is type(before.rnn)
    assert {n: id(p) for n, p in model.named_parameters()} == before.identities
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.state_dict().items())
    assert same([wanted], [first(model(x))])


def first(output):
    return output[0] if isinstance(output, tuple) else output


def remembered(model):
    before = copy.deepcopy(model)
    before.identities = {n: id(p) for n, p in model.named_parameters()}
    return before


@pytest.mark.parametrize("name", CLEAR)
@torch.no_grad()
def test_what_is_followed_through_the_forward_pass(name):
    use, readers = CLEAR[name]
    model, x = model_of(use), inputs()
    uses = Graph(model).uses("rnn")
    assert (uses.readers, uses.unclear, uses.binding, uses.returned) == (readers, set(), set(), False)
    assert observed(model, "rnn", x).readers == readers
    wanted = model(x)
    done = compact(model)
    assert done.widths[0] == ("rnn layer 0", 24, 16)
    assert distance(first(model(x)), first(wanted)) < 1e-12
    model.train()
    model(x)


@pytest.mark.parametrize("criterion", ["any", "unread", "silent"])
@pytest.mark.parametrize("name", MIXED)
@torch.no_grad()
def test_what_mixes_units_is_never_changed_without_a_word(name, criterion):
    model, x = model_of(MIXED[name]), inputs()
    wanted, before = first(model(x)), remembered(model)
    assert refused(lambda: compact(model, criterion))
    assert_untouched(model, before, x, wanted)
    assert refused(lambda: compact(model, criterion, consumers={"rnn": ["head"]})) or name == "while training"
    assert_untouched(model, before, x, wanted)
    for settings in ({}, {"consumers": {"rnn": ["head"]}}):
        trial = copy.deepcopy(model)
        again = remembered(trial)
        if refused(lambda trial=trial, settings=settings: compact(trial, criterion, example=x, **settings)):
            assert_untouched(trial, again, x, wanted)
        else:
            assert same([first(trial(x))], [wanted])
            trial.train()
            trial(x)


@torch.no_grad()
def test_silent_units_leave_an_attention_where_an_example_shows_it():
    model, x = model_of(MIXED["attention over time"]), inputs()
    wanted, named = model(x), {"rnn": ["head"]}
    message = r"outputs for the example differ by .*: something else than the weights that were counted"
    with pytest.raises(InputError, match=message):
        compact(model, "unread", consumers=named, example=x)
    assert compact(model, "silent", consumers=named, example=x).widths == [("rnn layer 0", 24, 22)]
    assert distance(model(x), wanted) < 1e-12


@torch.no_grad()
def test_an_example_helps_where_the_forward_pass_cannot_be_followed():
    def use(m, x, h, s):
        return m.head(h) if bool(x.sum() > 1e9) else m.head(torch.cat([s[0][-2], s[0][-1]], 1))

    model, x = model_of(use, bidirectional=True), inputs()
    with pytest.raises(InputError, match=r"cannot be traced \(symbolically traced .*example="):
        compact(model)
    wanted = model(x)
    done = compact(model, example={"x": x})
    assert [name for name, before, after in done.widths if after < before] == ["rnn layer 0"]
    assert distance(model(x), wanted) < 1e-12


@torch.no_grad()
def test_outputs_that_the_model_returns_stay():
    model, x = model_of(lambda m, x, h, s: (m.head(h), h), layers=2), inputs()
    model.rnn.weight_hh_l0[:, :3] = 0
    model.rnn.weight_ih_l1[:, :3] = 0
    wanted = model(x)
    for settings in ({}, {"consumers": {"rnn": ["head"]}}, {"example": x}):
        smaller = compacted(model, **settings)
        assert smaller.rnn.hidden_sizes == (21, 24)
        assert same(list(wanted), list(smaller(x)))


@torch.no_grad()
def test_a_state_below_the_last_layer_is_nobodys_to_read():
    model, x = model_of(lambda m, x, h, s: m.head(h) + m.hidden(s[0][0])[:, :5], layers=2), inputs()
    model.rnn.weight_hh_l0[:, :3] = 0
    model.rnn.weight_ih_l1[:, :3] = 0
    before = remembered(model)
    with pytest.raises(InputError, match="of its final state"):
        compact(model)
    with pytest.raises(InputError):
        compact(model, consumers={"rnn": ["head"]}, example=x)
    assert_untouched(model, before, x, first(before(x)))


@torch.no_grad()
def test_readers_that_were_forgotten_are_named():
    model = model_of(CLEAR["two readers"][0])
    with pytest.raises(InputError, match="are read by 'hidden' too; name all their readers"):
        compact(model, consumers={"rnn": ["head"]})
    model.tied = nn.Linear(WIDTH, 5)
    model.tied.weight = model.head.weight
    with pytest.raises(InputError, match="'tied' has the weight of 'head' too"):
        compact(model)


class Tied(nn.Module):
    """An embedding and a softmax with one weight, and a use of the word vectors."""

    def __init__(self, use, **options):
        super().__init__()
        self.use, self.embedding = use, nn.Embedding(11, 12, **options)
        self.rnn, self.head = nn.LSTM(12, 12), nn.Linear(12, 11)
        self.head.weight = self.embedding.weight

    def forward(self, words):
        x = self.embedding(words)
        return self.head(self.rnn(self.use(x))[0])


@pytest.mark.parametrize("use", [lambda x: x, lambda x: functional.dropout(x, 0.1, False), lambda x: x * 2])
@torch.no_grad()
def test_a_tied_embedding_is_followed_too(use):
    torch.manual_seed(0)
    model, words = Tied(use).double().eval(), torch.randint(11, (6, 2))
    units_of(model)[0].zero(torch.tensor([1, 4]))
    wanted = model(words)
    compact(model)
    assert model.embedding.embedding_dim == model.rnn.input_size == 10
    assert distance(model(words), wanted) < 1e-12


@pytest.mark.parametrize(
    ("use", "options", "message"),
    [
        (lambda x: functional.layer_norm(x, (12,)), {}, "embedding 'embedding', tied to 'head'.*layer_norm"),
        (lambda x: x + 1, {}, "embedding 'embedding', tied to 'head'.*add"),
        (lambda x: x, {"max_norm": 1.0}, "max_norm keeps the length of the vectors"),
    ],
)
@torch.no_grad()
def test_a_tied_embedding_whose_features_matter_stays(use, options, message):
    model = Tied(use, **options).double().eval()
    model.rnn.weight_hh_l0[:, 1] = model.rnn.weight_ih_l0[:, 1] = model.head.weight[:, 1] = 0
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=message):
        compact(model)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


@torch.no_grad()
def test_examples_that_prove_nothing_are_refused():
    plain = CLEAR["plain"][0]
    model, x = model_of(plain), inputs()
    with pytest.raises(InputError, match=r"cannot read the example in float64 \("):
        compact(model, example=x[..., :5])
    only_state = model_of(lambda m, x, h, s: s)
    with pytest.raises(InputError, match="nothing but final states"):
        compact(only_state, consumers={"rnn": ["head"]}, example=x)
    generator = torch.Generator()
    restless = model_of(lambda m, x, h, s: m.head(h) + torch.rand(1, generator=generator))
    restless.__dict__["use"] = lambda m, x, h, s: m.head(h) + next(COUNTER)
    with pytest.raises(InputError, match="other numbers each time"):
        compact(restless, consumers={"rnn": ["head"]}, example=x)
    with pytest.raises(Untraceable):
        Graph(nn.ModuleDict())


COUNTER = iter(range(1000))


@torch.no_grad()
def test_a_refusal_leaves_weak_units_as_they_are():
    torch.manual_seed(0)
    model = LanguageModel(11, 5, [4], {"name": "onlstm", "chunk_size": 2})
    group = model.units()[0]
    for s in group.slices:  # one unit of a chunk alone cannot go
        index = s.indices(torch.tensor([3]))
        s.parameter.index_copy_(s.dim, index, 1e-4 * s.parameter.index_select(s.dim, index))
    before = copy.deepcopy(model.state_dict())
    weak = [torch.tensor([False, False, False, True])]
    assert dead_units([group], "any", weak)[0].tolist() == weak[0].tolist()
    with pytest.raises(InputError, match="no unit can be removed"):
        compact(model, tol=1e-2, exact=False)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


@torch.no_grad()
def test_a_tolerance_with_an_example_may_change_numbers_but_not_their_form():
    model, x = model_of(CLEAR["plain"][0]), inputs()
    (group,) = units_of(model)
    for s in group.slices:
        index = s.indices(torch.tensor([20]))
        s.parameter.index_copy_(s.dim, index, 1e-4 * s.parameter.index_select(s.dim, index))
    wanted = model(x)
    assert compact(model, tol=1e-2, exact=False, example=x).weak == (1,)
    assert 0 < distance(model(x), wanted) < 1e-2


@torch.no_grad()
def test_a_model_of_this_library_is_compared_on_an_example_too():
    model = LanguageModel(11, 5, [6]).double()
    model.units()[0].zero(torch.tensor([0, 3]))
    words = torch.randint(11, (6, 2))
    with pytest.raises(InputError, match="have another shape"):
        compact(model, example=words)  # its features are part of what it puts out
    assert compact(model).widths == [("layer 0", 6, 4)]


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5),
        ([torch.inf], [torch.inf], 0.0),
        ([torch.inf], [-torch.inf], torch.inf),
        ([torch.nan, 1.0], [torch.nan, 1.0], 0.0),
        ([torch.nan, 1.0], [1.0, 1.0], torch.inf),
        ([1.0], [torch.inf], torch.inf),
        ([], [], 0.0),
    ],
)
def test_no_number_is_a_difference_too(a, b, wanted):
    assert distance(torch.tensor(a), torch.tensor(b)) == wanted
