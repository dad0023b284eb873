"""Components and strips said one by one: what is left of a rule when units go, and faults in such lists."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.nn import BlockEmbedding, BlockLSTM
from sparsernn.nn.blocks.geometry import arrangement, listed_strips, spans, windows
from sparsernn.structure.units import Units, remove

RULES = ({"blocks": 3, "density": 0.5}, {"blocks": 2}, {"reduce": [0.6, 0.7]}, {}, {"blocks": 1})


def rebuilt(kind, sizes, layer, spec):
    """A layer of the spec alone, with the weights of `layer`."""
    again = kind(*sizes, **spec).double().eval()
    again.load_state_dict(layer.state_dict())
    return again


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=4)
@torch.no_grad()
def test_a_layer_without_units_and_inputs_is_built_again_from_its_spec(rule, bidirectional, seed):
    generator = torch.Generator().manual_seed(seed)
    spec = rule | ({"bidirectional": True} if bidirectional else {})
    layer = BlockLSTM(10, 9, **spec).double().eval()
    assert layer.resized(spec) == spec
    dead = torch.rand(layer.hidden_size, generator=generator) < 0.6
    inputs = torch.rand(10, generator=generator) < 0.5
    inputs[0] = False
    gone = layer.removable(dead)
    assert not (gone & ~dead).any()
    assert all(not gone[span.start : span.stop].all() for span in layer.hidden_spans())
    groups = [layer.as_units("layer", ()), Units("inputs", 10, layer.inputs())]
    groups[0].zero(gone.nonzero().squeeze(1))
    groups[1].zero(inputs.nonzero().squeeze(1))
    x = torch.randn(5, 2, 10, generator=generator).double()
    before = layer(x)[0][..., ~gone]
    remove(layer, groups, [~gone, ~inputs])
    said = layer.resized(spec)
    sizes = layer.input_size, layer.hidden_size // (2 if bidirectional else 1)
    again = rebuilt(BlockLSTM, sizes, layer, said)
    torch.testing.assert_close(again(x[..., ~inputs])[0], before, rtol=0, atol=1e-12)
    assert again.resized(said) == said


@pytest.mark.parametrize(
    "rule", [{"blocks": 4}, {"blocks": 3, "density": 0.7, "geometry": "greedy"}], ids=str
)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=4)
@torch.no_grad()
def test_a_table_without_columns_is_built_again_from_its_spec(rule, seed):
    table = BlockEmbedding(12, 8, **rule).double()
    assert table.resized(rule) == rule
    keep = torch.rand(8, generator=torch.Generator().manual_seed(seed)) < 0.5
    keep[-1] = True
    before = table.dense()[:, keep]
    remove(table, [Units("columns", 8, table.outputs())], [keep])
    said = table.resized(rule)
    again = rebuilt(BlockEmbedding, (12, int(keep.sum())), table, said)
    assert torch.equal(again.dense(), before)
    assert again.resized(said) == said


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
@settings(max_examples=30)
def test_a_list_says_what_the_rule_says(inputs, hidden, blocks):
    blocks = min(blocks, inputs, hidden)
    rule = arrangement(inputs, hidden, blocks, 1.0, None)
    assert rule == (windows(inputs, blocks, 1), tuple(map(len, spans(hidden, blocks))))
    listed = [[units, w.start, w.stop] for w, units in zip(*rule, strict=True)]
    assert arrangement(inputs, hidden, listed, None, None) == rule


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [[3, 0, 5]],  # not all units
        [[2, 0, 4], [2, 3, 5]],  # not all inputs
        [[2, 1, 4], [2, 3, 6]],  # not from the left edge
        [[2, 0, 2], [2, 3, 6]],  # a gap
        [[2, 0, 6], [2, 0, 5]],  # a window that moves to the left
        [[4, 0, 6], [0, 2, 6]],  # no units
        [[2, 0, 4], [2, 3]],
        [[2, 0, 4], [2, 3, 6.0]],
        [[2, 0, 4], [True, 3, 6], [1, 3, 6]],
        [4, 0, 6],
        ["abc"],
    ],
)
def test_components_that_make_up_no_layer_are_refused(blocks):
    with pytest.raises(
        InputError, match=r"blocks is .*4 units in all and 1 at least, with windows that go from 0 to 6"
    ):
        BlockLSTM(6, 4, blocks=blocks)


@pytest.mark.parametrize(
    "blocks", [[[4, 9]], [[3, 10]], [[2, 5], [2, 10]], [[2, 10], [2]], [], [[2, 10], [2.0, 5]]]
)
def test_strips_that_make_up_no_table_are_refused(blocks):
    with pytest.raises(InputError, match=r"blocks is .*4 wide in all, the first 10 high and none higher"):
        BlockEmbedding(10, 4, blocks=blocks)
    assert listed_strips(10, 4, [[0, 10], [4, 3]]) == ((0, 4), (10, 3))


def test_a_list_says_all_so_nothing_stands_beside_it():
    with pytest.raises(InputError, match="set one or the other"):
        BlockLSTM(6, 4, blocks=[[4, 0, 6]], density=1.0)
    with pytest.raises(InputError, match=r"density is 1\.0 beside a list of strips; set one or the other"):
        BlockEmbedding(10, 4, blocks=[[4, 10]], density=1.0)
    with pytest.raises(InputError, match="blocks is 'two'; it must be a whole number"):
        BlockLSTM(6, 4, blocks="two")
