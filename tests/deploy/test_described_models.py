"""Packed files say what they are the weights of: the runtime of a file is the runtime of the model."""

import copy
import json

import pytest
import torch
from test_runtime_matrix import BATCH, INPUTS, E, V, cut, language_models, spec

from sparsernn.core.errors import InputError
from sparsernn.deploy import StepRuntime, compact, pack, read_packed, runtime, unpack
from sparsernn.deploy.described_models import described
from sparsernn.models.bidaf import BiDAF
from sparsernn.models.language_model import LanguageModel
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.models.tagger import BOTH_WAYS, Tagger
from sparsernn.nn import EMBEDDINGS, LAYERS
from sparsernn.nn.maps import MAPS


@torch.no_grad()
def said(ready):
    """What a runtime says of something to read."""
    torch.manual_seed(5)
    words, x, lengths = torch.randint(V, (4, BATCH)), torch.randn(4, BATCH, INPUTS), [4, 2, 1]
    if hasattr(ready, "tag"):
        return cut(ready.tag(words, torch.tensor(lengths)), lengths)
    if hasattr(ready, "read"):
        return cut(ready.read(x, lengths), lengths)
    return ready.stream(BATCH).read(words)


def check(model, path, values="float32"):
    masks = {
        n: torch.rand(p.shape) < 0.6 for n, p in model.named_parameters() if p.ndim == 2 and "map" not in n
    }
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    pack(model.eval(), masks, path, values=values)
    before = torch.get_rng_state()
    found = runtime(unpack(path), products="dense", threads=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(found, StepRuntime)
    if values != "float32":
        model.load_state_dict(unpack(path))
    wanted = runtime(model, products="dense", threads=1)
    torch.testing.assert_close(said(found), said(wanted), rtol=0, atol=0)


@pytest.mark.parametrize("layer", LAYERS)
def test_language_models(tmp_path, layer):
    for k, (model, _) in enumerate(language_models(layer)):
        check(model, tmp_path / "m", ("float32", "int8", "int4")[k % 3])


@pytest.mark.parametrize("values", ["float32", "int8", "int4"])
@pytest.mark.parametrize("layer", LAYERS)
def test_sequence_models(tmp_path, layer, values):
    check(SequenceModel(INPUTS, 4, [8, 6], spec(layer)), tmp_path / "m", values)


@pytest.mark.parametrize("name", MAPS)
def test_layers_with_maps(tmp_path, name):
    layer = {"name": "elman", "map": {"name": name}}
    check(SequenceModel(INPUTS, 4, [8], layer), tmp_path / "m")


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("layer", BOTH_WAYS)
def test_taggers(tmp_path, layer, embedding):
    check(
        Tagger(V, 4, embedding_size=E, hidden_size=8, layer=spec(layer), embedding=spec(embedding)),
        tmp_path / "m",
    )


def test_what_lost_units_is_described_as_it_is_now(tmp_path):
    model = SequenceModel(INPUTS, 4, [8, 6], "gru")
    with torch.no_grad():
        model.layers[1].weight_ih[:, 3] = 0
        model.layers[0].weight_hh[:, 3] = 0
    done = compact(model)
    assert done.widths[0][2] == 7
    assert described(model)["model"]["hidden_sizes"] == [7, 6]
    check(model, tmp_path / "m")


def test_copies_remember_what_they_were_made_with():
    model = LanguageModel(V, 4, [6], layer="gru")
    assert described(copy.deepcopy(model)) == described(model)
    assert described(torch.nn.Linear(2, 2)) == {"undescribed": "Linear"}


def edited(path, recipe):
    """What a file with another recipe gives."""
    packed = read_packed(path)
    pack(packed.state, packed.masks, path, recipe=json.loads(json.dumps(recipe)))
    return unpack(path)


def of(**changes):
    return {"name": "sequence_model", "input_size": INPUTS, "output_size": 4, "hidden_sizes": [8], **changes}


GRU = {"layer": "gru"}
REFUSED = [
    (of(), r"the 'sequence_model' that the packed file describes \('layers.0.bias_hh' is missing or odd\)"),
    (of(hidden_sizes=[8, 8], **GRU), "is missing or odd"),
    (of(hidden_sizes=[10**8], **GRU), "is missing or odd"),
    (of(layer={"name": "rhn", "depth": 10**9}), "more parameters than the file"),
    (of(hidden_sizes=[2] * 1000, **GRU), "more parameters than the file"),
    (of(hidden_sizes="8", **GRU), "hidden_sizes is '8'"),
    (of(layer="lstn"), "did you mean|it is|unknown|must be"),
    ({**of(), "name": "nothing"}, "nothing"),
    ({**of(**GRU), "depth": 3}, "depth"),
    ({"name": "bidaf", "vocabulary_size": V, "characters": 9}, "more parameters than the file"),
]


@pytest.mark.parametrize(("model", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_a_description_that_does_not_fit_is_one_sentence(tmp_path, model, sentence):
    pack(SequenceModel(INPUTS, 4, [8], "gru"), {}, tmp_path / "m")
    with pytest.raises(InputError, match=sentence) as raised:
        runtime(edited(tmp_path / "m", {"model": model}))
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("pack the model again.")


def test_two_names_of_one_weight_must_agree(tmp_path):
    model = LanguageModel(V, 8, [8], tied=True)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["head.weight"] += 1
    pack(state, {}, tmp_path / "m", recipe=described(model))
    with pytest.raises(InputError, match="is not what another name of it says"):
        runtime(unpack(tmp_path / "m"))


def test_sizes_may_stand_beside_the_model(tmp_path):
    """As a run packs them: the recipe's model, and what its data say."""
    model = SequenceModel(INPUTS, 4, [8], "gru").eval()
    spec = {name: value for name, value in of(**GRU).items() if name not in ("input_size", "output_size")}
    pack(model.state_dict(), {}, tmp_path / "m")
    found = edited(tmp_path / "m", {"model": spec, "sizes": {"input_size": INPUTS, "output_size": 4}})
    torch.testing.assert_close(said(runtime(found, threads=1)), said(runtime(model, threads=1)))


def test_files_of_before_are_read_by_names_or_refused(tmp_path):
    before = {"model": {"name": "language_model", "hidden_sizes": [6]}}
    model = LanguageModel(V, 4, [6]).eval()
    pack(model.state_dict(), {}, tmp_path / "m", recipe=before)
    torch.testing.assert_close(
        said(runtime(unpack(tmp_path / "m"), threads=1)), said(runtime(model, threads=1))
    )
    pack(LanguageModel(V, 4, [6], "gru").state_dict(), {}, tmp_path / "m", recipe=before)
    with pytest.raises(InputError, match="this is no LSTM language model"):
        runtime(unpack(tmp_path / "m"))


def test_bidaf_has_no_runtime_from_a_file_either(tmp_path):
    pack(BiDAF(V, 9, hidden_size=4), {}, tmp_path / "m")
    with pytest.raises(InputError, match="a BiDAF has no vocabulary_size"):
        runtime(unpack(tmp_path / "m"))


def test_a_model_that_was_saved_before_it_remembered_is_packed_without_a_description(tmp_path):
    model = SequenceModel(3, 2, [5], "gru")
    model.__dict__["made_with"] = {}
    assert described(model) == {}
    pack(model, {}, tmp_path / "old.safetensors")
    assert unpack(tmp_path / "old.safetensors").keys() == model.state_dict().keys()


class Halved(LanguageModel):
    """The names of a language model, and another function."""

    def forward(self, words, state=None):
        found = super().forward(words, state)
        return found._replace(raw=found.raw / 2, dropped=found.dropped / 2)


def test_a_class_of_somebody_s_own_is_not_taken_for_the_one_it_is_derived_from(tmp_path):
    """By its names it would be computed as a plain LSTM language model, with other numbers and no word."""
    model = Halved(V, 4, [6]).eval()
    pack(model, {}, tmp_path / "own.safetensors")
    tensors = unpack(tmp_path / "own.safetensors")
    with pytest.raises(InputError, match="the weights of a Halved, and not what it computes"):
        runtime(tensors)
    again = Halved(V, 4, [6]).eval()
    again.load_state_dict(tensors)
    words = torch.tensor([[3], [5]])
    torch.testing.assert_close(again(words).raw, model(words).raw)
    assert type(runtime(again)).__name__ == "ModuleRuntime"
