"""At which epochs the restarts of a run lie."""

from collections.abc import Sequence
from typing import Annotated

from sparsernn.core.checks import checked
from sparsernn.core.limits import Entries, Rising, Size

Base = Size | Annotated[Sequence[Size], Entries(1), Rising()]


class Restarts:
    """The cycles between restarts.

    Args:
        base: the last epoch of the first cycle, after which the *last epochs* of the cycles double (5, 10, 20, 40:
            cycles of 5, 5, 10, 20 epochs); or a list of the cycles' last epochs, rising.

    Raises:
        InputError: not a whole number of at least 1, or a list that does not rise.

    Differs from T. Loshchilov and F. Hutter's restarts (2016, arXiv:1608.03983), where the *lengths* double: 5, 10,
    20, 40. F. Shang and H. Zhang (2019, arXiv:1902.10630) double the last epochs, and so does this.

    Example:
        >>> Restarts(5).cycles(40)
        [(1, 5), (6, 10), (11, 20), (21, 40)]
        >>> Restarts([160, 320]).cycle(200)
        (161, 320)
    """

    @checked
    def __init__(self, base: Base) -> None:
        ends = [base] if isinstance(base, int) else base
        self.base, self.ends, self.doubles = base, list(ends), len(ends) == 1

    def cycle(self, epoch: int) -> tuple[int, int]:
        """First and last epoch of the cycle of `epoch`, counted from 1; after the last of a list, the last one."""
        first, last = 0, self.ends[0]
        following = iter(self.ends[1:])
        while epoch > last:
            after = 2 * last if self.doubles else next(following, None)
            if after is None:
                break
            first, last = last, after
        return first + 1, last

    def cycles(self, epochs: int) -> list[tuple[int, int]]:
        """The cycles of a run; the last one may end after it, or before it where a list is too short."""
        found = dict.fromkeys(self.cycle(epoch) for epoch in range(1, epochs + 1))
        return list(found)
