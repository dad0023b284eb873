"""Random numbers of its own for a part of a run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sparsernn.core.streams import stream


class Dice:
    """A second state of torch's generator: whoever draws from it leaves the run's own draws as they are.

    Example:
        >>> dice = Dice(1)
        >>> before = torch.get_rng_state()
        >>> with dice.rolling():
        ...     a = torch.rand(1)
        >>> bool((torch.get_rng_state() == before).all())
        True
    """

    def __init__(self, seed: int) -> None:
        self.state: Tensor = stream("synthesizer", seed).get_state()

    @contextmanager
    def rolling(self, again: Tensor | None = None) -> Iterator[None]:
        """Draw inside; with the state `again`, the draws that followed it are made once more and do not count."""
        outer = torch.get_rng_state()
        torch.set_rng_state(self.state if again is None else again)
        try:
            yield
        finally:
            if again is None:
                self.state = torch.get_rng_state()
            torch.set_rng_state(outer)
