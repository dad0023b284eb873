"""Whole sequences as graphs: every layer x head x embedding, at lengths and batches that were not seen at export.

The cases are made from the registries: a new member is tried with its default settings, and has to be written or to
be refused in a sentence. tests/tasks/test_task_graphs.py has every task.
"""

import itertools
import json

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.core.registry import make
from sparsernn.core.states import rebuilt, tensors
from sparsernn.deploy.graph_export import SCANS_FROM, export
from sparsernn.deploy.graphs.onnx_graph import NEWEST, OLDEST
from sparsernn.models.bidaf import BiDAF, Text
from sparsernn.models.language_model import LanguageModel
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.models.tagger import BOTH_WAYS, Tagger
from sparsernn.nn import EMBEDDINGS, HEADS, LAYERS, TIED_HEADS, Stack
from sparsernn.nn.cells.elman import NONLINEARITIES
from sparsernn.nn.drive.cell import Cell
from sparsernn.nn.drive.recurrent import Recurrent
from sparsernn.nn.maps import MAPS

TOO_OLD = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < SCANS_FROM

CLOSE = 1e-5
SIZES = (
    (1, 1),
    (7, 5),
    (50, 1),
    (50, 5),
)  # (T, B); files are compared at (7, 3) and (1, 1) and traced at (3, 2)
SMALL = {"onlstm": {"chunk_size": 4}, "rhn": {"depth": 3}, "block": {"blocks": 4}}


def small(name):
    return {"name": name, **SMALL.get(name, {})}


MORE_LAYERS = [
    *({"name": "elman", "map": name, "nonlinearity": "modrelu"} for name in MAPS),
    *({"name": "elman", "nonlinearity": name, "learn_initial_state": True} for name in NONLINEARITIES),
    {"name": "elman", "input_bias": False},
    {"name": "rhn", "depth": 2, "coupled": False, "transform_bias": -2.0},
    {"name": "rhn", "depth": 1, "learn_initial_state": True},
    {"name": "onlstm", "chunk_size": 2, "weight_drop": 0.4},
    *({"name": "qrnn", "window": 3, "pooling": p, "zoneout": 0.2} for p in ("f", "fo", "ifo")),
    {"name": "qrnn", "window": 2, "reverse": True},
    {"name": "block_lstm", "blocks": [[3, 0, 5], [5, 2, 8]]},
]
MORE_HEADS = [
    {"name": "mixture", "experts": 3, "floor": 1e-3},
    {"name": "mixture", "experts": 1},
    {"name": "mixture", "experts": 2, "projection": "never"},
    {"name": "split", "splits": [3, 9]},
]


def language_model(layer="lstm", head="linear", embedding="dense", tied=False, width=8, hidden=8):
    torch.manual_seed(0)
    return LanguageModel(
        20, width, [hidden, hidden], layer=layer, head=head, embedding=embedding, tied=tied
    ).eval()


def tame(model):
    """With half the weights: states that grow without bound over 50 steps cannot be compared to 1e-5."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 0.5
    return model


def onnx_runner(path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: [
        torch.from_numpy(out) for out in session.run(None, {k: t.numpy() for k, t in inputs.items()})
    ]


def pt2_runner(path):
    loaded = torch.export.load(path).module()
    return lambda inputs: list(tensors(loaded(*inputs.values())))


RUNNERS = {".onnx": onnx_runner, ".pt2": pt2_runner}


def ragged(steps, batch):
    return torch.cat([torch.tensor([steps]), torch.randint(1, steps + 1, (batch - 1,))])


def write(model, path, **settings):
    if path.suffix == ".onnx":
        pytest.importorskip("onnx", reason="needs the extra onnx")
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    done = export(model, path, graph="sequence", **settings)
    assert done.difference < CLOSE
    return RUNNERS[path.suffix](path)


@torch.no_grad()
def assert_alike(model, run):
    """The file's answers and states against those of each sequence read alone, without padding, by the model."""
    model.eval()
    for steps, batch in SIZES:
        lengths = ragged(steps, batch)
        words = model.reads == "words"
        read = (
            torch.randint(20, (steps, batch))
            if words
            else torch.randn(steps, batch, model.layers[0].input_size)
        )
        state = [torch.randn(batch, *t.shape[1:]) for t in tensors(model.initial_state(1))]
        given = {"words" if words else "x": read, "lengths": lengths}
        said, *after = run(given | {f"state.{k}": t for k, t in enumerate(state)})
        for b, length in enumerate(lengths.tolist()):
            own = [t[b : b + 1] for t in state]
            found = model(read[:length, b : b + 1], rebuilt(model.initial_state(1), iter(own)))
            torch.testing.assert_close(
                said[:length, b : b + 1], next(model.answers(found)), atol=CLOSE, rtol=CLOSE
            )
            for ours, theirs in zip(tensors(found.state), after, strict=True):
                torch.testing.assert_close(theirs[b : b + 1], ours, atol=CLOSE, rtol=CLOSE)


CASES = [
    (layer, head, embedding, tied)
    for layer, head, embedding, tied in itertools.product(LAYERS, HEADS, EMBEDDINGS, (False, True))
    if not tied or head in TIED_HEADS.get(embedding, HEADS)
]


@pytest.mark.parametrize(("layer", "head", "embedding", "tied"), CASES)
def test_every_layer_with_every_head_and_embedding(tmp_path, layer, head, embedding, tied):
    model = language_model(small(layer), small(head), small(embedding), tied)
    assert_alike(model, write(model, tmp_path / "m.onnx"))


@pytest.mark.parametrize("layer", MORE_LAYERS, ids=str)
def test_settings_of_layers(tmp_path, layer):
    torch.manual_seed(0)
    model = tame(SequenceModel(8, 3, [8, 8], layer=layer))
    assert_alike(model, write(model, tmp_path / "m.onnx"))


@pytest.mark.parametrize("head", MORE_HEADS, ids=str)
def test_settings_of_heads(tmp_path, head):
    model = language_model(head=head, width=4)
    assert_alike(model, write(model, tmp_path / "m.onnx"))


@pytest.mark.parametrize("opset", [OLDEST, 17, 21, NEWEST])
def test_versions_of_the_operators(tmp_path, opset):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    layers = [small(name) for name in ("rhn", "onlstm", "qrnn", "block_lstm", "gru")]
    model = LanguageModel(20, 8, [8] * 5, layer=layers, head={"name": "mixture", "experts": 2}).eval()
    assert_alike(model, write(model, tmp_path / "m.onnx", opset=opset))
    graph = onnx.load(tmp_path / "m.onnx")
    assert graph.opset_import[0].version == opset
    onnx.checker.check_model(graph, full_check=True)


@torch.no_grad()
def assert_tags_alike(model, run):
    model.eval()
    for steps, batch in SIZES:
        lengths, words = ragged(steps, batch), torch.randint(9, (steps, batch))
        (scores,) = run({"words": words, "lengths": lengths})
        for b, length in enumerate(lengths.tolist()):
            wanted = model(words[:length, b : b + 1])
            torch.testing.assert_close(scores[:length, b : b + 1], wanted, atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize(("layer", "embedding"), list(itertools.product(BOTH_WAYS, EMBEDDINGS)))
def test_taggers_read_from_both_ends(tmp_path, layer, embedding):
    torch.manual_seed(0)
    model = Tagger(9, 3, 8, 6, layers=2, layer=layer, embedding=small(embedding))
    assert_tags_alike(model, write(model, tmp_path / "m.onnx"))


def bidaf():
    torch.manual_seed(0)
    widths = {"phrase": [5, 4], "first": [3, 4], "second": [4, 2], "end": [2, 3]}
    cnn = {"embedding_size": 3, "filters": 4, "width": 3}
    model = BiDAF(20, 9, fixed_words=4, word_size=6, hidden_size=widths, character_cnn=cnn)
    model.words.fixed.normal_()
    return model.eval()


@torch.no_grad()
def assert_points_alike(model, run):
    for steps, batch in SIZES:
        given = {}
        for text, count in (("context", steps), ("question", steps // 2 + 1)):
            given[f"{text}.words"] = torch.randint(24, (count, batch))
            given[f"{text}.characters"] = torch.randint(9, (count, batch, 6))
            given[f"{text}.lengths"] = ragged(count, batch)
        found = run(given)
        for b in range(batch):
            texts = []
            for text in ("context", "question"):
                words, characters, lengths = (
                    given[f"{text}.{part}"] for part in ("words", "characters", "lengths")
                )
                own = lengths[b : b + 1]
                texts.append((words[:own, b : b + 1], characters[:own, b : b + 1], own))
            for ours, theirs in zip(model(*(Text(*t) for t in texts)), found, strict=True):
                torch.testing.assert_close(theirs[b : b + 1, : ours.shape[1]], ours, atol=CLOSE, rtol=CLOSE)


def test_bidaf(tmp_path):
    model = bidaf()
    assert_points_alike(model, write(model, tmp_path / "m.onnx"))


# Tracing a step takes seconds for each layer: one here, the others under slow.
def test_pt2(tmp_path):
    model = SequenceModel(3, 2, [4])
    if TOO_OLD:
        with pytest.raises(InputError, match=r"whole sequences in a \.pt2 file need torch"):
            write(model, tmp_path / "m.pt2")
        return
    assert_alike(model, write(model, tmp_path / "m.pt2"))


@pytest.mark.slow
@pytest.mark.parametrize("layer", [*map(small, LAYERS), *MORE_LAYERS], ids=str)
def test_pt2_of_every_layer(tmp_path, layer):
    torch.manual_seed(0)
    model = tame(SequenceModel(8, 3, [8], layer=layer))
    assert_alike(model, write(model, tmp_path / "m.pt2"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "embedding", "tied"), sorted({case[1:] for case in CASES}), ids=lambda part: str(part)
)
def test_pt2_of_every_head_and_embedding(tmp_path, head, embedding, tied):
    model = language_model("gru", small(head), small(embedding), tied)
    assert_alike(model, write(model, tmp_path / "m.pt2"))


@pytest.mark.slow
@pytest.mark.parametrize("layer", BOTH_WAYS)
def test_pt2_of_taggers(tmp_path, layer):
    model = Tagger(9, 3, 8, 6, layer=layer, embedding=small("block"))
    assert_tags_alike(model, write(model, tmp_path / "m.pt2"))


@pytest.mark.slow
def test_pt2_of_bidaf(tmp_path):
    model = bidaf()
    assert_points_alike(model, write(model, tmp_path / "m.pt2"))


def test_a_mask_and_a_tie_are_in_the_file(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    model = language_model(tied=True)
    with torch.no_grad():
        model.embedding.weight[3:] = 0
    write(model, tmp_path / "m.onnx", facts={"tokens": {"vocabulary": ["a"]}})
    graph = onnx.load(tmp_path / "m.onnx")
    tables = {t.name: onnx.numpy_helper.to_array(t) for t in graph.graph.initializer}
    assert sum(t.shape == (20, 8) for t in tables.values()) == 1, "a tied weight is stored once"
    assert not tables["embedding.weight"][3:].any()
    told = {p.key: json.loads(p.value) for p in graph.metadata_props}
    assert told["tokens"] == {"vocabulary": ["a"]}
    assert (told["graph"], told["reads"]) == ("sequence", "words")
    assert list(told["start"]) == ["state.0", "state.1", "state.2", "state.3"]


def test_strips_are_stored_as_they_are(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    model = language_model(embedding=small("block"), tied=True)
    write(model, tmp_path / "m.onnx")
    tables = {t.name: tuple(t.dims) for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    strips = {f"embedding.strip_{k}": tuple(strip.shape) for k, strip in enumerate(model.embedding.strips)}
    assert strips.items() <= tables.items()
    assert (20, 8) not in tables.values()


class Leaky(Cell):
    input_size = hidden_size = 8

    def project(self, x):
        return x

    def step(self, u, state):
        return (0.5 * state[0] + u,)


def leaky():
    model = SequenceModel(8, 3, [8])
    model.layers = Stack([Recurrent(Leaky())])
    return model


@pytest.mark.slow
def test_pt2_takes_any_cell(tmp_path):
    model = leaky()
    assert_alike(model, write(model, tmp_path / "m.pt2"))


def test_a_layer_that_nothing_writes_is_refused(tmp_path):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    model = leaky()
    with pytest.raises(
        InputError, match=r"Leaky cannot be written as an ONNX graph .* \.pt2, or --graph step"
    ):
        export(model, tmp_path / "m.onnx", graph="sequence")
    assert not list(tmp_path.iterdir())


class Wider(type(make("layer", LAYERS, "lstm", input_size=1, hidden_size=1))):
    """An LSTM that does something else."""


def test_what_derives_from_a_layer_is_another_layer(tmp_path):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    model = SequenceModel(8, 3, [8])
    model.layers = Stack([Wider(8, 8)])
    with pytest.raises(InputError, match="Wider cannot be written"):
        export(model, tmp_path / "m.onnx", graph="sequence")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"graph": "loop"}, "graph is 'loop'; it must be step or sequence"),
        ({"opset": 12}, "opset is 12; it must be "),
        ({"opset": 99}, "opset is 99; it must be "),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        export(SequenceModel(3, 2, [4]), tmp_path / "m.onnx", **settings)


def test_an_opset_is_for_onnx(tmp_path):
    with pytest.raises(InputError, match=r"opset is 18, and 'm.pt2' is no ONNX file"):
        export(SequenceModel(3, 2, [4]), tmp_path / "m.pt2", opset=18)


def test_an_older_torch_says_what_works(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsernn.deploy.graph_export.SCANS_FROM", (99, 0))
    with pytest.raises(InputError, match=r"need torch 99.0 or newer.*write an .onnx file, or --graph step"):
        export(SequenceModel(3, 2, [4]), tmp_path / "m.pt2", graph="sequence")


def test_other_modules_are_refused(tmp_path):
    with pytest.raises(InputError, match="a Linear is no model of this library"):
        export(torch.nn.Linear(2, 2), tmp_path / "m.pt2", graph="sequence")
