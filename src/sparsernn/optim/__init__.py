"""Optimizers, averaging and schedules; `OPTIMIZERS` names the ones that a recipe can ask for."""

from collections.abc import Callable, Iterable
from typing import Any

from torch.optim import Optimizer

from sparsernn.optim.nt_asgd import NTASGD, SGD, Adam, RMSprop, SteadyWeights


def nt_asgd(
    params: Iterable[Any],
    lr: float,
    *,
    weight_decay: float = 0.0,
    nonmono: int = 5,
    switch_epoch: int | None = None,
    stop_when_worse: bool = False,
) -> NTASGD:
    """SGD, averaged over all iterates since the non-monotone trigger; see `NTASGD`."""
    return NTASGD(
        params,
        lr,
        weight_decay=weight_decay,
        nonmono=nonmono,
        switch_epoch=switch_epoch,
        stop_when_worse=stop_when_worse,
    )


def snt_asgd(
    params: Iterable[Any],
    lr: float,
    *,
    weight_decay: float = 0.0,
    nonmono: int = 5,
    switch_epoch: int | None = None,
    stop_when_worse: bool = False,
) -> NTASGD:
    """SGD, each weight averaged over the iterates since it was last grown; see `NTASGD`."""
    return NTASGD(
        params,
        lr,
        weight_decay=weight_decay,
        nonmono=nonmono,
        switch_epoch=switch_epoch,
        per_weight=True,
        stop_when_worse=stop_when_worse,
    )


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "adam": Adam,
    "rmsprop": RMSprop,
    "nt_asgd": nt_asgd,
    "snt_asgd": snt_asgd,
}

__all__ = ["NTASGD", "OPTIMIZERS", "SGD", "Adam", "RMSprop", "SteadyWeights", "nt_asgd", "snt_asgd"]
