"""Steps of a recipe's training loop, as `sparsernn train` takes them, on random words in place of its corpus.

Speed does not depend on which words are read, only on how many there are to choose from.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparsernn.data import Vocabulary
from sparsernn.runs.assembly import create
from sparsernn.runs.interruption import Interrupted
from sparsernn.runs.loop import train
from sparsernn.runs.recipe import load_recipe
from sparsernn.runs.reporter import Reporter
from sparsernn.runs.run import Run


class Clock(Reporter):
    """Notes when figures of steps came in, and ends the run after the last one that is wanted."""

    def __init__(self, last: int) -> None:
        self.last, self.marks = last, list[tuple[int, float]]()

    def step(self, status: dict[str, Any]) -> None:
        """When the figures of this step, and of all before it, have been read."""
        self.marks.append((status["step"], time.perf_counter()))
        if status["step"] >= self.last:
            raise Interrupted(15)


def random_run(recipe: str, overrides: Sequence[str], folder: Path, words: int, tokens: int) -> Run:
    """A run of a language-modelling recipe on random words.

    Args:
        recipe, overrides: as for `load_recipe`.
        folder: where it may write.
        words: V.
        tokens: length of the training split.
    """
    settled = ["checkpoint_seconds=1000000", *overrides]
    vocabulary = Vocabulary(["<eos>", *(f"w{number}" for number in range(words - 1))])
    splits = {"train": tokens, "valid": 2000, "test": 2000}
    info = {
        "name": "random",
        "source": "",
        "note": "",
        "level": "word",
        "tokens": splits,
        "sha256": dict.fromkeys(splits, "0" * 64),
    }
    run = create(
        load_recipe(recipe, settled), folder, vocabularies={"vocabulary": vocabulary}, remembered=info
    )
    run.without_data = False  # random words are what shall be read here
    return run


def seconds_per_step(
    recipe: str,
    overrides: Sequence[str],
    steps: int,
    words: int = 10_000,
    tokens: int = 200_000,
    prepare: Callable[[Run], object] = lambda run: None,
) -> tuple[float, Run]:
    """Seconds of a step, the first third of them left out; and the run.

    Args:
        steps: to be taken, at least 3 times `log_every` on an accelerator, where figures are read that often.
        prepare: may change the run before the first step.
    """
    with tempfile.TemporaryDirectory() as place:
        run = random_run(recipe, overrides, Path(place) / "run", words, tokens)
        prepare(run)
        clock = Clock(steps)
        with suppress(Interrupted):
            train(run, clock)
        marks = clock.marks[len(clock.marks) // 3 :]
        (first, start), (last, stop) = marks[0], marks[-1]
        return (stop - start) / (last - first), run
