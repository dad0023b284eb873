"""A penalty on gradients is an error where they have no second derivative: left out, it would do nothing."""

import pytest
import torch
from torch import nn

from sparsernn.nn import ONLSTM, RHN
from sparsernn.nn.words.heads import LinearHead


class Scored(nn.Module):
    """A loss whose gradient towards the layer has no graph of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        if isinstance(self.inner, LinearHead):
            return self.inner.nll(x, torch.zeros(x.shape[:2], dtype=torch.long)).mean()
        return self.inner(x)[0].sum()


MADE = {
    "rhn": lambda: RHN(4, 6),
    "on-lstm": lambda: ONLSTM(4, 6, chunk_size=3),
    "head": lambda: LinearHead(5, 4),
}


@pytest.mark.parametrize("name", MADE)
def test_a_penalty_on_gradients_is_refused(name, compiled_or_twin):
    """The part of it that goes through the weights of a loop over time would be missing, and nothing would say so."""
    torch.manual_seed(0)
    model, x = Scored(MADE[name]()), torch.randn(3, 2, 4, requires_grad=True)
    loss = model(x)
    (towards,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        (loss + 10 * towards.square().sum()).backward()
