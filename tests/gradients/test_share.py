"""How much of the weights' gradient comes from beyond the window: measured without a trace in the training."""

import pytest
import torch

from sparsernn.gradients import SyntheticGradient
from sparsernn.models import SequenceModel

T, B, INPUTS, H = 5, 3, 2, 8
LAYERS = {
    "lstm": {"name": "lstm", "weight_drop": 0.3},
    "gru": {"name": "gru"},
    "onlstm": {"name": "onlstm", "chunk_size": 2},
    "rhn": {"name": "rhn", "depth": 2},
    "elman": {"name": "elman"},
    "qrnn": {"name": "qrnn", "window": 2, "weight_drop": 0.3, "zoneout": 0.2},
    "block_lstm": {"name": "block_lstm", "blocks": 2},
}


def gradients(layer, measured, start="synthetic"):
    """A window in single precision, on the compiled loops where there are any: all gradients, and the boundary."""
    torch.manual_seed(0)
    model = SequenceModel(INPUTS, 1, [H, H], layer).train()
    spec = {"name": "mlp", "zero_init": False}
    boundary = SyntheticGradient(model, 1, 1, synthesizer=spec, gamma=0.5, start=start)
    boundary.share.value = None if measured else 1.0  # as if it had been measured before
    torch.manual_seed(1)
    state = tuple(tuple(torch.randn_like(p) for p in _flat(s)) for s in model.initial_state(B))
    state = boundary.enter(state, False)
    features = model(torch.randn(T, B, INPUTS), state)
    loss = model.read_out(features.raw).square().mean()
    roots, found = boundary.roots(features.state, T * B, False)
    apart = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
    torch.autograd.backward([loss, *roots], [None, *found])
    boundary.learn()
    return [p.grad for p in model.parameters()], apart, boundary


def _flat(state):
    return [state] if isinstance(state, torch.Tensor) else list(state)


@pytest.mark.parametrize("layer", LAYERS)
def test_share_is_that_of_the_two_gradients_and_the_backward_pass_stays_to_the_bit(layer):
    whole, own, boundary = gradients(LAYERS[layer], measured=True)
    plain, _, unmeasured = gradients(LAYERS[layer], measured=False)
    assert all(map(torch.equal, whole, plain))
    pairs = [(w, torch.zeros_like(w) if o is None else o) for w, o in zip(whole, own, strict=True)]
    beyond = sum((w - o).double().square().sum() for w, o in pairs).sqrt()
    near = sum(o.double().square().sum() for _, o in pairs).sqrt()
    assert boundary.records()["sg_share"] == pytest.approx(float(beyond / near), rel=1e-4)
    assert unmeasured.share.value == 1.0


def test_it_is_measured_once_between_two_looks_and_never_where_nothing_is_injected():
    boundary = gradients("gru", measured=True)[2]
    first = boundary.share.value
    boundary.share.measure([torch.ones(1, requires_grad=True)], [torch.ones(1)])
    boundary.share.finish()
    assert boundary.share.value == first > 0
    assert boundary.records()["sg_share"] == first
    assert "sg_share" not in boundary.records()
    assert "sg_share" not in gradients("gru", measured=True, start="real")[2].records()
