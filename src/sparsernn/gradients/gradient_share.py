"""How much of the gradient of a model's weights comes from beyond the window."""

import math

import torch
from torch import Tensor, nn

from sparsernn.core.peers import BY_ITSELF, Peers


class Share:
    """The size of what the weights hear from beyond a window, relative to what the window's own loss tells them.

    It takes a backward pass of its own, so it is measured in one window between two looks: the first in which
    anything is injected.

    Example:
        >>> w = nn.Parameter(torch.tensor([2.0]))
        >>> share, state = Share([w]), w * 3
        >>> share.measure([state], [torch.ones(1)])
        >>> torch.autograd.backward([w.sum() * 6, state], [None, torch.ones(1)])
        >>> share.finish()
        >>> share.take(), share.take()
        ({'sg_share': 0.5}, {})
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.value: Tensor | float | None = None
        self._beyond: list[Tensor | None] = []

    def measure(self, roots: list[Tensor], gradients: list[Tensor]) -> None:
        """Before the backward pass: what the roots send to the weights."""
        self._beyond = []
        if roots and self.parameters and self.value is None:
            found = torch.autograd.grad(
                roots, self.parameters, gradients, retain_graph=True, allow_unused=True
            )
            self._beyond = list(found)

    def finish(self, peers: Peers = BY_ITSELF) -> None:
        """After it: the weights' gradients, of all processes, hold both, so that the rest is the window's own."""
        if not self._beyond:
            return
        peers.sum([far for far in self._beyond if far is not None])
        beyond = own = self.parameters[0].new_zeros((), dtype=torch.double)
        for p, far in zip(self.parameters, self._beyond, strict=True):
            near = torch.zeros_like(p) if p.grad is None else p.grad
            if far is not None:
                beyond = beyond + far.double().square().sum()
                near = near - far
            own = own + near.double().square().sum()
        self._beyond = []
        self.value = (beyond / own).sqrt()

    def take(self) -> dict[str, float]:
        """`sg_share`, |gradient from beyond the window| / |gradient of its own loss|, absent weights included; {}
        where nothing was injected since the last look."""
        value, self.value = self.known(), None
        return {} if value is None else {"sg_share": value}

    def known(self) -> float | None:
        """The share as a number; None where there is none, or 0 of a gradient of 0."""
        value = None if self.value is None else float(self.value)
        return None if value is None or math.isnan(value) else value
