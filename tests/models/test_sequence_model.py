"""The model over vectors: shapes, units, and the sizes of the published networks."""

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.core.registry import make
from sparsernn.models import MODELS
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.runs.recipe import load_recipe
from sparsernn.structure.units import remove

COPY, PIXELS = {"input_size": 10, "output_size": 9}, {"input_size": 1, "output_size": 10}
CHARACTERS = {"vocabulary_size": 50}


@pytest.mark.parametrize(
    ("recipe", "sizes", "count"),
    [
        ("copy-rnn", COPY, 19_081),
        ("copy-rnn-orth", COPY, 19_081),
        ("copy-nnrnn", COPY, 18_889),
        ("copy-exprnn", COPY, 10_697),
        ("copy-exprnn-176", COPY, 18_929),
        ("copy-lstm", COPY, 72_329),
        ("copy-lstm-63", COPY, 19_224),
        ("psmnist-rnn", PIXELS, 268_810),
        ("psmnist-nnrnn", PIXELS, 268_042),
        ("psmnist-exprnn", PIXELS, 136_970),
        ("psmnist-exprnn-722", PIXELS, 268_955),
        ("psmnist-lstm", PIXELS, 1_057_802),
        ("psmnist-lstm-257", PIXELS, 268_832),
        ("ptb-char-rnn", CHARACTERS, 1_316_674),
        ("ptb-char-nnrnn", CHARACTERS, 1_315_138),
        ("ptb-char-exprnn", CHARACTERS, 790_850),
        ("ptb-char-exprnn-1386", CHARACTERS, 1_317_741),
        ("ptb-char-lstm", CHARACTERS, 5_078_850),
        ("ptb-char-lstm-475", CHARACTERS, 1_318_200),
    ],
)
def test_recipes_have_the_published_numbers_of_parameters(recipe, sizes, count):
    model = make("model", MODELS, load_recipe(f"nnrnn/{recipe}").model, **sizes)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("layer", ["lstm", "gru", {"name": "elman", "map": "orthogonal"}])
def test_reading_in_parts_is_reading_at_once(layer):
    model, x = SequenceModel(3, 2, [5, 4], layer), torch.randn(9, 2, 3)
    whole, first = model(x), model(x[:4])
    second = model(x[4:], first.state)
    torch.testing.assert_close(torch.cat((first.raw, second.raw)), whole.raw)
    assert model.read_out(whole.raw).shape == (9, 2, 2)


@pytest.mark.parametrize("layer", ["lstm", "gru"])
def test_removing_dead_units_leaves_the_answers_as_they_are(layer):
    model, x = SequenceModel(3, 2, [5, 4], layer), torch.randn(9, 2, 3)
    groups = model.units()
    keep = [torch.tensor([True, False, True, True, False]), torch.tensor([False, True, True, True])]
    for group, kept in zip(groups, keep, strict=True):
        group.zero((~kept).nonzero().squeeze(1))
    before = model.read_out(model(x).raw)
    remove(model, groups, keep)
    assert [layer.hidden_size for layer in model.layers] == [3, 3]
    torch.testing.assert_close(model.read_out(model(x).raw), before)


def test_the_penalty_is_that_of_the_maps():
    layer = {"name": "elman", "map": {"name": "normal", "radius_penalty": 2.0}}
    model = SequenceModel(3, 2, [4], layer)
    model.layers[0].cell.map.radius.data.fill_(1.5)
    assert model.penalty().item() == pytest.approx(2.0 * 2 * 0.25)
    assert SequenceModel(3, 2, [4]).penalty() == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_sizes": 5}, "hidden_sizes is 5; it must be a list"),
        ({"hidden_sizes": []}, r"hidden_sizes is \[\]"),
        ({"hidden_sizes": [0]}, r"hidden_sizes is \[0\]"),
        (
            {"hidden_sizes": [4], "output_init": "small"},
            "output_init is 'small'; it must be uniform or xavier",
        ),
        ({"hidden_sizes": [4], "dropout": {"input": 0.1}}, "dropout has no setting 'input'"),
    ],
)
def test_impossible_settings_are_one_sentence(settings, message):
    with pytest.raises(InputError, match=message):
        SequenceModel(3, 2, **settings)
