"""What the runtime compiles: every model, layer, head, embedding and form, held against the models and the docs."""

import re
from pathlib import Path

import pytest
import torch
from test_runtime import way  # noqa: F401 - a fixture

from sparsernn.core.errors import InputError
from sparsernn.deploy import StepRuntime, compare, gain, measure_latency, runtime
from sparsernn.deploy.latency import Entrant, compare_all
from sparsernn.kernels.weight_formats import FORMATS
from sparsernn.models import MODELS
from sparsernn.models.bidaf import BiDAF
from sparsernn.models.language_model import LanguageModel
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.models.tagger import BOTH_WAYS, Tagger
from sparsernn.nn import EMBEDDINGS, HEADS, LAYERS

DOCS = Path(__file__).parents[2] / "docs" / "deploy.md"
SETTINGS = {
    "onlstm": {"chunk_size": 2},
    "block_lstm": {"blocks": 2, "density": 0.5},
    "block": {"blocks": 2, "density": 0.75},
    "split": {"splits": [7, 12]},
}
V, E, INPUTS, BATCH = 20, 6, 3, 3


def spec(name):
    return {"name": name, **SETTINGS.get(name, {})}


def close(found, wanted, form):
    """Exact forms to rounding; 8 bits of small weights to what their levels are apart."""
    bound = 2e-5 if FORMATS[form].exact else 0.1
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=bound)


def language_models(layer):
    refused = []
    for embedding in EMBEDDINGS:
        for head in HEADS:
            for tied in (False, True):
                sizes = (V, E, [8, E if tied else 8])
                try:
                    torch.manual_seed(1)
                    yield (
                        LanguageModel(
                            *sizes, layer=spec(layer), head=spec(head), embedding=spec(embedding), tied=tied
                        ),
                        (embedding, head),
                    )
                except InputError:
                    refused.append((embedding, head, tied))
    assert refused == [("block", "split", True)]  # no such head decodes with strips


@torch.no_grad()
def check_language_model(model, form):
    words = torch.randint(V, (4, BATCH))
    wanted = model.eval().head.log_prob(model(words).raw)
    ready = runtime(model, products=form, threads=1)
    stream = ready.stream(BATCH)
    found = torch.cat([stream.read(words[:3]), stream.step(words[3]).unsqueeze(0)])
    close(found.log_softmax(-1), wanted, form)
    return isinstance(ready, StepRuntime)


@torch.no_grad()
def check_sequence_model(model, form):
    x, lengths = torch.randn(5, BATCH, INPUTS), [5, 1, 3]
    wanted = model.eval().read_out(model(x).raw)
    ready = runtime(model, products=form, threads=1)
    close(torch.stack(list(map(ready.stream(BATCH).step, x))), wanted, form)
    ragged, stream = ready.read(x, lengths), ready.stream(BATCH)
    close(torch.cat([ragged[:n, k] for k, n in enumerate(lengths)]), cut(wanted, lengths), form)
    torch.testing.assert_close(cut(stream.read(x, lengths), lengths), cut(ragged, lengths))
    alone = [
        model.read_out(model(torch.cat([x[:n, k], x[:1, k]]).unsqueeze(1)).raw[-1])
        for k, n in enumerate(lengths)
    ]
    close(stream.step(x[0]), torch.cat(alone), form)  # each went on from its own end
    return isinstance(ready, StepRuntime)


def cut(y, lengths):
    return torch.cat([y[:n, k] for k, n in enumerate(lengths)])


@torch.no_grad()
def check_tagger(model, form):
    words, lengths = torch.randint(V, (5, BATCH)), torch.tensor([5, 1, 3])
    wanted = model.eval()(words, lengths)
    ready = runtime(model, products=form, threads=1)
    close(cut(ready.tag(words, lengths), lengths.tolist()), cut(wanted, lengths.tolist()), form)
    return isinstance(ready, StepRuntime)


def forms_of(number):
    """All forms over the members; each member meets two."""
    names = list(FORMATS)
    return names[number % len(names)], names[(number + 3) % len(names)]


@pytest.mark.parametrize("layer", LAYERS)
def test_language_models(way, layer):  # noqa: F811
    found = {}
    for k, (model, parts) in enumerate(language_models(layer)):
        for form in forms_of(k)[: 1 if way == "twin" else 2]:
            found.setdefault(parts, set()).add(check_language_model(model, form))
    assert found == {(embedding, head): {True} for embedding in EMBEDDINGS for head in HEADS}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("layer", LAYERS)
def test_sequence_models(way, layer, form):  # noqa: F811
    torch.manual_seed(2)
    assert check_sequence_model(SequenceModel(INPUTS, 4, [8, 6], spec(layer)), form)


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("layer", BOTH_WAYS)
def test_taggers(way, layer, embedding):  # noqa: F811
    torch.manual_seed(3)
    for form in FORMATS:
        tagger = Tagger(V, 4, embedding_size=E, hidden_size=8, layer=spec(layer), embedding=spec(embedding))
        assert check_tagger(tagger, form)


def test_what_has_no_runtime_says_so():
    for model, said in (
        (BiDAF(V, 9, hidden_size=4), "a BiDAF has no vocabulary_size, so it cannot be read token by token"),
        (LanguageModel(V, E, [8], {"name": "qrnn", "reverse": True}), "reads backwards"),
        (SequenceModel(INPUTS, 4, [8], {"name": "qrnn", "reverse": True}), "reads backwards"),
    ):
        with pytest.raises(InputError, match=said):
            runtime(model)


def test_the_docs_have_this_matrix():
    """Rows: a model and its parts; the last cell says how it runs. No registry has a member that no row names."""
    text = DOCS.read_text(encoding="utf-8").partition("## Faster: the runtime")[2]
    rows = [re.findall(r"`(\w+)`", line) for line in text.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in row}
    for registry in (MODELS, LAYERS, HEADS, EMBEDDINGS, BOTH_WAYS, FORMATS):
        assert not set(registry) - told


def own(model):
    """The same computation by somebody else's layer."""

    class Own(type(model.layers[0])):
        """Not what the runtime knows."""

    model.layers[0].__class__ = Own
    return model.eval()


@torch.no_grad()
def test_models_with_a_layer_of_ones_own_run_through_their_own_forward_pass():
    sequences = own(SequenceModel(INPUTS, 4, [8, 6], "gru"))
    assert not check_sequence_model(sequences, "dense")
    assert "own forward pass" in runtime(sequences).describe()
    assert not check_tagger(own(Tagger(V, 4, embedding_size=E, hidden_size=8)), "dense")


@pytest.mark.parametrize("own_layer", [False, True], ids=["compiled", "own"])
def test_vectors_that_do_not_fit_are_refused(own_layer):
    model = SequenceModel(INPUTS, 4, [8], "gru")
    ready = runtime(own(model) if own_layer else model)
    good = torch.zeros(5, 2, INPUTS)
    stream = ready.stream(2)
    before = stream.read(good)
    for x in (
        good[0, 0],
        good[:, :, :2],
        good[:, :1],
        good + float("nan"),
        good / 0,
        good.cfloat(),
        [[0.0]],
        None,
    ):
        with pytest.raises(InputError, match="the vectors"):
            stream.read(x)
        with pytest.raises(InputError, match="the vectors"):
            stream.step(x if x is good else (x[0] if isinstance(x, torch.Tensor) else x))
    for lengths in ([5], [5, 6], [0, 5], [5, 2.0], [True, 5], torch.tensor([5, 7]), "52", 5):
        for read in (stream.read, ready.read):
            with pytest.raises(InputError, match="the lengths are"):
                read(good, lengths)
    for x in (good[:0], good[:, :0], good[0], None):
        with pytest.raises(InputError, match="the vectors are"):
            ready.read(x)
    again = ready.stream(2)
    again.read(good)
    for ours, theirs in zip(again.state, stream.state, strict=True):  # what was refused changed nothing
        torch.testing.assert_close(ours, theirs)
    assert stream.read(good[:0]).shape == (0, 2, 4)
    assert (
        stream.step(torch.full((2, INPUTS), 3e38)).shape == before[0].shape
    )  # finite, though the sum is not


def test_more_sequences_than_the_kernels_read_at_once():
    torch.manual_seed(0)
    model, x = SequenceModel(INPUTS, 4, [8], "qrnn"), torch.randn(6, 37, INPUTS)
    lengths = [1 + k % 6 for k in range(37)]
    with torch.no_grad():
        wanted = model.eval().read_out(model(x).raw)
    found = runtime(model, products="dense", threads=1).read(x, torch.tensor(lengths))
    torch.testing.assert_close(cut(found, lengths), cut(wanted, lengths), rtol=1e-4, atol=1e-5)


def test_every_model_is_timed_in_every_form():
    words = LanguageModel(V, E, [8])
    vectors = SequenceModel(INPUTS, 4, [8], "gru")
    tagger = Tagger(V, 4, embedding_size=E, hidden_size=8)
    names = ["torch", *FORMATS]
    for model, window in ((words, None), (words, 3), (vectors, None), (vectors, 3), (tagger, 5)):
        rows = compare(model, products=tuple(FORMATS), threads=1, repeats=1, window=window)
        assert [row["runtime"] for row in rows] == names
        assert {row.get("window") for row in rows} == {window}
        assert gain(rows).startswith("batch 1: ")
    with pytest.raises(InputError, match="say how many words a window has"):
        compare(tagger, products=("dense",), repeats=1)
    with pytest.raises(InputError, match="the candidates read vectors and words"):
        measure_latency({"a": words, "b": vectors}, repeats=1)


def test_forms_of_blocks_take_part_where_there_are_blocks():
    torch.manual_seed(0)
    model = SequenceModel(INPUTS, 4, [16], "gru")
    assert Entrant(model).forms() == ("dense", "dense_int8", "csr", "csr_int8")
    with torch.no_grad():
        model.layers[0].weight_hh[:, ::2] = 0
    assert Entrant(model).forms() == tuple(FORMATS)


def test_several_models_take_turns(monkeypatch):
    models = [Entrant(SequenceModel(inputs, 4, [size])) for inputs, size in ((2, 8), (3, 6))]
    calls, reads = [], SequenceModel.forward

    def read(self, x, state=None):
        calls.append(self.layers[0].hidden_size)
        return reads(self, x, state)

    monkeypatch.setattr(SequenceModel, "forward", read)
    found = compare_all(models, products=(), repeats=2)
    assert [[row["runtime"] for row in rows] for rows in found] == [["torch"], ["torch"]]
    assert calls == 3 * [8, 8, 8, 8, 6, 6, 6, 6]
