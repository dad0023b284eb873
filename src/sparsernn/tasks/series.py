"""Numeric series: which kind is it, what number belongs to it, and how does it go on?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from sparsernn.contracts import Tick
from sparsernn.core.checks import checked
from sparsernn.core.devices import device_of, moved
from sparsernn.core.errors import InputError
from sparsernn.core.forms import check_known
from sparsernn.core.limits import Size
from sparsernn.core.peers import share_of
from sparsernn.core.plain import Json
from sparsernn.core.streams import stream
from sparsernn.data import Series, SeriesCorpus, Vocabulary, stand_ins
from sparsernn.data.numeric_table import number
from sparsernn.data.series_corpus import Reading
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.tasks.batch_parts import check_shares, columns
from sparsernn.tasks.confusion_counts import confusion
from sparsernn.tasks.generated_task import manifold_error
from sparsernn.tasks.segments import dropouts_off
from sparsernn.tasks.series_scaling import Scaling
from sparsernn.tasks.task import Task

LABELS = "labels"


@dataclass(frozen=True)
class SeriesBatch:
    """Series of a batch.

    Attributes:
        inputs: (T, B, I), zeros beyond a series' end.
        targets: (N,), of all steps at which the model is asked: labels int64, or scaled numbers.
        places: (N,) int64, where these steps stand among the T * B of the batch.
        lr_scale: always 1.
    """

    inputs: Tensor
    targets: Tensor
    places: Tensor
    lr_scale: float = 1.0


@dataclass(frozen=True)
class Asked:
    """A series and the steps at which it is asked.

    Attributes:
        inputs: (T, I).
        steps: (N,) int64, in [0, T).
        targets: (N,) labels int64, or scaled numbers.
        exact: (N,) float64, the numbers in the target's own unit; labels again.
    """

    inputs: Tensor
    steps: Tensor
    targets: Tensor
    exact: Tensor


class NumericSeries(Task):
    """Classify a series, give it or each of its steps a number, or forecast one of its columns.

    Inputs have mean 0 and standard deviation 1 in the training series; these figures are kept with the run. A label,
    or one number for a series, is asked after the last step; other numbers at every step, from what was read so far.

    Args:
        corpus: series, from one of the corpora table, vowels.
        goal: "classify" (the target is a label, the same in all rows of a series), "regress" (a number) or "forecast"
            (the number that the target has `horizon` steps later).
        horizon: of a forecast, in steps; null: 1.
        per: of "regress": one number per "step", or per "series".
        longest: train on stretches of so many steps at most, each from the initial state; null: whole series. Not for
            what is asked once per series. Series are evaluated whole.
        batch_size: series or stretches per step; what is left at an epoch's end is a smaller batch.
        eval_batch_size: series evaluated at once; no score depends on it.
        vocabularies: of an earlier run.

    Scores: "loss" (nats per label, or the mean squared error of the scaled target), and for labels "accuracy" and
    "baseline_accuracy", that of the most frequent label of training, for numbers "rmse" and "mae" in the target's own
    unit and "baseline_rmse", that of the mean of training, or of a forecast that nothing changes. The best checkpoint
    is the one with the lowest validation loss.

    Raises:
        InputError: another corpus, targets that are missing, no numbers or not the same in a series, a target that is
            read as an input too, or no step that has one.
    """

    metric, counts = "accuracy", "series"
    eval_batch_size: int

    @checked
    def __init__(
        self,
        corpus: SeriesCorpus,
        *,
        goal: Literal["classify", "regress", "forecast"] = "classify",
        horizon: Size | None = None,
        per: Literal["step", "series"] = "step",
        longest: Size | None = None,
        batch_size: Size = 16,
        eval_batch_size: Size = 100,
        vocabularies: Mapping[str, Vocabulary] | None = None,
    ) -> None:
        if not isinstance(corpus, SeriesCorpus):
            raise InputError("series needs a corpus of numeric series; take table or vowels.")
        self.goal, self.per_series = goal, goal == "classify" or (goal == "regress" and per == "series")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.reading = Reading.of(corpus.info["read"])
        self._check(horizon, per, longest)
        self.horizon = (horizon or 1) if goal == "forecast" else 0
        labels: tuple[str, ...] = ()
        if goal == "classify":
            self.vocabularies = vocabularies or {LABELS: _labels(corpus)}
            labels = self.vocabularies[LABELS].tokens
        else:
            self.metric, self.counts = "rmse", "series" if self.per_series else "steps"
        self.labels = labels
        read = {split: [self._numbers(one) for one in found] for split, found in corpus.splits.items()}
        known = corpus.info.get("scaling")
        self.scaling = Scaling.of(known) if known else self._learned(corpus.splits["train"], read["train"])
        self.sizes = {"input_size": self.scaling.inputs, "output_size": len(labels) or 1}
        self.whole = {s: self._asked(corpus.splits[s], read[s]) for s in corpus.splits}
        self.data = {**self.whole, "train": list(_stretches(self.whole["train"], longest))}
        self.examples = {split: sum(len(one.steps) for one in found) for split, found in self.data.items()}
        self._check_filled()
        self.baselines = self._baselines(corpus, read)
        facts = {"goal": goal, "horizon": self.horizon, "per": per, "scaling": self.scaling.plain()}
        self.info = {**corpus.info, **facts}

    @classmethod
    def stand_in(cls, info: Mapping[str, Json], vocabularies: Mapping[str, Vocabulary]) -> dict[str, Json]:
        """Series of random numbers in the scaling of the run."""
        labels = vocabularies[LABELS].tokens if LABELS in vocabularies else ()
        return {"corpus": stand_ins.series(info, labels)}

    def _check(self, horizon: int | None, per: str, longest: int | None) -> None:
        if horizon is not None and self.goal != "forecast":
            raise InputError(
                f"horizon is {horizon}, and the goal is {self.goal}; only forecast has a horizon."
            )
        if per != "step" and self.goal != "regress":
            raise InputError(f"per is '{per}', and the goal is {self.goal}; only regress can choose.")
        if longest is not None and self.per_series:
            raise InputError(
                f"longest is {longest}, and the goal is one answer per series; a series is then read whole."
            )
        if self.goal != "forecast" and self.reading.target in (self.reading.columns or ()):
            raise InputError(
                f"columns has the target '{self.reading.target}', which the model would read; leave it out to "
                f"{self.goal}."
            )

    def _numbers(self, series: Series) -> NDArray[np.float64]:
        """The targets of the rows, (T,); labels as their numbers in the vocabulary."""
        if self.per_series:
            other = next((k for k, text in enumerate(series.targets) if text != series.targets[0]), None)
            if other is not None:
                raise InputError(
                    f"{series.places[other]}, column '{self.reading.target}' is {series.targets[other]!r}, and "
                    f"before it '{series.name}' has {series.targets[0]!r}; a series has one target here."
                )
        if self.goal == "classify":
            label = series.targets[0]
            if label not in self.vocabularies[LABELS]:
                raise InputError(f"{series.places[0]} has the label {label!r}, which the run does not know.")
            return np.full(len(series), float(self.vocabularies[LABELS].index[label]))
        found = [self._number(series, k) for k in range(1 if self.per_series else len(series))]
        return np.array(found * (len(series) if self.per_series else 1))

    def _number(self, series: Series, row: int) -> float:
        text = series.targets[row]
        try:
            found = number(text)
        except ValueError:
            raise InputError(
                f"{series.places[row]}, column '{self.reading.target}' is {text!r}; a finite number is needed to "
                f"{self.goal}."
            ) from None
        if found != found and self.reading.missing == "refuse":
            raise InputError(
                f"{series.places[row]}, column '{self.reading.target}' has no number; fill it, or say missing: mask "
                "to leave it out of the loss."
            )
        return found

    def _learned(self, series: Sequence[Series], targets: Sequence[NDArray[np.float64]]) -> Scaling:
        own = np.zeros(0)
        if self.goal != "classify":
            own = np.concatenate([t[-1:] if self.per_series else t for t in targets])
        values = np.concatenate([one.values for one in series])
        return Scaling.learned(values, self.reading.columns or (), own, self.reading.missing == "mask")

    def _asked(self, series: Sequence[Series], targets: Sequence[NDArray[np.float64]]) -> list[Asked]:
        """The series of a split that have a target at some step."""
        found = []
        for one, numbers in zip(series, targets, strict=True):
            later = numbers[-1:] if self.per_series else numbers[self.horizon :]
            kept = np.flatnonzero(~np.isnan(later))
            exact = torch.from_numpy(later[kept])
            steps = kept + (len(one) - 1 if self.per_series else 0)
            aims = exact.long() if self.labels else self.scaling.scaled(later[kept])
            if len(kept):
                read = self.scaling.read(one.values)
                found.append(Asked(read, torch.from_numpy(steps), aims, exact))
        return found

    def _check_filled(self) -> None:
        for split, count in self.examples.items():
            if not count:
                beyond = f" {self.horizon} steps later" if self.horizon else ""
                raise InputError(
                    f"no series of the {split} split has a number in '{self.reading.target}'{beyond}; at least one "
                    "is needed."
                )

    def _baselines(
        self, corpus: SeriesCorpus, read: Mapping[str, Sequence[NDArray[np.float64]]]
    ) -> dict[str, dict[str, float]]:
        """The scores of the answers that need no model."""
        exact = {split: torch.cat([one.exact for one in self.whole[split]]) for split in self.whole}
        if self.labels:
            often = exact["train"].mode().values
            return {s: {"baseline_accuracy": (e == often).double().mean().item()} for s, e in exact.items()}
        errors = {split: e - self.scaling.target[0] for split, e in exact.items()}
        if self.horizon:
            steady = {
                s: np.concatenate([t[self.horizon :] - t[: -self.horizon] for t in read[s]]) for s in read
            }
            known = {s: torch.from_numpy(e[~np.isnan(e)]) for s, e in steady.items()}
            errors |= {s: e for s, e in known.items() if len(e)}
        return {s: {"baseline_rmse": e.square().mean().sqrt().item()} for s, e in errors.items()}

    def steps_per_epoch(self, seed: int = 0) -> int:
        """Batches of all training series, or stretches."""
        return -(-len(self.data["train"]) // self.batch_size)

    def batches(self, seed: int, epoch: int, start: int = 0) -> Iterator[SeriesBatch]:
        """The training series in an order of this seed and epoch."""
        data = self.data["train"]
        order = torch.randperm(len(data), generator=stream("series", seed, epoch))
        for chosen in torch.split(order, self.batch_size)[start:]:
            yield _batch([data[k] for k in chosen.tolist()])

    def check_parts(self, parts: int) -> None:
        """See `Task`: the series or stretches are divided, those of the last and smaller batch, too."""
        check_shares(self.batch_size, len(self.data["train"]), parts)

    def part(self, batch: SeriesBatch, number: int, parts: int) -> SeriesBatch:
        """See `Task`; it scores what is asked of its own series."""
        size = batch.inputs.shape[1]
        share = share_of(size, number, parts)
        steps, series = batch.places // size, batch.places % size
        own = (series >= share.start) & (series < share.stop)
        places = steps[own] * (share.stop - share.start) + series[own] - share.start
        return SeriesBatch(columns(batch.inputs, number, parts), batch.targets[own], places)

    def answers(self, model: SequenceModel, batch: SeriesBatch) -> Tensor:
        """What the model says where it is asked: logits (N, K), or scaled numbers (N,)."""
        asked = model(batch.inputs).raw.flatten(0, 1).index_select(0, batch.places)
        said: Tensor = model.read_out(asked)
        return said if self.labels else said.squeeze(-1)

    def _nats(self, said: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        measure = functional.cross_entropy if self.labels else functional.mse_loss
        return measure(said, targets, reduction=reduction)

    def loss(self, model: SequenceModel, batch: SeriesBatch, state: object) -> tuple[Tensor, Tensor, None]:
        """Mean over all that is asked; every series begins from the initial state."""
        nats = self._nats(self.answers(model, batch), batch.targets)
        return nats.detach(), nats, None

    @torch.no_grad()
    def evaluate(
        self,
        model: SequenceModel,
        split: str,
        batch_size: int | None = None,
        tick: Tick = lambda fraction: None,
    ) -> dict[str, float]:
        """The scores of a split; see the class."""
        check_known("the split", split, self.whole)
        nats, error, squared, count = 0.0, 0.0, 0.0, 0
        for said, exact, loss in self._said(model, split, batch_size, tick):
            nats += loss
            count += len(exact)
            if self.labels:
                error += (said.argmax(-1) != exact).sum().item()
            else:
                away = self.scaling.unscaled(said) - exact
                squared, error = squared + away.square().sum().item(), error + away.abs().sum().item()
        shown = {"rmse": (squared / count) ** 0.5, "mae": error / count}
        scores = {"accuracy": 1 - error / count} if self.labels else shown
        return {"loss": nats / count, **scores, **self.baselines[split], **manifold_error(model)}

    def _said(
        self, model: SequenceModel, split: str, batch_size: int | None, tick: Tick
    ) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Batch by batch of a split: answers and exact targets on the CPU, summed loss."""
        data, size = self.whole[split], batch_size or self.eval_batch_size
        with dropouts_off(model):
            for first in range(0, len(data), size):
                held = data[first : first + size]
                batch = moved(_batch(held), device_of(model))
                said = self.answers(model, batch)
                loss = self._nats(said.double(), _as(batch.targets, said), "sum").item()
                yield said.cpu(), torch.cat([one.exact for one in held]), loss
                tick((first + len(held)) / len(data))

    @torch.no_grad()
    def predict(self, model: SequenceModel, series: Sequence[Series]) -> list[Tensor]:
        """What the model says of series, dropouts off, whether their targets are known or not.

        Args:
            model: of this task.
            series: with the columns of `reading`, in their own units.

        Returns:
            For each series on the CPU: probabilities (K,) of the labels; or the number of the series, (1,); or one
            number for each step, (T,), for a forecast that of `horizon` steps later; in the target's own unit.
        """
        found = []
        with dropouts_off(model):
            for one in series:
                steps = torch.tensor([len(one) - 1]) if self.per_series else torch.arange(len(one))
                nothing = torch.zeros(len(steps))
                asked = Asked(self.scaling.read(one.values), steps, nothing, nothing)
                said = self.answers(model, moved(_batch([asked]), device_of(model))).cpu()
                found.append(said.double().softmax(-1)[0] if self.labels else self.scaling.unscaled(said))
        return found

    @torch.no_grad()
    def records(self, model: SequenceModel, split: str) -> list[dict[str, Json]]:
        """Which labels are taken for which: one record "confusion", as that of tagging; of numbers nothing."""
        if not self.labels:
            return []
        count = len(self.labels)
        counts = torch.zeros(count * count, dtype=torch.int64)
        for said, exact, _ in self._said(model, split, None, lambda fraction: None):
            counts += torch.bincount(exact.long() * count + said.argmax(-1), minlength=count * count)
        return [{"event": "confusion", "split": split, **confusion(counts.view(count, count), self.labels)}]


def _labels(corpus: SeriesCorpus) -> Vocabulary:
    """The labels of all splits in order: which there are is no secret of the test."""
    target = corpus.info["read"]["target"]
    found: set[str] = set()
    for one in (one for series in corpus.splits.values() for one in series):
        if not one.targets[0]:
            raise InputError(f"{one.places[0]}, column '{target}' has no label; each series needs one.")
        found.add(one.targets[0])
    if len(found) < 2:
        raise InputError(
            f"column '{target}' has the label {min(found)!r} everywhere; at least two are needed to classify."
        )
    return Vocabulary(sorted(found))


def _stretches(data: Sequence[Asked], longest: int | None) -> Iterator[Asked]:
    """Series cut into stretches of at most so many steps; those without a target are left out."""
    for one in data:
        length = len(one.inputs)
        for first in range(0, length, longest or length):
            end = min(length, first + (longest or length))
            inside = (one.steps >= first) & (one.steps < end)
            if bool(inside.any()):
                parts = (one.steps[inside] - first, one.targets[inside], one.exact[inside])
                yield Asked(one.inputs[first:end], *parts)


def _batch(asked: Sequence[Asked]) -> SeriesBatch:
    inputs = pad_sequence([one.inputs for one in asked])
    places = torch.cat([one.steps * len(asked) + k for k, one in enumerate(asked)])
    return SeriesBatch(inputs, torch.cat([one.targets for one in asked]), places)


def _as(targets: Tensor, said: Tensor) -> Tensor:
    return targets if targets.dtype == torch.int64 else targets.double()
