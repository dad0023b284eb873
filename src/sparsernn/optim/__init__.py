"""Optimizers, averaging and schedules; `OPTIMIZERS` names the ones that a recipe can ask for."""

from collections.abc import Callable
from functools import partial

from sparsernn.contracts import Optimizer
from sparsernn.optim.ema import ema
from sparsernn.optim.learning_rate import (
    CosineRestarts,
    EpochDecay,
    LearningRate,
    Plateau,
    make_learning_rate,
)
from sparsernn.optim.nt_asgd import NTASGD
from sparsernn.optim.parameter_groups import check_groups, parameter_groups
from sparsernn.optim.torch_optimizers import SGD, Adadelta, Adam, RMSprop, SteadyWeights

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "adadelta": Adadelta,
    "adam": Adam,
    "ema": ema,
    "rmsprop": RMSprop,
    "nt_asgd": NTASGD,
    "snt_asgd": partial(NTASGD, per_weight=True),
}

__all__ = [
    "NTASGD",
    "OPTIMIZERS",
    "SGD",
    "Adadelta",
    "Adam",
    "CosineRestarts",
    "EpochDecay",
    "LearningRate",
    "Plateau",
    "RMSprop",
    "SteadyWeights",
    "check_groups",
    "ema",
    "make_learning_rate",
    "parameter_groups",
]
