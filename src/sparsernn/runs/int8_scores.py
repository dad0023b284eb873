"""What rounding to 8 bits costs a run's model, without and with calibration on its validation data."""

import copy
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from sparsernn.contracts import Model
from sparsernn.core.errors import InputError
from sparsernn.data.text_corpus import Corpus
from sparsernn.deploy.calibration import Calibrated, calibrate, round_to_int8
from sparsernn.runs.artifacts import present, writes_text
from sparsernn.runs.run import Run

STREAMS, STEPS = 16, 250
"""Of the validation data that are read: 4,000 tokens, or what there is."""


@dataclass(frozen=True)
class Int8Scores:
    """The metric of the task on the test split.

    Attributes:
        metric: its name.
        exact: in float32.
        rounded: with all matrices in 8 bits.
        calibrated: the same after calibration.
        done: what calibration changed.
    """

    metric: str
    exact: float
    rounded: float
    calibrated: float
    done: Calibrated

    def line(self) -> str:
        """In a sentence."""
        return (
            f"test {self.metric}: {self.exact:.4f} in float32, {self.rounded:.4f} in 8 bits, {self.calibrated:.4f} "
            f"calibrated on validation data ({self.done.cut} of {self.done.rows} rows cut)"
        )


def calibrate_run(run: Run) -> Int8Scores:
    """Calibrate the weights that are in the run's model for 8 bits, in place, and score before and after.

    Raises:
        InputError: a run without running text, a model that cannot be calibrated, or data that are not there.
    """
    run.require_data("calibrating")
    if not writes_text(run):
        raise InputError(f"{run.home} is no run of a language model with a text, so it cannot be calibrated.")
    exact, rounded = _score(run, run.model), _rounded_score(run)
    done = calibrate(run.model, words_to_score(run), present(run))
    return Int8Scores(run.task.metric, exact, rounded, _rounded_score(run), done)


def words_to_score(run: Run) -> Tensor:
    """The beginning of the validation data, (T, B) int64; that of a long text lies in narrower numbers."""
    ids = cast(Corpus, run.task.corpus).splits["valid"]
    streams = min(STREAMS, max(1, len(ids) // 2))  # a word is scored after another one
    steps = min(STEPS, len(ids) // streams)
    return ids[: streams * steps].view(streams, steps).t().long().contiguous()


def _score(run: Run, model: Model) -> float:
    return float(run.task.evaluate(model, "test")[run.task.metric])


def _rounded_score(run: Run) -> float:
    model = copy.deepcopy(run.model)
    round_to_int8(model)
    return _score(run, model)
