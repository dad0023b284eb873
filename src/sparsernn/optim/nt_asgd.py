"""SGD that starts to average its weights once validation stops improving, for all weights alike or per weight.

NT-ASGD averages every weight from the trigger on. Under a changing mask that is wrong: a weight grown later has been
0 for most of the window, and its average is dragged to 0. The per-weight form (SNT-ASGD) averages each weight only
over the iterates since it was last grown.

How the average is kept: a running sum takes one pass over memory per step, and everything that differs between
weights (how many iterates each has seen) is touched only when the sum is folded into the average: before masks
change, before the averages are read, and every `FOLD_EVERY` steps, which also keeps the sum's rounding error small.

Source: S. Merity, N. S. Keskar and R. Socher, "Regularizing and Optimizing LSTM Language Models", 2017,
arXiv:1708.02182; S. Liu et al., "Selfish Sparse RNN Training", ICML 2021, arXiv:2101.09048.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd

from sparsernn.core.checks import checked
from sparsernn.core.limits import Count, NonNegative, Size
from sparsernn.core.plain import Json

FOLD_EVERY = 1024
"""Steps between folds. A sum of n equal numbers is off by up to n/2 units in the last place: 3e-5 at 1024."""


PIECE = 1 << 17
"""Weights folded at a time: half a megabyte in float32, the second-level cache of a small core."""


class NTASGD(torch.optim.Optimizer):
    """SGD without momentum whose weights are averaged from a non-monotone trigger on.

        w <- w - lr * (gradient + weight_decay * w);   after the trigger: a_i = mean of w_i since i was last grown

    As in torch's ASGD the first iterate after the start of an average is overwritten by the second, so that a is the
    mean of iterates 2..n.

    Args:
        params: parameters or groups of them.
        lr: learning rate, > 0.
        weight_decay: L2 coefficient, added to the gradient.
        nonmono: patience n of the trigger, in epochs.
        switch_epoch: start averaging at the end of this epoch instead (0: from the first step).
        per_weight: False averages over all iterates since the trigger (NT-ASGD), True per weight since it was
            grown (SNT-ASGD).
        stop_when_worse: once averaging, ask for the end of the run when the trigger fires again (finetuning).

    State per parameter: `average`, `sum` (both of the parameter's shape) and `count` (iterates seen: int32 of the
    parameter's shape with `per_weight`, else one number).

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = NTASGD([w], lr=1.0, switch_epoch=0)
        >>> for step in (1.0, 2.0, 3.0):
        ...     w.grad = torch.tensor([-step])
        ...     optimizer.step()
        >>> with optimizer.averaged():
        ...     w.item()   # the mean of 4 and 7; the raw weight is 7
        5.5

    Differs from the original: state belongs to the parameter, not to a position in a list, so every masked weight
    takes part in any model; the learning rate is read at every step; dense models work too.
    """

    finetunes = True

    @checked
    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative,
        *,
        weight_decay: NonNegative = 0.0,
        nonmono: Size = 5,
        switch_epoch: Count | None = None,
        per_weight: bool = False,
        stop_when_worse: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.per_weight, self.stop_when_worse = per_weight, stop_when_worse
        self._worse = NonMonotone(nonmono, None if switch_epoch == 0 else switch_epoch)
        self.averaging = switch_epoch == 0
        self.exhausted = False

    def trigger(self, validation_loss: float) -> bool:
        """Tell the optimizer this epoch's validation loss; True in the epoch in which averaging starts."""
        fired = self._worse(validation_loss)
        started = fired and not self.averaging
        self.exhausted = fired and self.averaging and self.stop_when_worse
        self.averaging = self.averaging or fired
        return started

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One SGD step, then one iterate more in every average."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._descend(group)
        if self.averaging:
            self._accumulate()
        return loss

    def _descend(self, group: dict[str, Json]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        sgd(
            params,
            [p.grad for p in params],
            [None] * len(params),
            fused=all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in params),
            weight_decay=group["weight_decay"],
            momentum=0.0,
            lr=group["lr"],
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )

    def _accumulate(self) -> None:
        params = [p for p in self._parameters() if p.grad is not None]
        if not params:
            return
        for p in params:
            if p not in self.state:
                self.state[p] = self._fresh(p)
        states = [self.state[p] for p in params]
        # Before this step's weights come in, not after: their absent positions are zeroed only after the step.
        if any(state["block"] >= FOLD_EVERY for state in states):
            self.fold()
        torch._foreach_add_([s["sum"] for s in states], [p.detach() for p in params])
        for state in (s for s in states if s["young"]):
            state["sum"].masked_fill_(state["count"] == 0, 0.0)
            state["young"] = False
        for state in states:
            state["block"] += 1

    def _fresh(self, p: Tensor) -> dict[str, Json]:
        count = torch.zeros(p.shape if self.per_weight else (), dtype=torch.int32, device=p.device)
        return {
            "average": torch.zeros_like(p),
            "sum": torch.zeros_like(p),
            "count": count,
            "block": 0,
            "young": True,
        }

    @torch.no_grad()
    def fold(self) -> None:
        """Bring every average up to date with the iterates summed since the last fold."""
        for p in self._parameters():
            if p in self.state:
                _fold(p, self.state[p])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Swap the averages in, and the raw weights back at the end; a parameter without average keeps its weight."""
        self.fold()
        swapped = [p for p in self._parameters() if p in self.state]
        raw = [p.detach().clone() for p in swapped]
        with torch.no_grad():
            for p in swapped:
                p.copy_(self.state[p]["average"])
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(swapped, raw, strict=True):
                    p.copy_(value)

    @torch.no_grad()
    def rewired(self, parameter: Tensor, mask: Tensor, grown: Tensor) -> None:
        """The mask of `parameter` changed: absent weights have no average, grown ones start a new one.

        Args:
            parameter: one of this optimizer's.
            mask: True where a weight now exists, of the parameter's shape.
            grown: True where it came into being in this change.
        """
        if parameter not in self.state:
            return
        state = self.state[parameter]
        _fold(parameter, state)
        gone = ~mask | grown
        state["average"].masked_fill_(gone, 0.0)
        if self.per_weight:
            state["count"].masked_fill_(gone, 0)
            state["young"] = True

    def per_weight_buffers(self, parameter: Tensor) -> list[Tensor]:
        """What has to be zeroed at absent weights after each step: the running sum.

        Averages and counts change only in `fold`, from sums that are 0 there, and in `rewired`.
        """
        return [self.state[parameter]["sum"]] if parameter in self.state else []

    def state_dict(self) -> dict[str, Json]:
        """Groups and averages, plus the trigger's memory."""
        own = {"losses": self._worse.losses, "averaging": self.averaging, "exhausted": self.exhausted}
        return {**super().state_dict(), "trigger": own}

    def load_state_dict(self, state_dict: Mapping[str, Json]) -> None:
        """Take up where `state_dict` left off, to the bit."""
        own = state_dict["trigger"]
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "trigger"})
        for state in self.state.values():
            state["count"] = state["count"].to(torch.int32)
        self._worse.losses = list(own["losses"])
        self.averaging, self.exhausted = own["averaging"], own["exhausted"]

    def __getstate__(self) -> dict[str, Json]:
        """What copies and pickles take along: torch's optimizers name theirs, and so leave everything else behind."""
        own = ("per_weight", "stop_when_worse", "_worse", "averaging", "exhausted")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]


def _fold(p: Tensor, state: dict[str, Json]) -> None:
    """average <- mean of iterates 2..count; one iterate only: that iterate."""
    if state["block"] == 0:
        return
    for weight, average, total, count in _pieces(p.detach(), state["average"], state["sum"], state["count"]):
        before = (count - 1).clamp_(min=0)
        after = (count + (state["block"] - 1)).clamp_(min=0)
        share = after.clamp(min=1).to(weight.dtype).reciprocal_()
        average.addcmul_(total - average * (after - before), share)
        torch.where(after > 0, average, weight, out=average)
    state["count"] += state["block"]
    state["sum"].zero_()
    state["block"] = 0


def _pieces(p: Tensor, average: Tensor, total: Tensor, count: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors cut into pieces small enough that a dozen passes over one stay in the cache."""
    whole = [p, average, total] + [count] * (count.ndim > 0)
    if not all(t.is_contiguous() for t in whole) or p.ndim == 0:
        yield p, average, total, count
        return
    cut = [torch.split(t.view(-1), PIECE) for t in whole]
    for number in range(len(cut[0])):
        pieces = [column[number] for column in cut]
        yield pieces[0], pieces[1], pieces[2], (pieces[3] if count.ndim else count)


class NonMonotone:
    """Fires when the newest loss is above the best of all but the last `patience` ones.

    Args:
        patience: n of "min(V[:-n])", at least 1.
        fixed_epoch: fire at the end of this epoch (counted from 1; 0 = from the start) instead.

    Example:
        >>> trigger = NonMonotone(patience=2)
        >>> [trigger(loss) for loss in (3.0, 2.0, 2.5, 2.4, 2.6)]
        [False, False, False, False, True]

    The newest value is compared with V before it is appended, and V must hold more than n values, as in the
    published code (its authors called the condition of their paper a misprint).
    """

    @checked
    def __init__(self, patience: Size, fixed_epoch: Count | None = None) -> None:
        self.patience, self.fixed_epoch = patience, fixed_epoch
        self.losses: list[float] = []

    def __call__(self, loss: float) -> bool:
        """Judge the newest loss, then remember it."""
        worse = len(self.losses) > self.patience and loss > min(self.losses[: -self.patience])
        self.losses.append(loss)
        if self.fixed_epoch is None or len(self.losses) > self.fixed_epoch:
            return worse
        return len(self.losses) == self.fixed_epoch
