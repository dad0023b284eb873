"""Optimizers of torch that keep no averages, with the methods that the training loop calls on all."""

from contextlib import AbstractContextManager, nullcontext

import torch


class SteadyWeights:
    """The null members: an optimizer that keeps no averages."""

    averaging = False
    finetunes = False

    def trigger(self, validation_loss: float) -> bool:
        """Called after each epoch's validation; True in the moment when averaging starts."""
        return False

    @property
    def exhausted(self) -> bool:
        """Whether the optimizer asks the run to stop."""
        return False

    def averaged(self) -> AbstractContextManager[None]:
        """Context in which the parameters are the ones to evaluate."""
        return nullcontext()


class SGD(SteadyWeights, torch.optim.SGD):
    """torch's SGD with the null members."""


class Adam(SteadyWeights, torch.optim.Adam):
    """torch's Adam with the null members."""


class Adadelta(SteadyWeights, torch.optim.Adadelta):
    """torch's Adadelta with the null members."""


class RMSprop(SteadyWeights, torch.optim.RMSprop):
    """torch's RMSprop with the null members."""
