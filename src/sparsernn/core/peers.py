"""The processes that train one run, as its parts see them."""

from collections.abc import Sequence

from torch import Tensor


class Peers:
    """All processes, this one among them; every one of them makes the same calls. The null member: there is one.

    Attributes:
        count: of processes.

    Example:
        >>> Peers().count
        1
    """

    count = 1

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over the processes in place of every tensor; as many, of the same shapes, on each."""


BY_ITSELF = Peers()


def share_of(size: int, number: int, parts: int) -> slice:
    """Which of `size` sequences are in a part, counted from 0: as many as in the others, or one more or less.

    >>> [share_of(5, number, 2) for number in range(2)]
    [slice(0, 2, None), slice(2, 5, None)]
    """
    return slice(size * number // parts, size * (number + 1) // parts)
