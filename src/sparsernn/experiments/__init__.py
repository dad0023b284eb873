"""Experiments from Python: train a recipe, open what a run has come to, put several side by side, try many settings.

import sparsernn as sr

run = sr.train("demo/selfish", {"epochs": 2}, out="runs/mine")
run.scores                       # of the test split
run.history["valid_perplexity"]  # a column, one value for each epoch
print(run.generate("the value of"))
"""

from sparsernn.experiments.parameter_sweep import Sweep, sweep
from sparsernn.experiments.trained_run import (
    TrainedRun,
    compare,
    complete,
    load,
    time_together,
    train,
    train_and_complete,
)

__all__ = [
    "Sweep",
    "TrainedRun",
    "compare",
    "complete",
    "load",
    "sweep",
    "time_together",
    "train",
    "train_and_complete",
]
