"""The runtime says what the model says, for every format, batch and both ways of computing."""

import pytest
import torch

from sparsernn import kernels
from sparsernn.core.errors import InputError
from sparsernn.deploy import (
    CompiledRuntime,
    LSTMRuntime,
    ModuleRuntime,
    autotune,
    layer_steps,
    pack,
    runtime,
    unpack,
)
from sparsernn.kernels import FORMATS
from sparsernn.kernels.weight_formats import padded
from sparsernn.models.language_model import LanguageModel

EXACT = [name for name, form in FORMATS.items() if form.exact]
ROUNDED = [name for name, form in FORMATS.items() if not form.exact]


@pytest.fixture(params=["twin", "compiled"])
def way(request, monkeypatch):
    """Runs a test on the twins and on the compiled kernels."""
    if request.param == "twin":
        monkeypatch.setenv("SPARSERNN_NO_KERNELS", "1")
        return "twin"
    monkeypatch.delenv("SPARSERNN_NO_KERNELS", raising=False)
    if not kernels.available():
        pytest.skip(kernels.describe())
    return "compiled"


def sparse_model(hidden=(24, 20), tied=False, density=0.4, seed=0):
    """A language model with large weights (so that gates saturate) and masks on every matrix."""
    torch.manual_seed(seed)
    model = LanguageModel(57, hidden[-1] if tied else 18, list(hidden), tied=tied, dropout={"hidden": 0.5})
    masks = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(4)
            if p.ndim == 2:
                masks[name] = torch.rand(p.shape) < density
                p.mul_(masks[name])
    return model.eval(), masks


@torch.no_grad()
def oracle(model, words):
    features = model(words)
    return model.head.logits(features.raw), features.state


@pytest.mark.parametrize("product", EXACT)
@pytest.mark.parametrize("batch", [1, 2, 7, 16])
@pytest.mark.parametrize("tied", [False, True])
def test_exact_formats_say_what_the_model_says(way, product, batch, tied):
    model, masks = sparse_model(tied=tied)
    words = torch.randint(57, (9, batch))
    wanted, state = oracle(model, words)
    stream = LSTMRuntime(model.state_dict(), masks, products=product, threads=1).stream(batch)
    torch.testing.assert_close(stream.read(words), wanted, rtol=1e-5, atol=1e-5)
    for found, correct in zip(stream.state, state, strict=True):
        torch.testing.assert_close(found, correct, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("product", ROUNDED)
@pytest.mark.parametrize("batch", [1, 5])
def test_rounded_formats_say_what_the_rounded_model_says(way, product, batch):
    model, masks = sparse_model()
    ready = LSTMRuntime(model.state_dict(), masks, products=product, threads=1)
    rounded = {name: held.restored() for name, held in ready.held.items()}
    words = torch.randint(57, (9, batch))
    exact, _ = oracle(model, words)
    model.load_state_dict({**model.state_dict(), **rounded})
    wanted, _ = oracle(model, words)
    found = ready.stream(batch).read(words)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)  # inputs are rounded to 15 bits
    assert (found - exact).abs().max() > 1e-4  # and it is not the exact model in disguise


def test_three_layers_of_odd_sizes_and_auto(way):
    model, masks = sparse_model(hidden=(17, 33, 5))
    words = torch.randint(57, (6, 3))
    stream = runtime(model, masks, batch=3).stream(3)
    torch.testing.assert_close(stream.read(words), oracle(model, words)[0], rtol=1e-5, atol=1e-5)


def test_state_can_be_kept_and_put_back(way):
    model, masks = sparse_model()
    words = torch.randint(57, (8, 2))
    ready = LSTMRuntime(model.state_dict(), masks, threads=1)
    first, second = ready.stream(2), ready.stream(2)
    first.read(words[:4])
    second.state = first.state
    assert torch.equal(first.read(words[4:]), second.read(words[4:]))
    wanted, _ = oracle(model, words)
    third = ready.stream(2)
    third.state = oracle(model, words[:4])[1]  # the model's own state is understood
    torch.testing.assert_close(third.read(words[4:]), wanted[4:], rtol=1e-5, atol=1e-5)


def test_results_do_not_change_behind_the_callers_back(way):
    model, masks = sparse_model()
    stream = LSTMRuntime(model.state_dict(), masks, threads=1).stream()
    scores, state = stream.step([3]), stream.state
    kept, (h, _) = scores.clone(), state[0]
    before = h.clone()
    stream.step([4])
    assert torch.equal(scores, kept)
    assert torch.equal(h, before)


def test_saturated_gates_stay_finite(way):
    model, _ = sparse_model()
    state = {name: 1000 * t for name, t in model.state_dict().items()}
    words = torch.randint(57, (5, 1))
    model.load_state_dict(state)
    found = LSTMRuntime(state, threads=1).stream().read(words)
    torch.testing.assert_close(found, oracle(model, words)[0], rtol=1e-4, atol=1.0)


def test_thread_numbers_agree():
    model, masks = sparse_model(hidden=(70, 50))
    words = torch.randint(57, (6, 1))
    for product in EXACT:
        each = [LSTMRuntime(model.state_dict(), masks, products=product, threads=n) for n in (1, 2)]
        scores = [ready.stream().read(words) for ready in each]
        openmp = each[0].library is not None and each[0].library.openmp
        assert [ready.threads for ready in each] == ([1, 2] if openmp else [1, 1])
        assert torch.equal(scores[0], scores[1])


def test_from_a_packed_file(tmp_path):
    model, masks = sparse_model(tied=True)
    pack(model.state_dict(), masks, tmp_path / "m")
    words = torch.randint(57, (6, 1))
    found = runtime(unpack(tmp_path / "m")).stream().read(words)
    torch.testing.assert_close(found, oracle(model, words)[0], rtol=1e-5, atol=1e-5)


def test_other_models_run_through_their_own_forward_pass():
    model, _ = sparse_model()

    class Renamed(type(model.layers[0])):
        """A layer that the runtime can't know."""

    model.layers[0].__class__ = Renamed
    ready = runtime(model)
    assert isinstance(ready, ModuleRuntime)
    words = torch.randint(57, (6, 2))
    stream = ready.stream(2)
    torch.testing.assert_close(stream.read(words), oracle(model, words)[0])
    assert len(stream.state) == 2


def test_auto_takes_the_fastest_and_int8_only_when_allowed(monkeypatch):
    weight = torch.randn(64, 40) * (torch.rand(4, 40) < 0.2).repeat_interleave(16, 0)
    assert autotune.candidates(weight, None, False) == ["dense", "csr", "block16"]
    assert autotune.candidates(weight, None, True)[3:] == ["dense_int8", "csr_int8", "block16_int8"]
    assert autotune.candidates(torch.randn(64, 40), None, False) == ["dense"]
    monkeypatch.setattr(autotune, "fastest", lambda held: "csr")
    assert isinstance(autotune.hold(weight, None, "auto", int8=False, batch=1), FORMATS["csr"])


@pytest.mark.parametrize(("int8", "batch"), [(False, 1), (True, 5)])
def test_formats_are_timed_with_the_streams_and_the_rounding_that_are_asked_for(monkeypatch, int8, batch):
    asked = []

    def hold(weight, mask, product, **how):
        asked.append((product, how))
        return autotune.hold(weight, mask, "dense", **how)

    monkeypatch.setattr(layer_steps, "hold", hold)
    model, masks = sparse_model()
    LSTMRuntime(model.state_dict(), masks, int8=int8, batch=batch, threads=1)
    assert asked == [("auto", {"int8": int8, "batch": padded(batch)})] * 5
    assert padded(batch) >= batch


def test_products_by_name_per_weight():
    model, masks = sparse_model()
    names = {"layers.0.weight_hh": "csr", "head.weight": "dense"}
    ready = LSTMRuntime(model.state_dict(), masks, products=names, threads=1)
    assert isinstance(ready.held["layers.0.weight_hh"], FORMATS["csr"])
    assert isinstance(ready.held["head.weight"], FORMATS["dense"])
    assert "layers.0.weight_hh csr" in ready.describe()


def test_a_tied_matrix_is_held_once():
    model, masks = sparse_model(tied=True)
    size = {
        p: LSTMRuntime(model.state_dict(), masks, products=p, threads=1).bytes for p in ("csr", "block16")
    }
    once = LSTMRuntime(model.state_dict(), masks, products="csr", threads=1)
    assert once.held["embedding.weight"] is once.held["head.weight"]
    assert size["block16"] > size["csr"]


def test_bad_input_is_named():
    model, _ = sparse_model()
    state = model.state_dict()
    with pytest.raises(InputError, match=r"layers\.1\.bias_hh"):
        LSTMRuntime({name: t for name, t in state.items() if name != "layers.1.bias_hh"})
    with pytest.raises(InputError, match=r"layers\.0\.weight_ih has shape"):
        LSTMRuntime({**state, "layers.0.weight_ih": torch.zeros(3, 3)})
    with pytest.raises(InputError, match="'csc'"):
        LSTMRuntime(state, products="csc")
    ready = LSTMRuntime(state, threads=1)
    for words in ([57], [-1], [1, 2], []):
        with pytest.raises(InputError, match="ids from 0 to 56"):
            ready.stream().step(words)
    with pytest.raises(InputError, match="batch is 17"):
        ready.stream(17)


@torch.no_grad()
def test_a_model_with_a_hook_runs_through_its_own_forward_pass():
    model = LanguageModel(12, 5, [6], layer="lstm").eval()
    assert isinstance(runtime(model), CompiledRuntime)
    handle = model.layers[0].register_forward_hook(lambda module, given, made: (0 * made[0], made[1]))
    reader = runtime(model)
    assert not isinstance(reader, CompiledRuntime)
    wanted = model.head.bias.log_softmax(0)
    torch.testing.assert_close(reader.stream().step([3])[0].log_softmax(0), wanted)
    handle.remove()
    assert isinstance(runtime(model), CompiledRuntime)
