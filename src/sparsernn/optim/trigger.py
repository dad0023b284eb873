"""When averaging starts."""

from sparsernn.errors import InputError


class NonMonotone:
    """Fires when the newest loss is above the best of all but the last `patience` ones.

    Args:
        patience: n of "min(V[:-n])", at least 1.
        fixed_epoch: fire at the end of this epoch (counted from 1; 0 = from the start) instead.

    Example:
        >>> trigger = NonMonotone(patience=2)
        >>> [trigger(loss) for loss in (3.0, 2.0, 2.5, 2.4, 2.6)]
        [False, False, False, False, True]

    The newest value is compared with V before it is appended, and V must hold more than n values, as in the
    published code (its authors called the condition of their paper a misprint).
    """

    def __init__(self, patience: int, fixed_epoch: int | None = None) -> None:
        if patience < 1:
            raise InputError(f"nonmono is {patience}; it must be at least 1.")
        self.patience, self.fixed_epoch = patience, fixed_epoch
        self.losses: list[float] = []

    def __call__(self, loss: float) -> bool:
        """Judge the newest loss, then remember it."""
        worse = len(self.losses) > self.patience and loss > min(self.losses[: -self.patience])
        self.losses.append(loss)
        if self.fixed_epoch is None or len(self.losses) > self.fixed_epoch:
            return worse
        return len(self.losses) == self.fixed_epoch
