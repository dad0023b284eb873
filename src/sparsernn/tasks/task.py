"""The contract of a task: the data, the batches made of them, the loss, and the score that people look at."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sparsernn.contracts import Batch, State, Tick
from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.data.text_corpus import Corpus
from sparsernn.data.vocabulary import Vocabulary
from sparsernn.nn.maps.map_records import recurrences


class Task(ABC):
    """What a model is trained for. The training loop, the plan and the reports know a task only by this.

    A constructor takes its settings from the recipe, and from `assemble` what its signature names of `corpus` (a
    `Corpus`; the recipe then has `task.corpus`), `data_dir` (where the data lie, None: not said) and `vocabularies`
    (those of an earlier run by name, so that its numbers hold; None for a new run).

    Attributes:
        info: facts about the data for the run folder, plain; at least `sha256`, {split: hex digest}, by which a
            resumed run knows its data again.
        sizes: what the data fix about the model; arguments of its constructor, such as {"vocabulary_size": 10000}.
        examples: scored targets per split; its keys are the splits that can be evaluated.
        batch_size: sequences per training batch, for the model's `initial_state`.
        metric: the key of an evaluation that people look at, one of `sparsernn.core.metrics.METRICS`.
        counts: what a target is called in the plural ("tokens").
        vocabularies: saved into the run folder as NAME.txt and handed back when it is opened.
        eval_batch_size: sequences evaluated at once unless said otherwise; None: the task sees to it.
        window: time steps of a training batch where a text is cut into such; None: batches are whole sequences.
        corpus: the text that is read; None: the task reads none.
    """

    info: dict[str, Json]
    sizes: dict[str, int]
    examples: dict[str, int]
    batch_size: int
    metric: str
    counts: str = "targets"
    vocabularies: Mapping[str, Vocabulary] = MappingProxyType({})
    eval_batch_size: int | None = None
    window: int | None = None
    corpus: Corpus | None = None

    @classmethod
    def stand_in(cls, info: Mapping[str, Json], vocabularies: Mapping[str, Vocabulary]) -> dict[str, Json]:
        """Arguments of the constructor that take the place of data which are not at hand.

        With them the task is put together as it was, but for what it reads, which is random and of the right form:
        enough for all that a trained model can do alone. {} for tasks that make their data themselves.

        Args:
            info: as the task gave it when it had its data.
            vocabularies: as it gave them.
        """
        return {}

    @abstractmethod
    def steps_per_epoch(self, seed: int = 0) -> int:
        """Batches of an epoch; where that differs between epochs, of the first one of a run with this seed."""

    @abstractmethod
    def batches(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The training batches (`contracts.Batch`) of an epoch from number `start` on.

        A pure function of its arguments: a resumed run must see what the undisturbed one would have seen.
        """

    @abstractmethod
    def loss(self, model: Any, batch: Any, state: Any) -> tuple[Tensor, Tensor, State]:
        """Score a batch.

        Args:
            model: as the recipe names it, in training mode.
            batch: one of `batches`.
            state: what the call for the batch before returned; the model's initial state at the start of an epoch
                and wherever nothing is carried.

        Returns:
            Mean nats per target, detached; what is to be minimised; the state to carry to the next batch, None where
            batches have nothing to do with each other.
        """

    @abstractmethod
    def evaluate(
        self,
        model: Any,
        split: str,
        batch_size: int | None = None,
        tick: Tick = lambda fraction: None,
    ) -> dict[str, float]:
        """Scores of a split, dropouts off; the model is left in the mode in which it came.

        Returns:
            At least "loss", the mean nats per target, and the task's metric.
        """

    def settle(self, device: torch.device) -> None:  # noqa: B027 - most tasks make or gather each batch anew
        """Keep what is read all the time on the device, if there is such; asked once, before training.

        A batch that lies elsewhere is moved before `loss` sees it.
        """

    def check_model(self, model: Any) -> None:  # noqa: B027 - most tasks take any model that fits their sizes
        """Raise InputError where a model of fitting sizes does not suit the data; asked once, before training."""

    def check_parts(self, parts: int) -> None:
        """Raise InputError where batches cannot be divided among so many processes; asked before training.

        This answers for tasks that have no `part`; those that have one call `check_share`.
        """
        raise InputError(
            f"{parts} processes were started, and this task does not say how its batches are divided (Task.part); "
            "start one process."
        )

    def part(self, batch: Any, number: int, parts: int) -> Any:
        """One of the parts of a batch, counted from 0, as even as they can be (`share_of`).

        `targets` of a part are what it scores of the whole: by their number the loss of each part is weighed. A
        sequence that goes on from batch to batch is always in the same part.
        """
        raise NotImplementedError

    def criterion(self, scores: Mapping[str, float]) -> float:
        """What chooses the best checkpoint, lower is better: the validation loss."""
        return scores["loss"]

    def solved(self, scores: Mapping[str, float]) -> bool:
        """Whether these validation scores end the training: never."""
        return False

    def records(self, model: Any, split: str) -> list[dict[str, Json]]:
        """What a report can show of a split beyond its scores: nothing.

        Asked after the test, of the best weights, for the split "test". Each record is plain data with an "event",
        its kind, and goes into metrics.jsonl as it is; the model is left in the mode it came in.
        """
        return []

    def look(self, model: Any, closely: bool = False) -> list[dict[str, Json]]:
        """What a report can show of the weights: of recurrent maps, where a model has such, what they look like.

        Asked of the first weights and of the tested ones `closely`, and briefly at every epoch's end. Records as in
        `records`; nothing is drawn from torch's global generator.
        """
        maps = recurrences(model, closely)
        return [{"event": "recurrence", "closely": closely, "maps": maps}] if maps else []

    def state_dict(self) -> dict[str, Json]:
        """What the task adds up within an epoch, plain: nothing. It is saved with the run, so that sums go on."""
        return {}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:  # noqa: B027 - most tasks add up nothing
        """Go on from what `state_dict` returned; {} begins anew."""
