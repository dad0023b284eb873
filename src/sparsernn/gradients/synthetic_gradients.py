"""Synthetic gradients: what flows back across the cut is estimated by a small network.

Let s be the state at the start of a window, s' the one at its end, l the window's loss. A synthesizer S learns

    S(s) ~ dl/ds + gamma (ds'/ds)^T S(s')

the gradient of all that follows, bootstrapped as in temporal-difference learning. One backward pass from l and from
s' (with the gradient gamma S(s')) gives the weights what lies beyond the window, and gives s, a leaf, exactly the
target.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from sparsernn.contracts import Model
from sparsernn.core.checks import checked
from sparsernn.core.devices import CPU, moved
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Count, Entries, Kind, Size, Spec
from sparsernn.core.peers import BY_ITSELF, Peers
from sparsernn.core.plain import Json
from sparsernn.core.registry import make
from sparsernn.core.saved_tree import misfit
from sparsernn.core.states import State, detached
from sparsernn.gradients.generator import Dice
from sparsernn.gradients.gradient_phases import PhaseSchedule, Source
from sparsernn.gradients.gradient_share import Share
from sparsernn.gradients.quality import Readings
from sparsernn.gradients.state_vector import Parts
from sparsernn.gradients.synthesizer import SYNTHESIZERS, Synthesizer
from sparsernn.gradients.synthetic_settings import Settings, parse
from sparsernn.gradients.truncate import Roots, Truncate
from sparsernn.optim.schedules import linear

RMS_DECAY = 0.99  # of the running mean square of "rms": about the last hundred windows
Boundary = tuple[State, Tensor]
"""What a cut was estimated with: the synthesizer's memory before it, and the state of its dice."""


class SyntheticGradient(Truncate):
    """Truncated backpropagation, plus an estimate of the gradient that lies beyond each window.

    Works under every model that carries a state of tensors and every task that hands it on. The synthesizer has an
    optimizer and random numbers of its own: with gamma 0 the training is the truncated one, bit for bit.

    Args:
        model: carries the state.
        seed: of the synthesizer's weights and noise.
        epochs: of the run.
        synthesizer: "mlp", "elementwise" or a spec of one.
        start: source of the gradient in the first epoch, "synthetic" or "real".
        switch_epochs: epochs, counted from 1, from which on the other source is used.
        parts: numbers of the state's tensors to estimate the gradient of; null takes all of real numbers.
        settings: see `sparsernn.gradients.synthetic_settings.Settings`.

    Raises:
        InputError: a setting out of range, or a model without a state.

    Example:
        >>> from sparsernn.models import SequenceModel
        >>> model = SequenceModel(1, 1, [4], layer="gru")
        >>> boundary = SyntheticGradient(model, seed=1, epochs=1)
        >>> state = boundary.enter(model.initial_state(2), first=False)
        >>> features = model(torch.ones(3, 2, 1), state)
        >>> roots = boundary.roots(features.state, targets=6, last=False)
        >>> torch.autograd.backward([features.raw.mean(), *roots[0]], [None, *roots[1]])
        >>> boundary.learn()
        >>> sorted(boundary.records())
        ['sg_injected', 'sg_r2', 'sg_rms_ratio', 'sg_share']

    Source: M. Jaderberg et al., "Decoupled Neural Interfaces using Synthetic Gradients", 2016, arXiv:1608.05343;
    F. Shang and H. Zhang, "Alternating Synthetic and Real Gradients for Neural Language Modeling", 2019,
    arXiv:1902.10630.
    Differs from the originals: see `Settings`; `faithful` trains as the code of the second one does.
    """

    settings_groups: ClassVar[tuple[type, ...]] = (Settings,)

    @checked
    def __init__(
        self,
        model: Model,
        seed: int,
        epochs: int,
        *,
        synthesizer: Annotated[Spec, Kind("synthesizer")] = "mlp",
        start: Source = "synthetic",
        switch_epochs: Sequence[Size] = (),
        parts: Annotated[Sequence[Count], Entries(1)] | None = None,
        **settings: Json,
    ) -> None:
        self.settings, self.parts = parse(settings), Parts(model, parts)
        self.schedule = PhaseSchedule(epochs, start, switch_epochs)
        self.synthesizer_from = self.settings.synthesizer_from
        self.dice = Dice(seed)
        self.share = Share([p for p in model.parameters() if p.requires_grad])
        with self.dice.rolling():
            made = make("synthesizer", SYNTHESIZERS, synthesizer, size=self.parts.width)
        if made.context_size:
            raise InputError(
                f"the synthesizer's context_size is {made.context_size}, but nothing gives it a context beside the "
                "state; it must be 0."
            )
        like = self.parts.join(self.parts.of(model.initial_state(1)))
        self.synthesizer: Synthesizer = made.to(like.device, like.dtype)
        self.dice = self.dice if like.device == CPU else Dice(seed, like.device)
        self.readings = Readings(like.device)
        self.optimizer = torch.optim.Adam(
            self.synthesizer.parameters(), self.settings.lr, weight_decay=self.settings.weight_decay
        )
        last = self.settings.lr if self.settings.lr_end is None else self.settings.lr_end
        self._rate = linear(self.settings.lr, last, max(1, epochs - 1))
        self.memory: State = None
        self.rms: float | None = None
        self.injecting = self.schedule.source(1) == "synthetic"
        self._before: Boundary | None = None
        self._forget_window()

    def _forget_window(self) -> None:
        self._leaves: list[Tensor] = []
        self._beyond: list[Tensor | None] = []
        self._estimated: Tensor | None = None
        self._injected: Tensor | None = None
        self._after: Boundary | None = None
        self._unit = 0.0

    def begin(self, epoch: int) -> list[dict[str, Json]]:
        """Whether this epoch's gradient is real or synthetic; told where that changes."""
        source = self.schedule.source(epoch)
        self.injecting = source == "synthetic"
        if self.settings.lr_end is not None:
            self.optimizer.param_groups[0]["lr"] = self._rate(epoch - 1)
        told = len(self.schedule.phases) > 1 and self.schedule.begins(epoch)
        return [{"event": "phase", "source": source}] if told else []

    def enter(self, state: State, first: bool) -> State:
        """The state cut off, its parts as leaves whose gradient is the synthesizer's target."""
        self._forget_window()
        if state is None or (first and not self.settings.edges):
            return super().enter(state, first)
        state, self._leaves = self.parts.leaves(state)
        return state

    def roots(self, state: State, targets: int, last: bool) -> Roots:
        """The state at the window's end and its estimated gradient; none while the real one is used.

        Raises:
            InputError: the task carries no state from batch to batch.
        """
        if state is None:
            raise InputError(
                "this task carries no state from batch to batch, so there is no gradient to estimate; "
                "boundary must be truncate."
            )
        self._unit = self.unit(targets)
        if self._leaves and self.settings.advance == "twice":
            before = (self.memory, self.dice.state)
            self._estimated, self.memory = self._estimate(self._leaves, before, training=True)
        roots = self._foresee(self.parts.of(state)) if self.settings.edges or not last else ([], [])
        if last:
            self.memory, self._after = None, None
        if not roots[0] or self.injecting:
            self.share.measure(*roots)
            return roots
        if self._leaves:  # the target alone looks beyond the window
            self._beyond = list(
                torch.autograd.grad(roots[0], self._leaves, roots[1], retain_graph=True, allow_unused=True)
            )
        return [], []

    def _foresee(self, ends: list[Tensor]) -> Roots:
        """The parts of the state at the window's end, and the estimated gradient of the loss after it."""
        settings, self._after = self.settings, (self.memory, self.dice.state)
        wanted = self.injecting or settings.real_target == "bootstrapped"
        wanted = wanted and settings.gamma > 0 and self._unit > 0
        if not wanted and (settings.advance == "twice" or not self.synthesizer.carries):
            return [], []
        mode = settings.injection == "training"
        with torch.no_grad():
            estimate, self.memory = self._estimate(ends, self._after, mode)
        if not wanted:
            return [], []
        self._injected = settings.gamma * estimate if self.injecting else None
        gradients = self.parts.split(estimate * (settings.gamma / self._unit))
        pairs = [(e, g) for e, g in zip(ends, gradients, strict=True) if e.requires_grad]
        return [e for e, _ in pairs], [g for _, g in pairs]

    def _estimate(
        self, parts: list[Tensor], before: Boundary, training: bool, again: bool = False
    ) -> tuple[Tensor, State]:
        """The synthesizer's answer; `again`: with the random numbers that it had `before`."""
        self.synthesizer.train(training)
        with self.dice.rolling(before[1] if again else None):
            estimate, memory = self.synthesizer(self.parts.join(parts), before[0])
        return estimate, detached(memory)

    @torch.no_grad()
    def estimate(self, state: State, memory: State = None) -> tuple[Tensor, State]:
        """What the synthesizer says of a state, (B, D), without noise, and its memory; nothing of the run changes."""
        return self._estimate(self.parts.of(state), (memory, self.dice.state), training=False, again=True)

    def check_parts(self, parts: int) -> None:
        """Refuse a synthesizer whose recurrence runs over all sequences of the batch."""
        if self.synthesizer.mixes:
            raise InputError(
                f"synthesizer.axis is 'flat', one row of all sequences, which {parts} processes cannot divide; it "
                "must be time or units, or one process."
            )

    def learn(self, peers: Peers = BY_ITSELF) -> None:
        """One step of the synthesizer towards the gradient that arrived at the window's start."""
        self.share.finish(peers)
        if self._leaves:
            estimate, target = self._pair(peers)
            self.readings.add(estimate.detach(), target, self._injected, peers)
            if self.settings.learn:
                self._step(estimate, target, peers)
        self._before = self._after

    def _pair(self, peers: Peers) -> tuple[Tensor, Tensor]:
        """Estimate, with its graph, and target of the window's start, (B, D) each, in the synthesizer's unit."""
        gradients = [_zero_if_none(leaf.grad, leaf) for leaf in self._leaves]
        beyond = [_zero_if_none(g, leaf) for g, leaf in zip(self._beyond, self._leaves, strict=False)]
        gradient = self.parts.join(gradients)
        if beyond:
            gradient = gradient + self.parts.join(beyond)
        target = gradient * self._measure(gradient, peers)
        if self._estimated is None:
            # Weights have moved since the cut: computed anew from what the cut was estimated with.
            before = self._before or (None, self.dice.state)
            again = self.settings.injection == "training"
            self._estimated, _ = self._estimate(self._leaves, before, training=True, again=again)
        return self._estimated, target

    def _step(self, estimate: Tensor, target: Tensor, peers: Peers) -> None:
        settings, parameters = self.settings, list(self.synthesizer.parameters())
        passes = 2 if settings.two_pass and self._injected is not None else 1
        slope = 2 * (passes * estimate.detach() - target)
        self.optimizer.zero_grad()
        if settings.loss == "mean":
            slope = slope / _numbers(slope, peers)
        torch.autograd.backward(estimate, slope)
        peers.sum([p.grad for p in parameters if p.grad is not None])
        largest = float("inf") if settings.clip is None else settings.clip
        norm = torch.nn.utils.clip_grad_norm_(parameters, largest, foreach=True)
        # If it is not, the loop is about to stop the run: at once on a CPU, a little later where asking would wait.
        if norm.device.type != "cpu" or norm.isfinite():
            self.optimizer.step()

    def unit(self, targets: int) -> float:
        """The synthesizer's number for a gradient of 1 of a mean loss over `targets`; 0: not known yet."""
        if self.settings.scale == "rms":
            return 1 / self.rms if self.rms else 0.0
        return float(targets) if self.settings.scale == "tokens" else 1.0

    def _measure(self, gradient: Tensor, peers: Peers) -> float:
        """The unit of this window; a running one hears of its gradient."""
        if self.settings.scale != "rms":
            return self._unit
        squares = gradient.double().square().mean() * (gradient.numel() / _numbers(gradient, peers))
        peers.sum([squares])
        now = float(squares.sqrt())
        unit = self._unit or (1 / now if now else 0.0)
        before = now if self.rms is None else self.rms
        self.rms = (RMS_DECAY * before**2 + (1 - RMS_DECAY) * now**2) ** 0.5
        return unit

    def records(self) -> dict[str, float]:
        """Cosine, R^2 and sizes since the last call, see `Readings.take`, and the share, see `Share.take`."""
        return {**self.readings.take(), **self.share.take()}

    def phases(self) -> list[dict[str, Json]]:
        """The phases of the run."""
        return self.schedule.plain()

    def parameters(self) -> dict[str, Tensor]:
        """Those of the synthesizer."""
        return dict(self.synthesizer.named_parameters())

    def begin_with(self, saved: Mapping[str, Json]) -> None:
        """Take up the synthesizer of another run, its optimizer's averages and its unit; the settings stay.

        Raises:
            InputError: no synthesizer there, another one, or one whose estimates have another unit.
        """
        check_fits(saved, self.synthesizer.state_dict(), self.settings.scale)
        self.synthesizer.load_state_dict(saved["synthesizer"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({**saved["optimizer"], "param_groups": groups})
        self.rms = saved["rms"]

    def state_dict(self) -> dict[str, Json]:
        """Synthesizer, its optimizer, its memory, its dice, running figures."""
        return {
            "synthesizer": dict(self.synthesizer.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "memory": self.memory,
            "before": self._before,
            "dice": self.dice.state,
            "rms": self.rms,
            "readings": self.readings.sums,
            "share": self.share.known(),
            "scale": self.settings.scale,
        }

    def load_state_dict(self, state: dict[str, Json]) -> None:
        """Go on from what `state_dict` returned."""
        self.synthesizer.load_state_dict(state["synthesizer"])
        self.optimizer.load_state_dict(state["optimizer"])
        device = self.dice.device
        self.memory, self.rms = moved(state["memory"], device), state["rms"]
        before = state["before"]
        self._before = before and (moved(before[0], device), self.dice.own(before[1]))
        self.dice.state, self.readings.sums = self.dice.own(state["dice"]), moved(state["readings"], device)
        self.share.value = state.get("share")
        self._forget_window()


def _numbers(own: Tensor, peers: Peers) -> int:
    """How many numbers such a tensor has on all processes together, whose shares of the batch may differ."""
    count = torch.tensor(own.numel())
    peers.sum([count])
    return int(count)


def _zero_if_none(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient


def check_fits(saved: Mapping[str, Json], own: Mapping[str, Tensor], scale: str) -> None:
    """Refuse what cannot be taken up.

    Args:
        saved: the `state_dict` of a boundary.
        own: the tensors of this run's synthesizer.
        scale: the unit of its estimates.

    Raises:
        InputError: one sentence without its subject, the place where `saved` was found.

    Example:
        >>> check_fits({}, {}, "tokens")
        Traceback (most recent call last):
        sparsernn.core.errors.InputError: holds no synthesizer; it must be the last checkpoint of a run ...
    """
    if "synthesizer" not in saved:
        raise InputError("holds no synthesizer; it must be the last checkpoint of a run that trained one")
    theirs = saved["synthesizer"]
    odd = sorted(own.keys() ^ theirs.keys())
    if odd:
        raise InputError(f"holds another synthesizer: the tensor '{odd[0]}' is on one side only")
    for name, tensor in own.items():
        if why := misfit(theirs[name], tensor, same_type=False):
            raise InputError(f"holds another synthesizer: '{name}' {why}")
    unit = saved.get("scale", scale)  # runs from before it was written down do not say
    if unit != scale:
        raise InputError(
            f"holds a synthesizer whose estimates have the unit '{unit}'; boundary.scale is '{scale}'"
        )
