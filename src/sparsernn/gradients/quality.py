"""How good synthetic gradients are, added up over windows."""

import math

import torch
from torch import Tensor

from sparsernn.core.devices import CPU
from sparsernn.core.peers import BY_ITSELF, Peers

NAMES = ("windows", "product", "estimate", "target", "error", "injected")


class Readings:
    """Sums over the windows since the last look, kept where the estimates are: nobody waits for them until then.

    Args:
        device: of the estimates.

    Example:
        >>> readings = Readings()
        >>> readings.add(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
        >>> readings.take()
        {'sg_cosine': 1.0, 'sg_r2': 0.75, 'sg_rms_ratio': 0.5, 'sg_injected': 0.0}
        >>> readings.take()
        {}
    """

    def __init__(self, device: torch.device = CPU) -> None:
        self.sums = torch.zeros(len(NAMES), dtype=torch.double, device=device)

    def add(
        self, estimate: Tensor, target: Tensor, injected: Tensor | None = None, peers: Peers = BY_ITSELF
    ) -> None:
        """A window: estimate and target of its start (B, D), and what was injected at its end, in one unit.

        Each process has those of its own sequences.
        """
        e, t = estimate.flatten(), target.flatten()
        product, ee, tt = e @ t, e @ e, t @ t
        entered = e.new_zeros(()) if injected is None else injected.square().sum()
        found = [e.new_ones(()), product, ee, tt, (e - t).square().sum(), entered]
        sums = torch.stack([x.detach().double() for x in found])
        peers.sum([sums])
        self.sums += sums

    def take(self) -> dict[str, float]:
        """What the sums say, and begin anew.

        Returns:
            sg_cosine of estimate and target; sg_r2, 1 - |estimate - target|^2 / |target|^2; sg_rms_ratio,
            |estimate| / |target|; sg_injected, |what entered at the windows' ends| / |target|. {} without windows;
            a figure that would be 0 / 0 is left out.
        """
        s = dict(zip(NAMES, self.sums.tolist(), strict=True))
        self.sums = torch.zeros_like(self.sums)
        if not s["windows"]:
            return {}
        both = math.sqrt(s["estimate"] * s["target"])
        found = {"sg_cosine": s["product"] / both} if both else {}
        if s["target"]:
            found["sg_r2"] = 1 - s["error"] / s["target"]
            found["sg_rms_ratio"] = math.sqrt(s["estimate"] / s["target"])
            found["sg_injected"] = math.sqrt(s["injected"] / s["target"])
        return found
