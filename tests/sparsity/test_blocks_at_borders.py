"""Blocks that do not divide a tensor: lower and narrower at its end and every gate's, and exact counts."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.deploy.packed import pack, read_packed
from sparsernn.kernels.sparse_layout import Layout
from sparsernn.kernels.weight_formats import FORMATS
from sparsernn.nn import LSTM
from sparsernn.sparsity import DynamicSparse, parse, prune
from sparsernn.sparsity.dynamic.block_grid import BlockGrid
from sparsernn.sparsity.dynamic.dense_to_sparse import DenseToSparse
from sparsernn.sparsity.dynamic.update_times import Length
from sparsernn.structure.gates import stacked

BLOCKS = [(16, 1), (1, 16), (8, 1), (16, 4), (4, 4), (2, 8), (8, 2), (5, 3)]
RULES = [
    {"grow": "gradient", "update": {"unit": "step", "every": 1}},
    {"redistribute": "magnitude", "grow": "momentum_neuron"},
    {"redistribute": "nonzeros", "regrow_excludes_just_pruned": False},
    {"prune": "global_magnitude", "init": "erdos_renyi"},
    {"gate_scope": "even", "prune_rate": 0.9},
    {"gate_scope": "independent"},
    {"gate_scope": "cell"},
    {"prune": "threshold", "tau": 0.15},
]


class Gated(nn.Module):
    """Some gates of some rows, and a matrix without any."""

    def __init__(self, height, columns, gates):
        super().__init__()
        self.names, self.height = tuple("ifgo"[:gates]), height
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(height * gates, columns, generator=generator))
        self.other = nn.Parameter(torch.randn(height, 3, generator=generator))

    def gate_rows(self):
        return {"weight": stacked(self.names, self.height)}


def step(model, sparsifier, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            parameter.add_(parameter.grad, alpha=-0.05)
    sparsifier.after_step()
    sparsifier.end_epoch()


def whole_blocks(mask, block, gates):
    """Each row of each gate's strips has the columns of its first row, block by block; by a naive loop."""
    rows, columns = mask.shape
    for gate in range(gates):
        height = rows // gates
        for first in range(gate * height, (gate + 1) * height, block[0]):
            end = min(first + block[0], (gate + 1) * height)
            for left in range(0, columns, block[1]):
                part = mask[first:end, left : left + block[1]]
                if part.any() != part.all():
                    return False
    return True


def areas_of(tensor):
    return {area: int(tensor.grid_mask()[tensor.grid.areas == area].sum()) for area in tensor.grid.cells()}


@settings(max_examples=40)
@given(
    st.integers(1, 40),
    st.integers(1, 20),
    st.integers(1, 4),
    st.sampled_from(BLOCKS),
    st.sampled_from(RULES),
    st.sampled_from([0.1, 0.3, 0.8, 1.0]),
)
def test_any_height_and_block(height, columns, gates, block, rules, density):
    model = Gated(height, columns, gates)
    sparsifier = DynamicSparse(model, parse({"density": density, "block": block, **rules}), seed=1)
    total = sparsifier.summary()["masked_active"]
    units = [sum(t.grid.cells().values()) for t in sparsifier.tensors]
    kept = [sum(areas_of(t).values()) for t in sparsifier.tensors]
    forced = sum(len(t.grid.cells()) for t in sparsifier.tensors)  # at least one of each size
    assert abs(sum(kept) - density * sum(units)) <= 0.5 + forced
    by_area = sum(torch.bincount(t.grid.areas[t.grid_mask()], minlength=65) for t in sparsifier.tensors)
    for k in range(3):
        step(model, sparsifier, k)
        assert sparsifier.summary()["masked_active"] == total
        for tensor in sparsifier.tensors:
            own = gates if tensor.name == "weight" else 1
            assert whole_blocks(tensor.mask, block, own)
            assert not tensor.parameter[~tensor.mask].any()
        after = sum(torch.bincount(t.grid.areas[t.grid_mask()], minlength=65) for t in sparsifier.tensors)
        assert torch.equal(after, by_area)


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 4), st.sampled_from(BLOCKS))
def test_a_grid_is_made_of_blocks(height, columns, gates, block):
    rows = height * gates
    grid = BlockGrid.of(
        (rows, columns), block, [(g.start, g.stop) for g in stacked(tuple("ifgo"[:gates]), height)]
    )
    matrix = torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = torch.randn(grid.shape)
    assert torch.equal(grid.sample(grid.expand(values)), values)
    for i, j in itertools.product(*map(range, grid.shape)):
        part = matrix[grid.rows[i] : grid.rows[i + 1], grid.columns[j] : grid.columns[j + 1]]
        assert part.numel() == grid.areas[i, j]
        assert grid.means(matrix)[i, j] == pytest.approx(float(part.mean()), abs=1e-12)
    seen = torch.zeros(grid.shape, dtype=torch.int64)
    for same in grid.classes():
        for r in same:
            seen[r.start : r.stop, r.left : r.right] += 1
            assert (grid.areas[r.start : r.stop, r.left : r.right] == r.area).all()
    assert (seen == 1).all()


def test_a_lower_block_is_scored_by_what_it_has():
    model = nn.Linear(2, 3, bias=False)
    sparsifier = DynamicSparse(model, parse({"density": 1.0, "block": (2, 1)}))
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 4.0], [3.0, 2.0], [5.0, -6.0]]))
    assert sparsifier.tensors[0].values(model.weight).tolist() == [[2.0, 3.0], [5.0, 6.0]]


def test_dense_to_sparse_reaches_the_density_of_every_size():
    model = Gated(21, 10, 2)
    asked = parse({"density": 0.3, "block": (16, 1), "update": {"stop": 0.5, "unit": "epoch"}})
    sparsifier = DenseToSparse(model, asked, length=Length(epochs=8), gradual=True)
    for k in range(8):
        step(model, sparsifier, k)
    weight, other = sparsifier.tensors
    assert areas_of(weight) == {16: 6, 5: 6}
    assert areas_of(other) == {16: 1, 5: 1}
    assert whole_blocks(weight.mask, (16, 1), 2)


@pytest.mark.parametrize("method", ["magnitude", "activation", "obs"])
@pytest.mark.parametrize("block", [(16, 1), (4, 3)])
def test_pruning_after_training(method, block):
    torch.manual_seed(0)
    layer = LSTM(10, 21)
    batches = [torch.randn(30, 2, 10) for _ in range(3)]
    pruned = prune(layer, batches, density=0.3, method=method, block=block)
    for name, mask in pruned.masks.items():
        grid = BlockGrid.of(tuple(mask.shape), block, [(21 * k, 21 * k + 21) for k in range(4)])
        assert whole_blocks(mask, block, 4)
        for area, cells in grid.cells().items():
            kept = int((grid.sample(mask) & (grid.areas == area)).sum())
            assert abs(kept - 0.3 * cells) < 1, (name, area)


EARLIER = {"density": 0.3, "update": {"every": 1}}


def earlier_state(model, blocks, height):
    """As it was saved before there were blocks at borders: `height` rows of the grid, whatever the gates."""
    state = DynamicSparse(model, parse({**EARLIER, **blocks}), seed=3).state_dict()
    del state["grids"]
    generator = torch.Generator().manual_seed(5)
    for name, tall in height.items():
        rows, columns = state["masks"][name].shape
        grid = torch.rand(rows // tall, columns, generator=generator) < 0.3
        state["masks"][name] = state["ever"][name] = grid.repeat_interleave(tall, 0)
    return state


def test_states_of_earlier_grids_go_on_with_them():
    """Blocks ran through the gates of 20 rows, and 20 rows of no gate were single weights."""
    model = Gated(20, 12, 4)
    state = earlier_state(model, {"block": (16, 1), "block_fallback": True}, {"weight": 16, "other": 1})
    sparsifier = DynamicSparse(model, parse({**EARLIER, "block": (16, 1), "block_fallback": True}), seed=3)
    sparsifier.load_state_dict(state)
    total = sum(int(mask.sum()) for mask in sparsifier.masks().values())
    for k in range(3):
        step(model, sparsifier, k)
        masks = sparsifier.masks()
        assert whole_blocks(masks["weight"], (16, 1), 1)
        assert not whole_blocks(masks["weight"], (16, 1), 4)
        assert not whole_blocks(masks["other"], (16, 1), 1)
        assert sparsifier.summary()["masked_active"] == total
    saved = sparsifier.state_dict()
    assert saved["grids"] == {"weight": [16, 1, False], "other": [1, 1, True]}
    again = DynamicSparse(model, sparsifier.settings, seed=4)
    again.load_state_dict(saved)
    assert [t.grid for t in again.tensors] == [t.grid for t in sparsifier.tensors]
    step(model, again, 9)
    assert again.summary()["masked_active"] == total


@pytest.mark.parametrize("grids", [7, {"weight": [3, 1, True]}, {"weight": "16"}, {"other": [16, 1, True]}])
def test_other_grids_are_refused(grids):
    model = Gated(20, 12, 4)
    sparsifier = DynamicSparse(model, parse({**EARLIER, "block": (16, 1)}))
    with pytest.raises(InputError, match=r"another sparsifier .*'grids'"):
        sparsifier.load_state_dict({**sparsifier.state_dict(), "grids": grids})


def test_gates_that_earlier_blocks_straddled_have_no_pools_of_their_own():
    model = Gated(20, 12, 4)
    sparsifier = DynamicSparse(model, parse({**EARLIER, "block": (16, 1), "gate_scope": "even"}))
    state = sparsifier.state_dict()
    with pytest.raises(InputError, match="straddle the gates of 'weight'"):
        sparsifier.load_state_dict({**state, "grids": {"weight": [16, 1, False], "other": [16, 1, True]}})


def test_a_model_of_such_blocks_is_packed_and_run_as_it_is(tmp_path):
    """Widths that 16 does not divide: what is written, what is read, and the products of the runtime's blocks."""
    model = nn.ModuleDict({"rnn": LSTM(10, 21), "head": nn.Linear(21, 37)})
    sparsifier = DynamicSparse(model, parse({"density": 0.3, "block": "auto"}))
    assert sparsifier.notes() == []
    masks = sparsifier.masks()
    pack(model.state_dict(), masks, tmp_path / "model.pack")
    found = read_packed(tmp_path / "model.pack")
    for name, mask in masks.items():
        weight = model.get_parameter(name).detach()
        assert torch.equal(found.state[name], weight)
        assert torch.equal(found.masks[name], mask)
        assert torch.equal(FORMATS["block16"](weight, mask).restored(), weight)
        assert Layout(mask).blocks


def test_what_is_smaller_than_a_block_is_told():
    sparsifier = DynamicSparse(Gated(15, 10, 2), parse({"density": 0.3, "block": "auto"}))
    (note,) = sparsifier.notes()
    assert note == "masked by single weights, being smaller than a block of 16 x 1: other (15 x 3)."


def test_a_border_block_that_could_only_return_is_left_alone():
    """A class of blocks without an empty cell inside a sparse tensor: what is pruned there comes back as 0."""
    torch.manual_seed(0)
    layer = nn.Linear(20, 20, bias=False)
    settings = {"density": 0.5, "block": [8, 8], "regrow_excludes_just_pruned": False}
    engine = DynamicSparse(layer, parse(settings))
    assert engine.tensors[0].mask[16:, 16:].all()
    before = layer.weight[16:, 16:].detach().clone()
    (report,) = engine.end_epoch()
    assert report["tensors"]["weight"]["pruned"] > 0
    assert torch.equal(layer.weight[16:, 16:], before)
