"""The contracts: what the parts of a run promise each other, on one page.

    recipe -> Task, Model (Layers of Cells, a Head), Optimizer, Schedule, Sparsifier, Boundary -> loop -> Reporter

A step of the loop calls them in this order, and no branch in it knows a member by name:

    Schedule(step) | Boundary.enter | Task.loss | Model.penalty, Sparsifier.penalty | Optimizer.zero_grad
    | Boundary.roots | backward | Boundary.learn | Sparsifier.dense_gradients, after_backward | clip | Optimizer.step
    | Sparsifier.after_step | Reporter.step

and the end of an epoch these:

    Optimizer.averaged (Task.evaluate inside) | Sparsifier.stage | Task.criterion | Optimizer.trigger
    | Schedule.observe | Sparsifier.end_epoch | Task.solved

Shape letters: T time, B batch, I input size, H hidden size, G stacked rows of the gates, V vocabulary. Sequences are
time-major, (T, B, .). A loss is in nats per target. A density is the fraction of weights kept.

`Layer`, `Cell`, `Head`, `Task`, `Sparsifier` and `Boundary` also exist as base classes with the answers that most
members share (`nn.Layer`, `nn.drive.cell.Cell`, `nn.Head`, `tasks.Task`, `sparsity.Sparsifier`,
`gradients.Truncate`); whoever writes a member derives from those, and a test holds every member to this page.
What has a `state_dict` goes on from it to the bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from sparsernn.core.made_with import MadeWith
from sparsernn.core.peers import BY_ITSELF, Peers
from sparsernn.core.plain import Json
from sparsernn.core.plain import Plain as Plain
from sparsernn.core.states import State as State
from sparsernn.core.states import tensors
from sparsernn.data.text_corpus import Corpus
from sparsernn.data.vocabulary import Vocabulary
from sparsernn.structure.units import Slice, Units
from sparsernn.structure.weight_places import Stored

Tick = Callable[[float], None]
"""Told the fraction done of something long, 0 to 1; it may raise to stop it."""


class Model(MadeWith, nn.Module, ABC):
    """What is trained: layers between what is read and what is answered.

    The task calls it, so that the two agree on what `forward` takes and gives. The loop calls `initial_state` at the
    start of an epoch and `penalty` in every step.

    Attributes:
        reads: "words": one id after the other, (T, B) int64, so that it has a `head` and can write; "vectors": one
            vector after the other, (T, B, I), with a `read_out`; "sequences": a whole text before it says anything.
    """

    reads: ClassVar[Literal["words", "vectors", "sequences"]] = "sequences"

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """The `State` before the first step of `batch` sequences."""

    def penalty(self) -> Tensor | float:
        """Regularisers of its own, a scalar that is added to what is minimised; 0.0 by default."""
        return 0.0

    @abstractmethod
    def units(self) -> list[Units]:
        """The hidden units that can be removed, each with all the slices of weights that are its own."""

    @abstractmethod
    def resized(self, settings: Mapping[str, Json]) -> Plain:
        """The constructor's settings, as a recipe has them, with the sizes that the weights have now."""

    def answers(self, output: Any) -> Iterator[Tensor]:
        """The numbers that a forward pass is for, out of what it gave: what two models are compared by."""
        yield from tensors(output)


@runtime_checkable
class Layer(Protocol):
    """How a sequence is read: called with (x (T, B, I), state) by the model; returns (y (T, B, H), state)."""

    gates: tuple[str, ...]

    @property
    def input_size(self) -> int:
        """I, read off the weights, so that it stays true when units are removed."""

    @property
    def hidden_size(self) -> int:
        """H, read off the weights."""

    def initial_state(self, batch: int) -> State:
        """The state before the first step of `batch` sequences."""

    def outputs(self) -> tuple[Slice, ...]:
        """What hidden unit k owns inside the layer."""

    def inputs(self) -> tuple[Slice, ...]:
        """Where the layer reads its input feature k."""

    def penalty(self) -> Tensor | float:
        """A regulariser of the layer's own."""


@runtime_checkable
class Cell(Protocol):
    """One time step of a recurrence; it knows nothing of time. A driver calls it over a window."""

    def project(self, x: Tensor) -> Tensor:
        """x (T, B, I) -> (T, B, G): all that needs no state, in one product for the whole window."""

    def step(self, u: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """u (B, G) of one time step, the state before -> after; the first tensor (B, H) is put out and fed back."""


@runtime_checkable
class Head(Protocol):
    """From hidden vectors to probabilities of words; called by the task with what the model gave."""

    def nll(self, y: Tensor, target: Tensor) -> Tensor:
        """y (..., H), target (...) int64 -> nats per token, (N,) in row-major order."""

    def log_prob(self, y: Tensor) -> Tensor:
        """y (..., H) -> log P(word), (..., V)."""

    def inputs(self) -> tuple[Slice, ...]:
        """The slices through which feature k of y is read."""


class Batch(Protocol):
    """What the loop reads of a batch; the rest is between `Task.batches` and `Task.loss`."""

    @property
    def targets(self) -> Tensor:
        """What is scored; its number of elements weighs the batch in the epoch's mean loss."""

    @property
    def lr_scale(self) -> float:
        """Factor on the learning rate of this step, 1.0 for batches of the usual size."""


@runtime_checkable
class Task(Protocol):
    """What a model is trained for: the data, the batches made of them, the loss, the scores that people look at.

    It reads the model and leaves it in the mode in which it came; only `loss` is called in training mode.
    Attributes and methods are explained where most members have them from, in `sparsernn.tasks.Task`.
    """

    info: Plain
    sizes: dict[str, int]
    examples: dict[str, int]
    batch_size: int
    metric: str
    counts: str
    vocabularies: Mapping[str, Vocabulary]

    @property
    def eval_batch_size(self) -> int | None:
        """Sequences evaluated at once unless said otherwise; None: the task sees to it."""

    @property
    def window(self) -> int | None:
        """Time steps of a training batch where a text is cut into such; None: batches are whole sequences."""

    @property
    def corpus(self) -> Corpus | None:
        """The text that is read; None: the task reads none."""

    def steps_per_epoch(self, seed: int = 0) -> int:
        """Batches of an epoch."""

    def batches(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The `Batch`es of an epoch from number `start` on: a pure function of its arguments."""

    def loss(self, model: Model, batch: Batch, state: State) -> tuple[Tensor, Tensor, State]:
        """Once a step: mean nats per target, detached; what is to be minimised; the state to carry on."""

    def evaluate(
        self, model: Model, split: str, batch_size: int | None = None, tick: Tick = lambda fraction: None
    ) -> dict[str, float]:
        """At an epoch's end: scores of a split, at least "loss" (mean nats per target) and the metric."""

    def check_model(self, model: Model) -> None:
        """Before training: raise InputError where the model does not suit the data."""

    def criterion(self, scores: Mapping[str, float]) -> float:
        """What chooses the best checkpoint, lower is better."""

    def solved(self, scores: Mapping[str, float]) -> bool:
        """Whether these validation scores end the training."""

    def check_parts(self, parts: int) -> None:
        """Before several processes train: raise InputError where batches cannot be divided among them."""

    def part(self, batch: Batch, number: int, parts: int) -> Batch:
        """One of the parts of a batch, counted from 0: its own sequences, and the same ones in every batch."""

    def records(self, model: Model, split: str) -> list[Plain]:
        """After the test: what a report can show of a split beyond its scores."""

    def look(self, model: Model, closely: bool = False) -> list[Plain]:
        """At the start, at epochs' ends and after the test: what a report can show of the weights."""

    def state_dict(self) -> Plain:
        """What is added up within an epoch."""

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Go on from what `state_dict` returned; {} begins anew."""


@runtime_checkable
class Optimizer(Protocol):
    """A `torch.optim.Optimizer` that may keep averages of the weights, to be evaluated in place of them.

    Attributes:
        param_groups: parameters with their settings, "lr" among them; the loop writes "lr" before each step.
        defaults: of the settings of a group.
        averaging: whether there is an average to evaluate.
        exhausted: asks for the end of the run.
        finetunes: it can average from the first step and ask for the end once that gets worse on validation.
    """

    param_groups: list[dict[str, Json]]
    defaults: dict[str, Json]

    @property
    def finetunes(self) -> bool:
        """See above."""

    @property
    def averaging(self) -> bool:
        """See above."""

    @property
    def exhausted(self) -> bool:
        """See above."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Before the backward pass."""

    def step(self) -> object:
        """After the clip: writes the weights."""

    def trigger(self, validation_loss: float) -> bool:
        """After each epoch's validation; True in the moment when averaging starts."""

    def averaged(self) -> AbstractContextManager[None]:
        """Inside it the weights are the ones to evaluate; after it they are what they were."""

    def state_dict(self) -> Plain:
        """Buffers by parameter, and the trigger's memory."""

    def load_state_dict(self, state_dict: Plain) -> None:
        """Go on from what `state_dict` returned."""


@runtime_checkable
class Schedule(Protocol):
    """The learning rate of a run."""

    def __call__(self, step: int) -> float:
        """Before each step, counted from 0: the learning rate, above 0."""

    def observe(self, loss: float) -> None:
        """After each epoch's validation: its loss in nats per target."""

    def cycles(self, epochs: int) -> list[tuple[int, int]]:
        """First and last epoch, counted from 1, of each cycle that it begins anew with; for the plan."""

    def state_dict(self) -> Plain:
        """What it remembers of the losses."""

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Go on from what `state_dict` returned."""


@runtime_checkable
class Sparsifier(Protocol):
    """Which weights exist: it may write zeros into weights, gradients and the optimizer's buffers, nothing else.

    One that rewinds also writes weights that it has kept from earlier, when it removes others.

    Attributes:
        in_zeros: it removes weights by making them zeros, and has no masks.
    """

    in_zeros: bool

    @property
    def stage(self) -> int:
        """Grows whenever the network has become a smaller one: the best weights of before are no longer asked for."""

    def notes(self) -> list[str]:
        """Before the first step: what was asked for and will not happen in this run, a sentence each."""

    def penalty(self) -> Tensor | float:
        """In every step: a scalar with a graph, added to what is minimised."""

    def dense_gradients(self) -> list[Tensor]:
        """After the backward pass: gradients besides those in `.grad` that it is going to look at, live."""

    def after_backward(self) -> None:
        """Between the backward pass and the clip: adds to gradients what is known without a graph."""

    def forget_gradients(self) -> None:
        """After backward passes that no step follows, such as those that are timed for the plan."""

    def after_step(self) -> list[Plain]:
        """After the optimizer's step: zeros where no weight exists, mask updates when due. Returns events."""

    def end_epoch(self, averaging_starts: bool = False) -> list[Plain]:
        """After each epoch's validation; told whether this is the moment when averaging starts. Returns events."""

    def finalize(self) -> None:
        """After the last step: hard zeros."""

    def masks(self) -> dict[str, Tensor]:
        """Name of a parameter -> bool mask of its shape, live."""

    def condensed(self) -> AbstractContextManager[None]:
        """Around the epochs: inside it parameters may hold their existing values alone, as vectors."""

    def lent(self) -> AbstractContextManager[None]:
        """Inside `condensed`, around whatever looks at the weights: they are dense, and no step is taken."""

    def layouts(self) -> Mapping[str, Stored]:
        """Inside `condensed`: where the values of parameters, and of what optimizers keep beside them, belong."""

    def summary(self) -> Plain:
        """What is sparse, and how much, counted among the weights."""

    def state_dict(self) -> Plain:
        """Masks, counters, running means, generators."""

    def load_state_dict(self, state: Plain) -> None:
        """Go on from what `state_dict` returned."""


@runtime_checkable
class Boundary(Protocol):
    """What happens to gradients at a window's end, where backpropagation through time is cut.

    Attributes:
        synthesizer_from: a run or checkpoint whose synthesizer a new run begins with; None: its own.
    """

    synthesizer_from: str | None

    def begin(self, epoch: int) -> list[Plain]:
        """At an epoch's beginning, counted from 1, or where it goes on. Returns events."""

    def enter(self, state: State, first: bool) -> State:
        """Before a window: the carried state, cut off from the window before; `first`: there is none before."""

    def roots(self, state: State, targets: int, last: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Before the backward pass, with the state at the window's end: more roots, and the gradient of each."""

    def check_parts(self, parts: int) -> None:
        """Before several processes train: raise InputError where what it trains needs whole batches."""

    def learn(self, peers: Peers = BY_ITSELF) -> None:
        """After the backward pass, before the clip: train what the boundary trains, alike on all processes."""

    def records(self) -> dict[str, float]:
        """Figures since the last call, for the log."""

    def phases(self) -> list[Plain]:
        """What the epochs differ in, for the plan."""

    def parameters(self) -> dict[str, Tensor]:
        """What the boundary trains, none of it the model's."""

    def begin_with(self, saved: Mapping[str, Json]) -> None:
        """Before the first step: take what the boundary of another run has learnt."""

    def state_dict(self) -> Plain:
        """What it has learnt, and its generator."""

    def load_state_dict(self, state: Plain) -> None:
        """Go on from what `state_dict` returned."""


class Reporter:
    """Who watches a run; it may touch nothing. This is the null member, which watches in silence."""

    def started(self, plan: Plain) -> None:
        """Before the first step: what is going to be done."""

    def step(self, status: Plain) -> None:
        """After each step: epoch, epochs, step, steps, loss, lr, tokens_per_second, seconds_left."""

    def event(self, record: Plain) -> None:
        """After each record of metrics.jsonl."""

    def phase(self, name: str, fraction: float) -> None:
        """During an evaluation: what is evaluated, and the fraction done."""
