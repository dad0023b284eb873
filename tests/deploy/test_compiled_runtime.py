"""The compiled runtime, every layer and head: what the model says, exact and rounded, on twins and compiled."""

import pytest
import torch
from test_runtime import EXACT, ROUNDED, oracle, way  # noqa: F401 - a fixture

from sparsernn.core.errors import InputError
from sparsernn.deploy import CompiledRuntime, ModuleRuntime, TaggerRuntime, runtime
from sparsernn.kernels.weight_formats import FORMATS
from sparsernn.models.language_model import LanguageModel
from sparsernn.models.tagger import Tagger

V, E = 57, 18
LAYER_SPECS = {
    "lstm": {"name": "lstm"},
    "gru": {"name": "gru"},
    "rhn": {"name": "rhn", "depth": 3},
    "rhn free": {"name": "rhn", "depth": 2, "coupled": False, "learn_initial_state": True},
    "onlstm": {"name": "onlstm", "chunk_size": 3, "weight_drop": 0.4},
    "onlstm rescaled": {"name": "onlstm", "chunk_size": 6, "weight_drop": 0.4, "rescale_drop": True},
    "elman": {"name": "elman"},
    "elman relu": {"name": "elman", "nonlinearity": "relu", "input_bias": False},
    "elman linear": {"name": "elman", "nonlinearity": "none"},
    "elman orthogonal": {
        "name": "elman",
        "nonlinearity": "modrelu",
        "map": "orthogonal",
        "learn_initial_state": True,
    },
    "qrnn": {"name": "qrnn"},
    "qrnn f": {"name": "qrnn", "window": 2, "pooling": "f"},
    "qrnn ifo": {"name": "qrnn", "window": 3, "pooling": "ifo", "zoneout": 0.25},
    "block_lstm": {"name": "block_lstm", "blocks": 3, "density": 0.5},
}
HEAD_SPECS = {
    "linear": {"name": "linear"},
    "mixture": {"name": "mixture", "experts": 3},
    "mixture with a floor": {"name": "mixture", "experts": 2, "floor": 1e-3},
    "mixture of parts": {"name": "mixture", "experts": 2, "projection": "never"},
    "mixture of one": {"name": "mixture", "experts": 1},
    "split": {"name": "split", "splits": [20, 41]},
    "split into one": {"name": "split", "splits": []},
}


def made(layer="lstm", head="linear", tied=False, density=0.5):
    """Gates far from linear, what feeds itself short of chaos; (model, masks)."""
    torch.manual_seed(4)
    parts = 2 if head == "mixture of parts" else 1
    spec = HEAD_SPECS[head]
    model = LanguageModel(
        V, E, [24, parts * E], layer=LAYER_SPECS[layer], head=spec, tied=tied, dropout={"output": 0.5}
    )
    gain = 1.2 if layer.split()[0] in ("elman", "rhn") else 3
    masks = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "map" in name and layer == "elman orthogonal":
                continue
            p.mul_(gain) if p.ndim > 1 else p.uniform_(-0.5, 0.5)
            if p.ndim == 2:
                masks[name] = torch.rand(p.shape) < density
                p.mul_(masks[name])
    return model.train(), masks


@torch.no_grad()
def said(model, words):
    training = model.training
    features = model.eval()(words)
    score = getattr(model.head, "logits", model.head.log_prob)
    model.train(training)
    return score(features.raw), features.state


def flat(state):
    return [part for layer in state for part in layer]


def assert_says(model, masks, batch, **settings):
    words = torch.randint(V, (7, batch))
    wanted, state = said(model, words)
    ready = runtime(model, masks, threads=1, **settings)
    assert isinstance(ready, CompiledRuntime)
    stream = ready.stream(batch)
    steps = torch.stack([stream.step(row) for row in words[:4]])
    found = torch.cat([steps, stream.read(words[4:])])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5)
    for own, correct in zip(flat(stream.state), flat(state), strict=True):
        torch.testing.assert_close(own, correct, rtol=1e-5, atol=2e-5)
    assert model.training


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layer", LAYER_SPECS)
def test_every_layer_says_what_the_model_says(way, layer, batch):  # noqa: F811
    assert_says(*made(layer), batch, products="csr" if batch == 1 else "dense")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("head", HEAD_SPECS)
def test_every_head_says_what_the_model_says(way, head, tied):  # noqa: F811
    assert_says(*made("gru", head, tied), 4, products="block16")


@pytest.mark.parametrize("product", EXACT)
@pytest.mark.parametrize("batch", [1, 8, 16])
def test_every_exact_format_and_width(way, product, batch):  # noqa: F811
    assert_says(*made("rhn", "mixture"), batch, products=product)


@pytest.mark.parametrize("product", ROUNDED)
@pytest.mark.parametrize("layer", LAYER_SPECS)
def test_rounded_formats_say_what_the_rounded_model_says(way, layer, product):  # noqa: F811
    model, masks = made(layer)
    ready = runtime(model, masks, products=product, threads=1)
    words = torch.randint(V, (6, 2))
    exact, _ = said(model, words)
    with torch.no_grad():
        for name, held in ready.held.items():
            if name.endswith(".map") or name not in dict(model.named_parameters()):
                continue  # a computed map has no parameter to put its rounded matrix into
            scale = (
                0.6 if layer == "onlstm" and "weight_hh" in name else 1
            )  # see ONLSTMCell: its evaluation's weight
            model.get_parameter(name).copy_(held.restored() / scale)
    found = ready.stream(2).read(words)
    computed = layer == "elman orthogonal"
    torch.testing.assert_close(found, said(model, words)[0], rtol=1e-3, atol=0.2 if computed else 2e-3)
    assert (found - exact).abs().max() > 1e-4


@pytest.mark.parametrize("layer", LAYER_SPECS)
def test_a_state_goes_from_stream_to_stream_and_comes_from_the_model(layer):
    model, masks = made(layer)
    words = torch.randint(V, (6, 2))
    wanted, _ = said(model, words)
    ready = runtime(model, masks, products="dense", threads=1)
    stream = ready.stream(2)
    stream.state = said(model, words[:3])[1]
    torch.testing.assert_close(stream.read(words[3:]), wanted[3:], rtol=1e-5, atol=2e-5)
    with pytest.raises(InputError, match="the state does not fit: it must be finite tensors"):
        stream.state = [[t[:1] for t in layer] for layer in stream.state]


def test_two_threads_say_the_same():
    for layer in LAYER_SPECS:
        model, masks = made(layer, "split" if layer == "gru" else "mixture")
        words = torch.randint(V, (5, 1))
        one, two = (runtime(model, masks, products="csr", threads=n).stream().read(words) for n in (1, 2))
        torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@pytest.mark.parametrize("layer", ["lstm", {"name": "block_lstm", "blocks": 3, "density": 0.5}], ids=str)
def test_taggers_read_whole_sentences(way, layer, ragged):  # noqa: F811
    torch.manual_seed(0)
    model = Tagger(40, 5, embedding_size=12, hidden_size=9, layers=2, layer=layer, dropout={"hidden": 0.5})
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    words = torch.randint(40, (9, 3))
    lengths = torch.tensor([9, 1, 6]) if ragged else None
    with torch.no_grad():
        wanted = model.eval()(words, lengths)
    ready = runtime(model, products="dense", threads=1)
    assert isinstance(ready, TaggerRuntime)
    for _ in range(2):  # nothing is left of the sentences before
        found = ready.tag(words, lengths)
        inside = torch.arange(9).unsqueeze(1) < (torch.tensor([9, 9, 9]) if lengths is None else lengths)
        torch.testing.assert_close(found[inside], wanted[inside], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ready.tag(words[:2, :1]), model(words[:2, :1]).detach(), rtol=1e-5, atol=1e-5)


def test_taggers_refuse_what_is_no_sentence():
    ready = runtime(Tagger(40, 5, embedding_size=12, hidden_size=9), threads=1)
    good = torch.zeros(4, 2, dtype=torch.int64)
    for words in (good + 40, good - 1, good.float(), good[0], good[:0], [[1]], None):
        with pytest.raises(InputError, match="a tagger reads int64"):
            ready.tag(words)
    for lengths in (torch.tensor([5, 1]), torch.tensor([0, 1]), torch.tensor([1]), [1, 2], torch.ones(2)):
        with pytest.raises(InputError, match="the lengths are"):
            ready.tag(good, lengths)
    with pytest.raises(InputError, match="batch is 17"):
        ready.tag(torch.zeros(4, 17, dtype=torch.int64))
    with pytest.raises(InputError, match="no stream of words"):
        ready.stream()


def test_a_version_of_ones_own_goes_its_own_way():
    model, _ = made("gru")

    class Own(type(model.layers[0])):
        """Not what the runtime knows."""

    model.layers[0].__class__ = Own
    assert isinstance(runtime(model), ModuleRuntime)


def test_what_does_not_fit_is_refused_before_anything():
    model, masks = made("rhn")
    name = "layers.0.cell.weight_hh_1"
    with pytest.raises(InputError, match="there is a mask for 'odd'"):
        runtime(model, {"odd": torch.ones(2, 2)})
    with pytest.raises(InputError, match="there is a product for 'odd'"):
        runtime(model, products={"odd": "dense"})
    with pytest.raises(InputError, match=r"weight_hh_1 is not 0 where its mask says absent"):
        runtime(model, {name: torch.zeros_like(masks[name])})
    with pytest.raises(InputError, match="product is 'csc'"):
        runtime(model, products="csc")
    with pytest.raises(InputError, match="threads is 0"):
        runtime(model, threads=0)
    with torch.no_grad():
        model.get_parameter(name)[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"weight_hh_1 has numbers that are not finite"):
        runtime(model)
    assert model.training


def test_auto_chooses_for_every_matrix_of_every_layer():
    for layer in LAYER_SPECS:
        model, masks = made(layer)
        ready = runtime(model, masks, threads=1)
        assert set(ready.formats().values()) <= set(FORMATS)
        assert len(ready.formats()) >= 3
        assert ready.describe().startswith(("compiled, 1 thread(s): ", "torch, 1 thread(s): "))
