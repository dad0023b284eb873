"""Random numbers of its own for a part of a run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sparsernn.core.devices import CPU, generator_state, set_generator_state
from sparsernn.core.streams import stream


class Dice:
    """A second state of torch's generator: whoever draws from it leaves the run's own draws as they are.

    Args:
        seed: of the run.
        device: where it is drawn; every kind of device has a generator of its own.

    Example:
        >>> dice = Dice(1)
        >>> before = torch.get_rng_state()
        >>> with dice.rolling():
        ...     a = torch.rand(1)
        >>> bool((torch.get_rng_state() == before).all())
        True
    """

    def __init__(self, seed: int, device: torch.device = CPU) -> None:
        self.device = device
        self.state: Tensor = stream("synthesizer", seed, device=device).get_state()

    @contextmanager
    def rolling(self, again: Tensor | None = None) -> Iterator[None]:
        """Draw inside; with the state `again`, the draws that followed it are made once more and do not count."""
        outer = generator_state(self.device)
        set_generator_state(self.state if again is None else again, self.device)
        try:
            yield
        finally:
            if again is None:
                self.state = generator_state(self.device)
            set_generator_state(outer, self.device)

    def own(self, state: Tensor) -> Tensor:
        """A saved state, or the present one where that was saved by a run on another kind of device."""
        return state if state.shape == self.state.shape else self.state
