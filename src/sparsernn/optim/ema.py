"""Exponential moving averages of the weights, kept beside any optimizer."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, TypeAlias, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from sparsernn.core.checks import checked
from sparsernn.core.limits import DropRate, Kind, NonNegative, Spec
from sparsernn.core.plain import Json
from sparsernn.core.registry import make


class Averaging:
    """Mixed into an optimizer: average <- d * average + (1 - d) * weight after every step.

    An average takes a step's weights when the next step begins, or when it is looked at: by then whatever follows the
    optimizer's step (masks, thresholds) has been done to them. It is kept as `state[parameter]["average"]`, among the
    buffers of the parameter's shape, which masks are put on and removed units are taken out of.

    Attributes:
        decay: d, in [0, 1).
        warm_up: the n-th decay is at most (1 + n) / (10 + n), so that a short run is not an average of its beginning.
        updates: weights that were averaged.
    """

    decay: float
    warm_up: bool
    updates: int
    pending: bool
    exhausted = False
    finetunes = False
    param_groups: list[dict[str, Json]]
    state: defaultdict[Tensor, Json]

    @checked
    def average_with(self, decay: DropRate, warm_up: bool) -> None:
        """Start to average.

        Raises:
            InputError: a decay outside [0, 1).
        """
        self.decay, self.warm_up, self.updates, self.pending = decay, warm_up, 0, False

    @property
    def averaging(self) -> bool:
        """Whether there is an average to evaluate."""
        return self.updates > 0 or self.pending

    def trigger(self, validation_loss: float) -> bool:
        """False: the average runs from the first step."""
        return False

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """The weights of the step before go into the average, then the optimizer's own step."""
        self.fold()
        result: float | None = super().step(closure)  # type: ignore[misc]
        for p in self._parameters():
            if p.grad is not None and "average" not in self.state[p]:
                self.state[p]["average"] = p.detach().clone()
        self.pending = True
        return result

    @torch.no_grad()
    def fold(self) -> None:
        """Bring the average up to date with the weights as they are."""
        if not self.pending:
            return
        kept = [p for p in self._parameters() if "average" in self.state[p]]
        if not kept:
            return
        torch._foreach_lerp_(
            [self.state[p]["average"] for p in kept], [p.detach() for p in kept], 1 - self._decay()
        )
        self.updates, self.pending = self.updates + 1, False

    def _decay(self) -> float:
        if not self.updates:
            return 0.0
        warm = (1 + self.updates) / (10 + self.updates) if self.warm_up else 1.0
        return min(self.decay, warm)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Swap the averages in, and the raw weights back at the end.

        A weight that is exactly 0 has the average 0: what a threshold or a mask took away stays away.
        """
        self.fold()
        swapped = [p for p in self._parameters() if "average" in self.state[p]]
        raw = [p.detach().clone() for p in swapped]
        with torch.no_grad():
            for p, weight in zip(swapped, raw, strict=True):
                p.copy_(self.state[p]["average"]).masked_fill_(weight == 0, 0.0)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, weight in zip(swapped, raw, strict=True):
                    p.copy_(weight)

    def state_dict(self) -> dict[str, Json]:
        """The optimizer's, with the averages, and how many weights are in them."""
        self.fold()
        state: dict[str, Json] = super().state_dict()  # type: ignore[misc]
        return {**state, "averaging": {"updates": self.updates}}

    def load_state_dict(self, state_dict: Mapping[str, Json]) -> None:
        """Take up where `state_dict` left off, to the bit."""
        own = state_dict["averaging"]
        rest = {key: value for key, value in state_dict.items() if key != "averaging"}
        super().load_state_dict(rest)  # type: ignore[misc]
        self.updates, self.pending = own["updates"], False

    def __getstate__(self) -> dict[str, Json]:
        """What copies and pickles take along: torch's optimizers name theirs, and so leave everything else behind."""
        state: dict[str, Json] = super().__getstate__()  # type: ignore[assignment]
        return {**state, **{name: getattr(self, name) for name in ("decay", "warm_up", "updates", "pending")}}

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]


class AveragedSGD(Averaging, torch.optim.SGD):
    """SGD with averages."""


class AveragedAdadelta(Averaging, torch.optim.Adadelta):
    """Adadelta with averages."""


class AveragedAdam(Averaging, torch.optim.Adam):
    """Adam with averages."""


class AveragedRMSprop(Averaging, torch.optim.RMSprop):
    """RMSprop with averages."""


Averaged: TypeAlias = AveragedSGD | AveragedAdadelta | AveragedAdam | AveragedRMSprop
AVERAGED: dict[str, Callable[..., Averaged]] = {
    "adadelta": AveragedAdadelta,
    "adam": AveragedAdam,
    "rmsprop": AveragedRMSprop,
    "sgd": AveragedSGD,
}


@checked
def ema(
    params: ParamsT,
    lr: NonNegative,
    *,
    of: Annotated[Spec, Kind("averaged")] = "adam",
    decay: DropRate = 0.999,
    warm_up: bool = True,
) -> Averaged:
    """An optimizer whose weights are averaged exponentially from the first step; the averages are evaluated.

    Args:
        params: parameters or groups of them.
        lr: learning rate, > 0.
        of: spec of the optimizer: "adadelta", "adam", "rmsprop", "sgd", or {name: ..., its settings}.
        decay: share of the average that stays at each step, in [0, 1).
        warm_up: let it grow from 0.18 to `decay`: the n-th is at most (1 + n) / (10 + n).

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = ema([w], lr=1.0, of="sgd", decay=0.5, warm_up=False)
        >>> for step in (1.0, 2.0):
        ...     w.grad = torch.tensor([-step])
        ...     optimizer.step()
        >>> with optimizer.averaged():
        ...     w.item()   # between 2 and 4; the raw weight is 4
        3.0

    Source: B. T. Polyak and A. B. Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM Journal on
    Control and Optimization, 1992, for the idea; the warm-up is TensorFlow's.
    Differs from TensorFlow: the average starts with the weights after the first step, not with the initial ones, and
    every average takes the weights as they are after masks and thresholds.
    """
    optimizer = make("optimizer.of", AVERAGED, of, params=params, lr=lr)
    optimizer.average_with(decay, warm_up)
    return optimizer
