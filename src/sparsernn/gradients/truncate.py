"""What happens where backpropagation through time is cut: the contract, and the member that lets nothing through.

In an epoch the loop calls `begin`; in a window `enter` before the loss, `roots` before the one backward pass and
`learn` after it; `records` whenever it logs.
"""

from collections.abc import Mapping

from torch import Tensor

from sparsernn.core.peers import BY_ITSELF, Peers
from sparsernn.core.plain import Json
from sparsernn.core.states import State, detached

Roots = tuple[list[Tensor], list[Tensor]]
"""Tensors besides the loss from which the backward pass starts, and the gradient of each."""


class Truncate:
    """Truncated backpropagation through time: nothing flows back across the cut. The null member.

    Example:
        >>> import torch
        >>> Truncate().enter((torch.ones(1, requires_grad=True) * 2,), first=False)[0].requires_grad
        False

    Attributes:
        synthesizer_from: a run or checkpoint whose synthesizer a new run starts with; None: its own. Whoever
            creates the run reads it and calls `begin_with`.
    """

    synthesizer_from: str | None = None

    def begin(self, epoch: int) -> list[dict[str, Json]]:
        """An epoch, counted from 1, begins or goes on.

        Returns:
            Records of what begins with it, for metrics.jsonl.
        """
        return []

    def enter(self, state: State, first: bool) -> State:
        """The state that a window starts with, cut off from the window before.

        Args:
            state: a nested state as the model carries it, or its initial state.
            first: nothing lies before this window. An initial state may be learnt, so it is not cut off.
        """
        return state if first else detached(state)

    def roots(self, state: State, targets: int, last: bool) -> Roots:
        """More roots for the backward pass, which also serves `learn`.

        Args:
            state: the one at the window's end, with its graph.
            targets: scored targets in the window, those of all processes: what the loss is a mean over.
            last: no window follows; the state is not carried on.
        """
        return [], []

    def check_parts(self, parts: int) -> None:
        """Before several processes train: raise InputError where what the boundary trains needs whole batches.

        Args:
            parts: number of processes.
        """

    def learn(self, peers: Peers = BY_ITSELF) -> None:
        """The gradients are there, not yet clipped: train what the boundary trains.

        Args:
            peers: the processes that do so together, each for its own sequences. The parameters' gradients are summed
                over them already, those of the state are this process' own.
        """

    def records(self) -> dict[str, float]:
        """Figures since the last call, for the log."""
        return {}

    def phases(self) -> list[dict[str, Json]]:
        """What the epochs differ in, for the plan: [{"first": 1, "last": 5, "source": "real"}, ...]."""
        return []

    def parameters(self) -> dict[str, Tensor]:
        """What the boundary trains, by name; none of it belongs to the model."""
        return {}

    def begin_with(self, saved: Mapping[str, Json]) -> None:
        """Start with what the boundary of another run has learnt.

        Args:
            saved: its `state_dict`.

        Raises:
            InputError: it does not fit.
        """

    def state_dict(self) -> dict[str, Json]:
        """Everything that a resumed run needs besides the settings."""
        return {}

    def load_state_dict(self, state: dict[str, Json]) -> None:
        """Take up what `state_dict` returned."""
