"""The recurrent highway network: golden values, places of dropout, sizes."""

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.models import LanguageModel
from sparsernn.nn import RHN
from sparsernn.structure.gates import cell_groups, gate_blocks

GOLDEN = {
    True: [[0.3334513802, 0.2286758641, 0.1392314221], [0.5215384362, 0.1939204153, 0.3336691544]],
    False: [[0.3360727817, 0.2263301331, 0.1387137986], [0.5370980413, 0.1834840638, 0.3327608255]],
}
X = torch.tensor([[[0.1, -0.2, 0.3]], [[0.4, 0.5, -0.6]]], dtype=torch.double)


def sines(*shape):
    """0.5 sin(i + 1) with i the flat index."""
    count = torch.Size(shape).numel()
    return 0.5 * torch.sin(torch.arange(1, count + 1, dtype=torch.double)).view(shape)


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("naive", [True, False])
def test_golden_values(coupled, naive):
    """The published layout has the carry gate's weights in tensors of their own, filled from their own beginning."""
    layer = RHN(3, 3, depth=2, coupled=coupled).double()
    layer.naive = naive
    for p in layer.parameters():
        p.data[:6] = sines(6, *p.shape[1:])
        p.data[6:] = sines(3, *p.shape[1:]) if not coupled else 0
    y, (s,) = layer(X)
    torch.testing.assert_close(y[:, 0], torch.tensor(GOLDEN[coupled], dtype=torch.double), rtol=0, atol=1e-9)
    torch.testing.assert_close(s, y[-1])


def test_the_dropped_state_enters_the_products_and_the_carried_one_is_whole():
    """With transform gates shut, s stays what it was whatever the mask is."""
    layer = RHN(3, 3, depth=3, state_dropout=0.5).double()
    for level in range(3):
        getattr(layer.cell, f"bias_hh_{level}").data[3:] = -1e9
    start = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.double)
    torch.testing.assert_close(layer(X, (start,))[1][0], start)


def test_one_mask_for_all_times_and_depths():
    layer = RHN(3, 40, depth=3, state_dropout=0.25)
    masks = [stage.mask for stage in layer.cell.stages(2)]
    assert all(mask is masks[0] for mask in masks)
    assert sorted(set(masks[0].flatten().tolist())) == [0.0, pytest.approx(4 / 3)]
    assert layer.eval().cell.stages(2)[0].mask is None


def test_a_negative_transform_bias_carries_the_state():
    torch.manual_seed(0)
    plain = RHN(3, 5, depth=2)
    torch.manual_seed(0)
    biased = RHN(3, 5, depth=2, transform_bias=-3.0)
    difference = biased.cell.bias_hh_1 - plain.cell.bias_hh_1
    assert difference.tolist() == pytest.approx([0.0] * 5 + [-3.0] * 5)


def test_published_size():
    """PTB: V 10,000, 830 wide, depth 10, tied: 23,484,060 parameters, 23,455,800 of them in matrices."""
    with torch.device("meta"):
        model = LanguageModel(10_000, 830, [830], layer={"name": "rhn", "depth": 10}, tied=True)
    assert sum(p.numel() for p in model.parameters()) == 23_484_060
    assert sum(p.numel() for p in model.parameters() if p.dim() == 2) == 23_455_800


def test_gates_and_one_cell_for_all_depths():
    model = RHN(4, 5, depth=2)
    assert {n: [b.name for b in blocks] for n, blocks in gate_blocks(model).items()} == {
        name: ["h", "t"] for name in ("cell.weight_ih", "cell.weight_hh_0", "cell.weight_hh_1")
    }
    assert cell_groups(model) == [("cell.weight_ih", "cell.weight_hh_0", "cell.weight_hh_1")]


@pytest.mark.parametrize("settings", [{"depth": 0}, {"hidden_size": 0}, {"state_dropout": 1.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(InputError):
        RHN(**{"input_size": 3, "hidden_size": 4, **settings})
