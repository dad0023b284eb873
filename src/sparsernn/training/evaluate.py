"""Scores of a run's weights on a split."""

from typing import Any

from sparsernn.errors import InputError
from sparsernn.training.run import Run


def evaluate_run(
    run: Run, split: str = "test", batch_size: int | None = None, tick: Any = None
) -> dict[str, Any]:
    """Evaluate the best weights of a run (they are left in its model).

    Args:
        run: from `open_run`.
        split: "train", "valid" or "test".
        batch_size: parallel streams; the recipe's `eval_batch_size` when missing. 1 gives every token its context.
        tick: told the fraction done.

    Returns:
        The task's scores, and "averaged", "epoch", "batch_size".

    Raises:
        InputError: an unknown split, or no best checkpoint yet.
    """
    known = sorted(run.task.corpus.splits)
    if split not in known:
        raise InputError(f"the split '{split}' is unknown; known: {', '.join(known)}.")
    best = run.load_best()
    scores = run.task.evaluate(run.model, split, batch_size, tick or (lambda fraction: None))
    extra = {"averaged": best["averaged"], "epoch": best["position"]["epoch"] + 1}
    return {**scores, **extra, "split": split, "batch_size": batch_size or run.task.eval_batch_size}
