"""The ordered-neurons LSTM: golden values, its structure, its distances."""

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.models import LanguageModel
from sparsernn.nn import ONLSTM
from sparsernn.nn.cells.onlstm import cumax
from sparsernn.structure.gates import gate_blocks

X = torch.tensor([[[0.1, -0.2, 0.3]], [[0.4, 0.5, -0.6]]], dtype=torch.double)
H1, C1 = [0.0473615747, -0.0952698972, 0, 0], [0.1701611865, -0.2291321840, 0, 0]
H2, C2 = [0.0485885107, -0.1055041501, 0, 0], [0.1590647246, -0.2581065439, 0, 0]


def golden_layer(**settings):
    layer = ONLSTM(3, 4, chunk_size=2, **settings).double()
    for p in layer.parameters():
        p.data = 0.5 * torch.sin(torch.arange(1, p.numel() + 1, dtype=torch.double)).view_as(p)
    return layer


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, torch.tensor(b, dtype=torch.double), rtol=0, atol=tolerance)


@pytest.mark.parametrize("naive", [True, False])
def test_golden_values(naive):
    layer = golden_layer()
    layer.naive = naive
    y, (h, c) = layer(X)
    close(y[:, 0], [H1, H2])
    close(h[0], H2)
    close(c[0], C2)
    close(layer(X[:1])[1][1][0], C1)


def test_golden_distances():
    forget, into = golden_layer().syntactic_distances(X)
    close(forget[:, 0], [0.1443874223, 0.0970360074])
    close(into[:, 0], [0.2639423449, 0.1796120307])


def test_distances_go_on_where_a_state_was_left():
    layer = golden_layer()
    _, state = layer(X[:1])
    whole, later = layer.syntactic_distances(X), layer.syntactic_distances(X[1:], state)
    for a, b in zip(whole, later, strict=True):
        torch.testing.assert_close(a[1:], b)


def test_the_last_chunk_never_changes():
    torch.manual_seed(0)
    layer = ONLSTM(3, 6, chunk_size=2).double()
    c = torch.randn(1, 6, dtype=torch.double)
    _, (_, after) = layer(torch.randn(5, 1, 3, dtype=torch.double), (torch.zeros_like(c), c))
    torch.testing.assert_close(after[:, 4:], c[:, 4:])
    assert (after[:, :4] != c[:, :4]).all()


def test_cumax_steps_from_zero_to_one():
    steps = cumax(torch.tensor([0.0, 50.0, 0.0]))
    torch.testing.assert_close(steps, torch.tensor([0.0, 1.0, 1.0]), atol=1e-6, rtol=0)


def test_dropped_weights_are_unscaled_in_training_and_scaled_in_evaluation():
    """The published way: each kept weight is what it is, evaluation takes all of them times what was kept."""
    layer = ONLSTM(3, 4, chunk_size=2, weight_drop=0.25)
    raw = layer.cell.weight_hh
    (stage,) = layer.cell.stages(2)
    kept = stage.weight != 0
    torch.testing.assert_close(stage.weight[kept], raw[kept])
    assert not kept.all()
    (stage,) = layer.eval().cell.stages(2)
    torch.testing.assert_close(stage.weight, raw * 0.75)


def test_gate_rows_of_the_published_layout():
    layer = ONLSTM(4, 6, chunk_size=2)
    blocks = {b.name: (b.start, b.stop) for b in gate_blocks(layer)["cell.weight_hh"]}
    assert blocks == {
        "master_in": (0, 3),
        "master_forget": (3, 6),
        "out": (6, 12),
        "cell": (12, 18),
        "in": (18, 24),
        "forget": (24, 30),
    }


def test_published_size():
    """PTB: 400-1150-1150-400, chunks of 10, tied: 25,232,180 parameters, 25,199,500 of them in matrices."""
    layer = {"name": "onlstm", "chunk_size": 10}
    with torch.device("meta"):
        model = LanguageModel(10_000, 400, [1150, 1150, 400], layer=layer, tied=True)
    assert sum(p.numel() for p in model.parameters()) == 25_232_180
    assert sum(p.numel() for p in model.parameters() if p.dim() == 2) == 25_199_500


@pytest.mark.parametrize("settings", [{"hidden_size": 7}, {"chunk_size": 0}, {"weight_drop": -0.1}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(InputError):
        ONLSTM(**{"input_size": 3, "hidden_size": 6, "chunk_size": 2, **settings})
