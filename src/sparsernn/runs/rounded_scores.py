"""What rounding to 8 or 4 bits costs a run's model, without and with calibration on its validation data."""

import copy
from dataclasses import dataclass
from typing import cast

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sparsernn.contracts import Model
from sparsernn.core.errors import InputError
from sparsernn.data.text_corpus import Corpus
from sparsernn.deploy.calibration import Calibrated, calibrate, round_matrices
from sparsernn.runs.artifacts import present, writes_text
from sparsernn.runs.run import Run
from sparsernn.tasks import NumericSeries

STREAMS, STEPS = 16, 250
"""Of the validation data that are read: 4,000 tokens or samples, or what there is."""


@dataclass(frozen=True)
class RoundedScores:
    """The metric of the task on the test split.

    Attributes:
        metric: its name.
        exact: in float32.
        rounded: with all matrices in so many bits.
        calibrated: the same after calibration.
        done: what calibration changed.
        values: what matrices were rounded to, "int8" or "int4".
    """

    metric: str
    exact: float
    rounded: float
    calibrated: float
    done: Calibrated
    values: str

    def line(self) -> str:
        """In a sentence."""
        return (
            f"test {self.metric}: {self.exact:.4f} in float32, {self.rounded:.4f} in {self.values[-1]} bits, "
            f"{self.calibrated:.4f} calibrated on validation data ({self.done.cut} of {self.done.rows} rows cut)"
        )


def calibrate_run(run: Run, values: str = "int8") -> RoundedScores:
    """Calibrate the weights that are in the run's model for 8 or 4 bits, in place, and score before and after.

    Raises:
        InputError: a run of neither running text nor series, a model that cannot be calibrated, or data that are not
            there.
    """
    run.require_data("calibrating")
    task: object = run.task
    if not writes_text(run) and not isinstance(task, NumericSeries):
        raise InputError(
            f"{run.home} is no run of a language model with a text or of series, so it cannot be calibrated."
        )
    exact, rounded = _score(run, run.model), _rounded_score(run, values)
    if isinstance(task, NumericSeries):
        inputs, lengths = series_to_read(task)
    else:
        inputs, lengths = words_to_score(run), None
    done = calibrate(run.model, inputs, present(run), values, lengths)
    return RoundedScores(run.task.metric, exact, rounded, _rounded_score(run, values), done, values)


def words_to_score(run: Run) -> Tensor:
    """The beginning of the validation data, (T, B) int64; that of a long text lies in narrower numbers."""
    ids = cast(Corpus, run.task.corpus).splits["valid"]
    streams = min(STREAMS, max(1, len(ids) // 2))  # a word is scored after another one
    steps = min(STEPS, len(ids) // streams)
    return ids[: streams * steps].view(streams, steps).t().long().contiguous()


def series_to_read(task: NumericSeries) -> tuple[Tensor, list[int]]:
    """The first validation series, as many as have 4,000 samples or what there is: (T, B, I), and their lengths."""
    found, left = list[Tensor](), STREAMS * STEPS
    for one in task.whole["valid"]:
        found, left = [*found, one.inputs[:left]], left - len(one.inputs)
        if left <= 0:
            break
    return pad_sequence(found), list(map(len, found))


def _score(run: Run, model: Model) -> float:
    return float(run.task.evaluate(model, "test")[run.task.metric])


def _rounded_score(run: Run, values: str) -> float:
    model = copy.deepcopy(run.model)
    round_matrices(model, values)
    return _score(run, model)
