"""The tagger: parameter counts, padding without influence, dropouts, removal of units."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from sparsernn.core.errors import InputError
from sparsernn.models.tagger import Tagger
from sparsernn.structure.units import remove

WORDS = torch.randint(30, (6, 3), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([4, 6, 1])


def tagger(**settings):
    torch.manual_seed(0)
    return Tagger(30, 5, **{"embedding_size": 8, "hidden_size": 4, **settings}).double()


def inside(scores):
    return [scores[:length, b] for b, length in enumerate(LENGTHS.tolist())]


@pytest.mark.parametrize(
    ("settings", "embedding"),
    [
        ({"embedding_size": 20}, 44_000 * 20),
        ({"embedding_size": 20, "embedding": {"name": "block", "blocks": 20, "density": 0.25}}, 220_000),
    ],
)
def test_parameters_of_the_published_network(settings, embedding):
    model = Tagger(44_000, 49, hidden_size=10, **settings)
    counts = [sum(p.numel() for p in part.parameters()) for part in model.children()]
    assert counts == [embedding, 2560, 210, 539]


def test_it_is_torchs_network_of_the_same_weights():
    model = tagger(layers=2).eval()
    x, order = model.embedding(WORDS), False
    for layer in model.layers:
        packed = pack_padded_sequence(x, LENGTHS, enforce_sorted=order)
        x, _ = pad_packed_sequence(layer.to_dense()(packed)[0])
    expected = nn.Sequential(model.hidden, nn.Tanh(), model.output)(x)
    for ours, theirs in zip(inside(model(WORDS, LENGTHS)), inside(expected), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("layer", ["lstm", {"name": "block_lstm", "blocks": 2}])
def test_a_sentence_is_tagged_alike_alone_and_padded(layer):
    model = tagger(layer=layer, layers=2).eval()
    together = inside(model(WORDS, LENGTHS))
    alone = [model(WORDS[:n, b : b + 1])[:, 0] for b, n in enumerate(LENGTHS.tolist())]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_weight_drop_meets_both_directions_of_all_layers_in_training_alone():
    model = tagger(layer={"name": "lstm", "weight_drop": 0.5}, layers=2)
    assert not torch.equal(model(WORDS), model(WORDS))
    model(WORDS).sum().backward()
    for layer in model.layers:
        for name in ("weight_hh_0", "weight_hh_0_reverse"):
            dropped = getattr(layer, name).grad == 0
            assert 0 < dropped.sum() < dropped.numel()
    model.eval()
    assert torch.equal(model(WORDS), model(WORDS))


def test_the_input_dropout_is_the_same_for_a_whole_sentence():
    model = tagger(dropout={"input": 0.5})
    seen = []
    model.layers[0].register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    model(WORDS)
    zero = seen[0] == 0
    assert torch.equal(zero, zero[:1].expand_as(zero))
    assert 0 < zero[0].sum() < zero[0].numel()


@pytest.mark.parametrize("layer", ["lstm", {"name": "block_lstm", "blocks": 2}])
def test_widths_that_are_no_longer_alike_are_said_and_built_again(layer):
    model = tagger(layers=2, layer=layer).eval()
    settings = {"embedding_size": 8, "hidden_size": 4, "layers": 2, "layer": layer}
    assert model.resized(settings) == settings
    keep = [torch.ones(8, dtype=torch.bool) for _ in range(2)] + [torch.tensor([True, False, True, True])]
    keep[0][[1, 4, 2, 6]] = keep[1][[0, 4]] = False
    remove(model, model.units(), keep)
    said = model.resized(settings)
    assert said["hidden_size"] == {"layers": [2, 3], "hidden": 3}
    again = tagger(**said).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(WORDS, LENGTHS), model(WORDS, LENGTHS))
    assert again.resized(said) == said


def test_removed_units_leave_the_same_function():
    model = tagger(layers=2).eval()
    keep = [torch.ones(8, dtype=torch.bool) for _ in range(2)] + [torch.tensor([True, False, True, True])]
    keep[0][[1, 6]] = keep[1][[0, 7]] = False
    for units, stays in zip(model.units(), keep, strict=True):
        units.zero((~stays).nonzero().squeeze(1))
    before = model(WORDS, LENGTHS)
    remove(model, model.units(), keep)
    torch.testing.assert_close(model(WORDS, LENGTHS), before)
    assert model.output.weight.shape == (5, 3)
    assert model.layers[1].hidden_size == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 0}, "layers is 0; it must be a whole number of at least 1"),
        (
            {"hidden_size": 0},
            "hidden_size is 0; it must be a whole number of at least 1 or a mapping with layers, hidden",
        ),
        ({"hidden_size": {"layers": [3, 2], "hidden": 3}}, r"layers: \[one for each of 1\]"),
        ({"hidden_size": {"layers": [3]}}, "hidden_size is {'layers': \\[3\\]}; it needs hidden as well"),
        ({"embedding_size": 0}, "embedding_size is 0; it must be .* at least 1"),
        ({"layer": ["lstm", "lstm"]}, "a list of 1, one for each hidden size"),
        ({"layer": "onlstm"}, "layer 'onlstm' is unknown; known: block_lstm, lstm"),
        ({"dropout": {"output": 0.5}}, "dropout has no setting 'output'"),
        ({"dropout": 0.5}, "dropout is 0.5; it must be a mapping"),
    ],
)
def test_a_fault_is_one_sentence(settings, message):
    with pytest.raises(InputError, match=message):
        tagger(**settings)
