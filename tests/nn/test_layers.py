"""Claims that every layer of the registry must fulfil."""

import pytest
import torch

from sparsernn.core.registry import make
from sparsernn.nn import LAYERS
from sparsernn.structure.gates import gate_blocks

T, B, WIDTH_IN, H = 7, 3, 4, 6
SMALL = {"onlstm": {"chunk_size": 2}, "rhn": {"depth": 3}}
"""Settings that fit so small a layer."""


@pytest.fixture(params=sorted(LAYERS))
def layer(request):
    torch.manual_seed(0)
    spec = {"name": request.param, **SMALL.get(request.param, {})}
    return make("layer", LAYERS, spec, input_size=WIDTH_IN, hidden_size=H).double()


def test_shapes_and_sizes(layer):
    y, _ = layer(torch.randn(T, B, WIDTH_IN, dtype=torch.double))
    assert y.shape == (T, B, H)
    assert (layer.input_size, layer.hidden_size) == (WIDTH_IN, H)


def test_state_carried_over_a_cut_gives_the_uncut_result(layer):
    x = torch.randn(T, B, WIDTH_IN, dtype=torch.double)
    whole, _ = layer(x)
    first, state = layer(x[:3])
    second, _ = layer(x[3:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)


def test_a_missing_state_is_the_initial_state(layer):
    x = torch.randn(T, B, WIDTH_IN, dtype=torch.double)
    torch.testing.assert_close(layer(x)[0], layer(x, layer.initial_state(B))[0], rtol=0, atol=0)


def test_gradient_reaches_every_parameter_and_the_state(layer):
    state = tuple(s.requires_grad_() for s in layer.initial_state(B))
    y, _ = layer(torch.randn(T, B, WIDTH_IN, dtype=torch.double), state)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
    assert all(s.grad is not None for s in state)


def test_gradients_are_right(layer):
    x = torch.randn(3, 2, WIDTH_IN, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x)[0], (x,))


def test_dtype_is_kept_and_evaluation_repeats_itself(layer):
    layer.eval()
    x = torch.randn(T, B, WIDTH_IN, dtype=torch.double)
    assert layer(x)[0].dtype == torch.double
    torch.testing.assert_close(layer(x)[0], layer(x)[0], rtol=0, atol=0)


def test_gate_rows_cover_each_row_once(layer):
    shapes = {name: p.shape for name, p in layer.named_parameters()}
    for name, blocks in gate_blocks(layer).items():
        rows = [row for block in blocks for row in range(block.start, block.stop)]
        assert sorted(rows) == list(range(shapes[name][0]))
        assert tuple(block.name for block in blocks) == layer.gates


def test_output_slices_cover_every_row_of_every_weight_once(layer):
    """Master gates belong to no single unit; all other rows belong to exactly one."""
    seen, masters = {}, {}
    for s in layer.outputs():
        seen.setdefault((id(s.module), s.name, s.dim), (s, []))[1].extend(s.indices(torch.arange(H)).tolist())
        if s.dim == 0 and hasattr(s.module, "chunks"):
            masters[id(s.module), s.name, 0] = 2 * s.module.chunks
    for key, (s, indices) in seen.items():
        assert sorted(indices) == list(range(masters.get(key, 0), s.parameter.shape[s.dim]))
