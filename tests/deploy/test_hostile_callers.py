"""Tensors, words and states that do not fit are one sentence in Python, before a kernel reads past their end."""

import copy

import pytest
import torch
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.deploy import LSTMRuntime, ModuleRuntime, compare, measure_latency, runtime
from sparsernn.kernels import FORMATS, strip_kernel
from sparsernn.kernels.library import library
from sparsernn.models.language_model import LanguageModel
from sparsernn.nn import HEADS, BlockEmbedding

NAN, INF = float("nan"), float("inf")


@pytest.fixture(params=["twin", "compiled"])
def way(request, monkeypatch):
    """Runs a test on the twins and on the compiled kernels."""
    monkeypatch.setenv("SPARSERNN_NO_KERNELS", "1" if request.param == "twin" else "0")
    if request.param == "compiled" and library() is None:
        pytest.skip("no kernels")


def language_model(**settings):
    torch.manual_seed(0)
    return LanguageModel(11, 6, [8, 5], **settings)


def state():
    return language_model().state_dict()


def refused(call, *said):
    with pytest.raises(InputError) as caught:
        call()
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 400
    assert all(word in told for word in said), told


# --- tensors ----------------------------------------------------------------------------------------------


def changed(name, make):
    tensors = state()
    return tensors | {name: make(tensors[name])}


def spoilt(value):
    def make(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[1] = value
        return tensor

    return make


TENSORS = {
    "NaN in the table": ("embedding.weight", spoilt(NAN)),
    "NaN in a weight": ("layers.1.weight_hh", spoilt(NAN)),
    "an endless bias": ("layers.0.bias_ih", spoilt(-INF)),
    "NaN in the last bias": ("head.bias", spoilt(NAN)),
    "whole numbers": ("layers.0.weight_ih", lambda t: t.int()),
    "truths": ("layers.0.weight_hh", lambda t: t > 0),
    "complex numbers": ("head.weight", lambda t: t.to(torch.complex64)),
    "no tensor": ("head.bias", lambda t: t.tolist()),
    "nothing": ("layers.0.weight_hh", lambda t: None),
    "a table of one axis": ("embedding.weight", lambda t: t[0]),
    "a recurrent weight of one axis": ("layers.0.weight_hh", lambda t: t[0]),
    "a recurrent weight without axes": ("layers.1.weight_hh", lambda t: t[0, 0]),
    "three axes": ("layers.0.weight_hh", lambda t: t.unsqueeze(0)),
    "fewer rows": ("layers.0.weight_ih", lambda t: t[:-1]),
    "fewer columns": ("layers.0.weight_ih", lambda t: t[:, :-1]),
    "a column of them": ("layers.1.weight_ih", lambda t: t[:, :1]),
    "turned": ("layers.0.weight_hh", lambda t: t.t()),
    "a short bias": ("layers.0.bias_hh", lambda t: t[:1]),
    "a long bias": ("head.bias", lambda t: torch.cat([t, t])),
    "fewer words": ("embedding.weight", lambda t: t[:5]),
    "a wider head": ("head.weight", lambda t: torch.cat([t, t], 1)),
    "no words": ("embedding.weight", lambda t: t[:0]),
    "no units": ("layers.1.weight_hh", lambda t: t[:0, :0]),
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize(
    "product", ["auto", "dense", "dense_int8", "csr", "csr_int8", "block16", "block16_int8"]
)
def test_tensors_that_do_not_fit(way, name, product):
    key, make = TENSORS[name]
    refused(lambda: runtime(changed(key, make), products=product, threads=1))


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({"layers.0.weight_hx": torch.ones(32, 8, dtype=torch.bool)}, "layers.0.weight_hx"),
        ({"layers.0.weight_hh": torch.ones(1, 8, dtype=torch.bool)}, "(1, 8)"),
        ({"layers.0.weight_hh": torch.ones(32, 1, dtype=torch.bool)}, "(32, 1)"),
        ({"layers.0.weight_hh": torch.ones(33, 8, dtype=torch.bool)}, "(33, 8)"),
        ({"layers.0.weight_hh": torch.ones(8, 32, dtype=torch.bool)}, "(8, 32)"),
        ({"embedding.weight": torch.ones(11, dtype=torch.bool)}, "(11,)"),
        ({"layers.0.weight_hh": torch.zeros(32, 8, dtype=torch.bool)}, "not 0 where its mask says absent"),
    ],
)
@pytest.mark.parametrize("product", ["auto", "dense", "csr", "block16_int8"])
def test_masks_that_do_not_fit(way, masks, said, product):
    refused(lambda: LSTMRuntime(state(), masks, products=product, threads=1), said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"products": {"layers.7.weight_hh": "csr"}}, "layers.7.weight_hh"),
        ({"products": {"layers.0.weight_hh": "csc"}}, "csc"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"threads": 10**30}, "threads is 1000"),
        ({"threads": 1.5}, "threads is 1.5"),
        ({"batch": 0}, "batch is 0"),
        ({"batch": 17}, "batch is 17"),
        ({"batch": "2"}, "batch is '2'"),
        ({"batch": True}, "batch is True"),
        ({"product": "csr"}, "no setting 'product'"),
    ],
)
def test_settings_that_do_not_fit(way, settings, said):
    refused(lambda: runtime(state(), **settings), said)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(4),
        torch.zeros(2, 3, 4),
        torch.zeros(0, 3),
        torch.zeros(3, 0),
        torch.zeros(2, 65536),
        torch.zeros(2, 2, dtype=torch.int32),
        torch.full((2, 2), NAN),
        torch.tensor([[1.0, INF]]),
        torch.empty(1 << 16, 1 << 15, device="meta"),
    ],
    ids=lambda weight: f"{weight.dtype} {tuple(weight.shape)} {weight.device}",
)
def test_weights_without_a_product(name, weight):
    refused(lambda: FORMATS[name](weight))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(6, 1),
        torch.zeros(8, 1),
        torch.zeros(1, 1),
        torch.zeros(7),
        torch.zeros(7, 1, 1),
        torch.zeros(7, 0),
        torch.zeros(7, 17),
        torch.zeros(7, 1, dtype=torch.float64),
        torch.zeros(7, 1, dtype=torch.int32),
    ],
    ids=lambda x: f"{x.dtype} {tuple(x.shape)}",
)
def test_factors_that_do_not_fit(way, name, x):
    held = FORMATS[name](torch.ones(20, 7))
    refused(lambda: held.multiply(x))
    refused(lambda: held.multiply(torch.zeros(7, 1), threads=-4)) if library() else None


# --- words and states -------------------------------------------------------------------------------------

WORDS = [
    [11, 0],
    [-1, 0],
    [0],
    [0, 1, 2],
    [],
    [0.0, 1.0],
    [NAN, 0],
    [True, False],
    ["0", "1"],
    "01",
    [[0], [1]],
    [None, 0],
    [10**30, 0],
    3,
    None,
    torch.tensor([0.0, NAN]),
    torch.tensor([[0, 1]]),
    torch.tensor(3),
    torch.tensor([True, False]),
    torch.tensor([1 << 62, 0]),
]


@pytest.mark.parametrize("words", WORDS, ids=str)
@pytest.mark.parametrize("layer", ["lstm", "gru"])
def test_words_that_are_none(way, words, layer):
    stream = runtime(language_model(layer=layer), threads=1).stream(2)
    refused(lambda: stream.step(words), "2 ids from 0 to 10")
    assert stream.step([0, 10]).shape == (2, 11)


@pytest.mark.parametrize("batch", [0, -1, 17, "2", 2.0, True, None, 10**30])
def test_batches_that_are_none(way, batch):
    refused(lambda: runtime(state(), threads=1).stream(batch), f"batch is {batch!r}")
    if batch not in (17, 10**30):  # a forward pass takes as many as there is memory for
        refused(lambda: runtime(language_model(layer="gru")).stream(batch), f"batch is {batch!r}")


def pair(*shape):
    return torch.zeros(shape), torch.zeros(shape)


@pytest.mark.parametrize(
    "given",
    [
        (pair(2, 8),),
        (pair(2, 5), pair(2, 8)),
        (pair(1, 8), pair(1, 5)),
        (pair(2, 8), pair(2, 5), pair(2, 5)),
        (pair(2, 8), (torch.zeros(2, 5),)),
        (pair(8), pair(5)),
        ((torch.full((2, 8), NAN), torch.zeros(2, 8)), pair(2, 5)),
        ((torch.zeros(2, 8), torch.full((2, 8), INF)), pair(2, 5)),
        ((torch.zeros(2, 8).int(), torch.zeros(2, 8)), pair(2, 5)),
        (([0] * 8, [0] * 8), pair(2, 5)),
        3,
        None,
    ],
)
def test_states_that_do_not_fit(way, given):
    stream = runtime(state(), threads=1).stream(2)
    before = stream.step([1, 2]), stream.state

    def put():
        stream.state = given

    refused(put, "two of (2, 8), two of (2, 5)")
    torch.testing.assert_close(stream.state, before[1])


# --- models -----------------------------------------------------------------------------------------------


class Net(nn.Module):
    """What somebody else would write."""

    def __init__(self):
        super().__init__()
        self.embedding, self.rnn, self.head = nn.Embedding(20, 16), nn.LSTM(16, 24, 2), nn.Linear(24, 20)

    def forward(self, words, state=None):
        return self.head(self.rnn(self.embedding(words))[0])


def test_a_model_that_cannot_be_read_token_by_token():
    for call in (runtime, ModuleRuntime, compare, measure_latency):
        refused(lambda call=call: call(Net()), "a Net has no vocabulary_size")
    model = Net()
    model.vocabulary_size = 20
    refused(lambda: runtime(model).stream(1), "a Net has no head with logits or log_prob")
    model.head.logits = model.head.forward
    refused(lambda: runtime(model).stream(1).step([3]), "a Net returns a Tensor")
    refused(lambda: runtime(nn.LSTM(3, 4)), "a LSTM has no vocabulary_size")


class Skipping(LanguageModel):
    """The tensors of a plain model, and another computation."""

    def forward(self, words, state=None):
        features = super().forward(words, state)
        return features._replace(raw=features.raw + 1, dropped=features.dropped + 1)


def test_a_model_with_the_tensors_of_another_runs_through_its_own_forward_pass():
    torch.manual_seed(0)
    model = Skipping(11, 6, [8, 5])
    words = torch.randint(11, (4, 2))
    wanted = model.head.logits(model.eval()(words).raw)
    torch.testing.assert_close(runtime(model, threads=1).stream(2).read(words), wanted)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("tied", [False, True])
def test_every_head_says_in_a_stream_what_it_says(head, tied):
    torch.manual_seed(0)
    try:
        model = LanguageModel(11, 6, [6], head=head, tied=tied, dropout={"hidden": 0.5, "output": 0.5})
    except InputError:
        pytest.skip("no such head with tied weights")
    words = torch.randint(11, (4, 2))
    found = runtime(model, threads=1).stream(2).read(words).log_softmax(-1)
    wanted = model.eval().head.log_prob(model(words).raw)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_stream_leaves_the_model_in_training():
    model = language_model(layer="gru", dropout={"hidden": 0.5, "input": 0.5})
    model.layers.eval()
    before = {name: module.training for name, module in model.named_modules()}
    stream = runtime(model).stream(1)
    again = copy.deepcopy(model).eval()
    torch.testing.assert_close(stream.step([3]), again.head.logits(again(torch.tensor([[3]])).raw[0]))
    assert {name: module.training for name, module in model.named_modules()} == before
    assert any(before.values())
    assert not all(before.values())


# --- tables of strips -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [-1, 10, 1 << 40])
def test_a_table_whose_rows_lead_elsewhere(row):
    """`row` is a buffer, so that a file of weights can bring any number."""
    table = BlockEmbedding(10, 4, blocks=2, density=0.75)
    tensors = table.state_dict()
    tensors["row"] = torch.full_like(tensors["row"], row)
    table.load_state_dict(tensors)
    if not strip_kernel.takes(table.strips):
        pytest.skip("no kernels")
    with torch.no_grad():
        refused(lambda: table(torch.tensor([[3]])), "rows from 0 to 9")
    refused(lambda: table(torch.tensor([[3]])), "rows from 0 to 9")


@pytest.mark.parametrize(
    "call",
    [
        lambda strips: strip_kernel.lookup(strips, torch.tensor([0, 3])),
        lambda strips: strip_kernel.lookup(strips, torch.tensor([-1])),
        lambda strips: strip_kernel.lookup(strips, torch.tensor([0], dtype=torch.int32)),
        lambda strips: strip_kernel.lookup(strips, torch.tensor([[0]])),
        lambda strips: strip_kernel.lookup(strips[::-1], torch.tensor([0])),
        lambda strips: strip_kernel.lookup([strips[0][:, 0]], torch.tensor([0])),
        lambda strips: strip_kernel.add(strips, torch.tensor([3]), torch.zeros(1, 3)),
        lambda strips: strip_kernel.add(strips, torch.tensor([0]), torch.zeros(1, 2)),
        lambda strips: strip_kernel.add(strips, torch.tensor([0, 1]), torch.zeros(1, 3)),
        lambda strips: strip_kernel.scores(strips, torch.zeros(2, 2), torch.zeros(3)),
        lambda strips: strip_kernel.scores(strips, torch.zeros(2, 3), torch.zeros(2)),
        lambda strips: strip_kernel.scores(strips, torch.zeros(2, 3).double(), torch.zeros(3)),
    ],
)
def test_calls_that_do_not_fit_a_table(call):
    strips = [torch.ones(3, 1), torch.ones(1, 2)]
    if not strip_kernel.takes(strips):
        pytest.skip("no kernels")
    refused(lambda: call(strips))
