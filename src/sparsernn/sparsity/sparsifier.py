"""The contract of everything that decides which weights exist, its dense null member, and composition."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.sparsity.attachment import Attachment
from sparsernn.sparsity.optimizer_state import Optimizers, check_owned, optimizers_of
from sparsernn.sparsity.projection import zero_absent
from sparsernn.sparsity.saved_state import check_keys
from sparsernn.sparsity.weight_counts import summarize
from sparsernn.structure.weight_places import Stored


class Sparsifier:
    """A part of the training loop that may add a penalty, and remove or revive weights. This one does
    nothing.

    The loop calls, in this order: `penalty` before the backward pass; `after_backward` between it and clipping;
    `after_step` right after the optimizer's step, while `.grad` is still there; `end_epoch` after evaluation,
    checkpoint and averaging trigger; `finalize` once before testing. Subclasses override what they need.

    Args:
        model: what `summary` counts; without it the summary is empty.
        optimizer: one or several that hold the model's parameters; None: the loop calls by itself what is needed.

    Example:
        >>> dense = Sparsifier(nn.Linear(4, 3))
        >>> dense.after_step(), dense.masks(), dense.summary()["model_density"]
        ([], {}, 1.0)
    """

    in_zeros: bool = False
    """Whether what is absent is known by exact zeros among the weights, and not by masks."""

    def __init__(self, model: nn.Module | None = None, optimizer: Optimizers = None) -> None:
        self.model = model
        self._optimizers = optimizers_of(optimizer)
        self._attachment: Attachment | None = None

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The optimizers whose buffers follow, the one whose steps count first."""
        return self._optimizers

    @property
    def optimizer(self) -> Optimizer | None:
        """The first of them. Assigning another one, or several, moves the hooks to it.

        Raises:
            InputError: an optimizer that does not hold what is sparse.
        """
        return next(iter(self._optimizers), None)

    @optimizer.setter
    def optimizer(self, given: Optimizers) -> None:
        """Move to other optimizers."""
        new = optimizers_of(given)
        self.check_owned(new)
        attached = self._attachment is not None
        self.detach()
        self._optimizers = new
        if attached and new:
            self.attach()

    def attach(self) -> None:
        """Hook this on its optimizers: their steps call it, and nothing has to be written in the loop.

        Raises:
            InputError: it has no optimizer, is attached already, or one of them has a sparsifier for these weights.
        """
        if self._attachment is not None or not self._optimizers:
            state = "attached already" if self._optimizers else "without an optimizer"
            raise InputError(
                f"this sparsifier is {state}; it can be attached once, to the optimizer it was given."
            )
        self._attachment = Attachment(self, self._optimizers)

    def detach(self) -> None:
        """Take the hooks off; the loop then calls `step()` itself. Nothing happens where there are none."""
        if self._attachment is not None:
            self._attachment.remove()
            self._attachment = None

    def check_owned(self, optimizers: Optimizers) -> None:
        """Raise InputError unless the optimizers hold all that this touches."""
        named = dict(self.model.named_parameters()) if self.model is not None else {}
        mine = {id(parameter) for parameter in self.needs()}
        check_owned(optimizers, {name: p for name, p in named.items() if id(p) in mine})

    @property
    def stage(self) -> int:
        """Grows whenever the network has become a smaller one, of which earlier scores say nothing; 0 for most."""
        return 0

    def notes(self) -> list[str]:
        """What will not happen in this run although it was asked for, a sentence each; told before it starts."""
        return []

    def touches(self) -> list[nn.Parameter]:
        """The parameters whose weights this removes or shrinks."""
        return []

    def needs(self) -> list[nn.Parameter]:
        """Those of them that the optimizers have to hold: all."""
        return self.touches()

    def before_step(self, optimizer: Optimizer, scale: float = 1.0) -> None:
        """Called by the hook before an optimizer's step, or after each evaluation of its closure.

        Args:
            optimizer: the one that is going to step.
            scale: what the gradients are multiplied by until it does.
        """

    def forget_gradients(self) -> None:
        """Called by the hook where gradients are thrown away: before a closure, and after a step that is skipped."""

    def value(self) -> float:
        """What a penalty adds to the loss by its gradients alone; 0.0 by default."""
        return 0.0

    def project(self) -> None:
        """Write zeros where no weight exists."""

    def penalty(self) -> Tensor | float:
        """What is added to the loss, a scalar; 0.0 by default."""
        return 0.0

    def dense_gradients(self) -> list[Tensor]:
        """Gradients besides those in `.grad` that this is going to look at, live; several processes average them."""
        return []

    def after_backward(self) -> None:
        """Called between the backward pass and clipping: add to `.grad` what is known without a graph."""

    def after_step(self) -> list[dict[str, Json]]:
        """Called after every optimizer step; returns the events to log (mask updates, for example)."""
        return []

    def end_epoch(self, averaging_starts: bool = False) -> list[dict[str, Json]]:
        """Called after every epoch; returns the events to log.

        Args:
            averaging_starts: the optimizer averages its weights from now on; what its `trigger` has just answered.
        """
        return []

    def finalize(self) -> None:
        """Called once after training: leave hard zeros behind."""

    def masks(self) -> dict[str, Tensor]:
        """Parameter name -> bool mask, live: the tensors change in place when masks do."""
        return {}

    def condensed(self, apart_from: Sequence[nn.Parameter] = ()) -> AbstractContextManager[None]:
        """Inside it, parameters may hold their existing values alone; by default none does.

        Args:
            apart_from: parameters that somebody else needs dense.
        """
        return nullcontext()

    def lent(self) -> AbstractContextManager[None]:
        """Inside it the weights are dense, to be looked at, where they are not anyway; no step is taken."""
        return nullcontext()

    def layouts(self) -> dict[str, Stored]:
        """Parameter name -> where its values belong, of those whose buffers are values alone at the moment."""
        return {}

    @torch.no_grad()
    def apply_to(self, model: nn.Module) -> None:
        """Write zeros into another model with the same parameters, such as an average of this one's weights.

        Args:
            model: whose parameters have the names that `masks` has; or one that wraps such a model as its `module`,
                as `torch.optim.swa_utils.AveragedModel` does.

        Raises:
            InputError: a masked parameter is missing there, or of another shape.
        """
        named = dict(_inside(model, self.masks()).named_parameters())
        for name, mask in self.masks().items():
            if name not in named or named[name].shape != mask.shape:
                raise InputError(
                    f"the model has no parameter '{name}' of shape {tuple(mask.shape)}; it is another one."
                )
        for name, mask in self.masks().items():
            zero_absent([named[name]], mask)

    def summary(self) -> dict[str, Json]:
        """What is sparse, and how much, as plain data (see `summarize`); counted among the weights themselves."""
        return summarize(self.model, self.masks())

    def state_dict(self) -> dict[str, Json]:
        """Everything that a resumed run needs, as nested dicts of tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            InputError: it is of another kind of sparsifier.
        """
        check_keys(state, self.state_dict())


def _inside(model: nn.Module, names: Collection[str]) -> nn.Module:
    """The model, or what it wraps where that has these parameters."""
    inner = getattr(model, "module", None)
    if isinstance(inner, nn.Module) and not set(names) & dict(model.named_parameters()).keys():
        return _inside(inner, names)
    return model


class Together(AbstractContextManager[None]):
    """Several contexts, entered in their order and left in reverse."""

    def __init__(self, contexts: Sequence[AbstractContextManager[None]]) -> None:
        self.contexts, self.stack = contexts, ExitStack()

    def __enter__(self) -> None:
        """Enter all."""
        for context in self.contexts:
            self.stack.enter_context(context)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave all."""
        self.stack.__exit__(kind, error, trace)


class Chain(Sparsifier):
    """Several sparsifiers one after another: penalties add up, events are joined.

    Args:
        members: in the order in which they are called; no two of them may mask the same tensor.

    Example:
        >>> Chain([Sparsifier(), Sparsifier()]).penalty()
        0.0
    """

    def __init__(self, members: Sequence[Sparsifier]) -> None:
        super().__init__(next((m.model for m in members if m.model is not None), None))
        self.members = list(members)
        self._optimizers = next((m.optimizers for m in members if m.optimizers), ())
        self.in_zeros = bool(self.members) and all(member.in_zeros for member in self.members)
        self.masks()

    @property
    def stage(self) -> int:
        """The sum of the members' stages."""
        return sum(member.stage for member in self.members)

    def summary(self) -> dict[str, Json]:
        """As `summarize`; of members that work by zeros, these count as absent. `units` where a member has them."""
        found = [member.summary() for member in self.members if member.in_zeros]
        named = dict(self.model.named_parameters()) if self.model is not None else {}
        masks = {name: named[name].detach() != 0 for one in found for name in one["tensors"]} | self.masks()
        units = [row for one in found for row in one.get("units", ())]
        return {**summarize(self.model, masks), **({"units": units} if units else {})}

    def penalty(self) -> Tensor | float:
        """The sum of the members' penalties."""
        return sum((member.penalty() for member in self.members), 0.0)

    def dense_gradients(self) -> list[Tensor]:
        """All members'."""
        return [gradient for member in self.members for gradient in member.dense_gradients()]

    def after_backward(self) -> None:
        """All members' gradients."""
        for member in self.members:
            member.after_backward()

    def touches(self) -> list[nn.Parameter]:
        """What any member touches."""
        found = {id(p): p for member in self.members for p in member.touches()}
        return list(found.values())

    def notes(self) -> list[str]:
        """All members'."""
        return [note for member in self.members for note in member.notes()]

    def before_step(self, optimizer: Optimizer, scale: float = 1.0) -> None:
        """All members'."""
        for member in self.members:
            member.before_step(optimizer, scale)

    def forget_gradients(self) -> None:
        """All members'."""
        for member in self.members:
            member.forget_gradients()

    def value(self) -> float:
        """The sum of the members' values."""
        return sum(member.value() for member in self.members)

    def project(self) -> None:
        """All members' zeros."""
        for member in self.members:
            member.project()

    def after_step(self) -> list[dict[str, Json]]:
        """All members' events."""
        return [event for member in self.members for event in member.after_step()]

    def end_epoch(self, averaging_starts: bool = False) -> list[dict[str, Json]]:
        """All members' events."""
        return [event for member in self.members for event in member.end_epoch(averaging_starts)]

    def finalize(self) -> None:
        """Finalize every member."""
        for member in self.members:
            member.finalize()

    def masks(self) -> dict[str, Tensor]:
        """All members' masks.

        Raises:
            InputError: two members mask the same tensor.
        """
        joined: dict[str, Tensor] = {}
        for member in self.members:
            masks = member.masks()
            if twice := joined.keys() & masks.keys():
                raise InputError(f"two sparsifiers mask '{min(twice)}'; exclude it from one of them.")
            joined |= masks
        return joined

    def condensed(self, apart_from: Sequence[nn.Parameter] = ()) -> AbstractContextManager[None]:
        """All members', but for what another member touches."""
        touched = [(member, member.touches()) for member in self.members]
        return Together(
            [
                member.condensed(
                    [*apart_from, *(p for other, ps in touched if other is not member for p in ps)]
                )
                for member in self.members
            ]
        )

    def lent(self) -> AbstractContextManager[None]:
        """All members'."""
        return Together([member.lent() for member in self.members])

    def layouts(self) -> dict[str, Stored]:
        """All members'."""
        return {name: layout for member in self.members for name, layout in member.layouts().items()}

    def state_dict(self) -> dict[str, Json]:
        """One entry for each member, keyed by its position."""
        return {str(i): member.state_dict() for i, member in enumerate(self.members)}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Hand every member its part."""
        check_keys(state, [str(i) for i in range(len(self.members))])
        for i, member in enumerate(self.members):
            member.load_state_dict(state[str(i)])
