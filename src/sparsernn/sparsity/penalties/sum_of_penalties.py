"""Several penalties at once: their gradients add up, and each has its own threshold."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

from torch import nn

from sparsernn.core.checks import checked
from sparsernn.core.limits import Entries, Kind, Spec
from sparsernn.core.plain import Json
from sparsernn.core.registry import make
from sparsernn.sparsity.optimizer_state import Optimizers
from sparsernn.sparsity.penalties.group_lasso import group_lasso
from sparsernn.sparsity.penalties.l1 import L1
from sparsernn.sparsity.penalties.penalty import Penalty
from sparsernn.sparsity.saved_state import check_keys
from sparsernn.sparsity.weight_counts import summarize

SINGLE: dict[str, Callable[..., Penalty]] = {"iss": group_lasso, "l1": L1}


class Together(Penalty):
    """The sum of several penalties, such as L1 on what group lasso leaves alone.

    Args:
        model: whose weights are penalised.
        optimizer: needed where one of them needs it.
        of: their specs, {name: iss or l1, ...}, at least one.
        window: time steps of a training window; recipes know it from their task.

    Raises:
        InputError: an empty list, or what one of them refuses.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -2.0]]))
        >>> penalty = Together(layer, of=[{"name": "l1", "strength": 0.5}, {"name": "l1", "strength": 0.25}])
        >>> penalty.after_backward()
        >>> layer.weight.grad.tolist(), penalty.value()
        ([[0.75, -0.75]], 3.75)
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers = None,
        *,
        of: Annotated[Sequence[Annotated[Spec, Kind("penalty")]], Entries(1)],
        window: int | None = None,
    ) -> None:
        super().__init__(model, optimizer)
        context = {"model": model, "optimizer": optimizer, "window": window}
        self.members: list[Penalty] = [make("sparsity.of", SINGLE, spec, **context) for spec in of]

    def value(self) -> float:
        """The sum."""
        return sum(member.value() for member in self.members)

    def notes(self) -> list[str]:
        """All members'."""
        return [note for member in self.members for note in member.notes()]

    def touches(self) -> list[nn.Parameter]:
        """What any of them touches."""
        found = {id(p): p for member in self.members for p in member.touches()}
        return list(found.values())

    def add_gradients(self, scale: float = 1.0) -> None:
        """All gradients."""
        for member in self.members:
            member.add_gradients(scale)

    def after_step(self) -> list[dict[str, Json]]:
        """All that the members do."""
        if len(self.optimizers) < 2:
            self._stepped = None
        return [event for member in self.members for event in member.after_step()]

    def project(self) -> None:
        """All thresholds."""
        for member in self.members:
            member.project()

    def end_epoch(self, averaging_starts: bool = False) -> list[dict[str, Json]]:
        """The members' events, but one record "zeros" of all that is penalised."""
        events = [event for member in self.members for event in member.end_epoch(averaging_starts)]
        return [event for event in events if event["event"] != "zeros"] + super().end_epoch(averaging_starts)

    def summary(self) -> dict[str, Json]:
        """As `summarize`, exact zeros counting as absent; and `units` of those that have them."""
        found = [member.summary() for member in self.members]
        named = dict(self.model.named_parameters()) if self.model is not None else {}
        own = dict.fromkeys(name for summary in found for name in summary["tensors"])
        units = [row for summary in found for row in summary.get("units", ())]
        return {**summarize(self.model, {n: named[n].detach() != 0 for n in own}), "units": units}

    def state_dict(self) -> dict[str, Json]:
        """One entry for each member, by its position."""
        return {str(k): member.state_dict() for k, member in enumerate(self.members)}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Hand every member its part.

        Raises:
            InputError: it is of other penalties.
        """
        check_keys(state, [str(k) for k in range(len(self.members))])
        for k, member in enumerate(self.members):
            member.load_state_dict(state[str(k)])
