"""Scores of a run's weights on a split, as they are or in another mode of evaluation."""

from collections.abc import Callable, Mapping
from dataclasses import Field
from typing import ClassVar, Protocol

from torch import Tensor

from sparsernn.contracts import Model, Task
from sparsernn.core.forms import check_known
from sparsernn.core.plain import Json
from sparsernn.runs.run import Run

FACTS = ("averaged", "epoch", "split", "batch_size")
"""What `evaluate_run` adds to the scores of the task."""


class Mode(Protocol):
    """A way to evaluate that is not the task's own, such as one that learns on the way; a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Json]]]

    def evaluate(
        self,
        task: Task,
        model: Model,
        split: str,
        *,
        batch_size: int | None = None,
        masks: Mapping[str, Tensor] | None = None,
        tick: Callable[[float], None] = lambda fraction: None,
    ) -> dict[str, float]:
        """Scores of a split, as the task's own; the weights are afterwards what they were.

        Raises:
            InputError: the mode cannot read this task or model.
        """


def evaluate_run(
    run: Run,
    split: str = "test",
    batch_size: int | None = None,
    tick: Callable[[float], None] = lambda fraction: None,
    mode: Mode | None = None,
) -> dict[str, Json]:
    """Evaluate the best weights of a run (they are left in its model).

    Args:
        run: from `open_run`.
        split: one of the task's, usually "train", "valid" or "test".
        batch_size: parallel streams; missing: the recipe's `eval_batch_size`, or 1 under a mode. 1 gives every token
            its context.
        tick: told the fraction done.
        mode: how to evaluate; None: as the task does.

    Returns:
        The task's scores, and "averaged", "epoch" (0: the weights that a finetuning started from), "split",
        "batch_size".

    Raises:
        InputError: an unknown split, no best checkpoint yet, or a mode that cannot read the run.
    """
    run.require_data("evaluating")
    check_known("the split", split, sorted(run.task.examples))
    best = run.load_best()
    if mode is None:
        batch_size = batch_size or run.task.eval_batch_size
        scores = run.task.evaluate(run.model, split, batch_size, tick)
    else:
        batch_size = batch_size or 1
        masks = best["sparsifier"]["masks"]
        scores = mode.evaluate(run.task, run.model, split, batch_size=batch_size, masks=masks, tick=tick)
    facts = (best["averaged"], best["position"]["epoch"] + 1, split, batch_size)
    return {**scores, **dict(zip(FACTS, facts, strict=True))}
