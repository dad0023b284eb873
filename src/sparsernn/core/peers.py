"""The processes that train one run, as its parts see them."""

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence

from torch import Tensor, distributed


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


def processes_met() -> int:
    """How many processes have met in torch's default group, this one among them.

    >>> processes_met()
    1
    """
    met = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if met else 1


_asked: Counter[str] = Counter()


def common_answer(question: Hashable, answer: str) -> str:
    """What all processes are to think of something that each has measured: what the first one to ask has found.

    Nobody waits for anybody: whoever asks first is heard by those who come later, and one that never asks holds up
    none. Where a question is asked again, each has to have asked it as often as the others before.

    Args:
        question: the same on every process, and so without what is of one process only, such as its share of a batch.
        answer: what this process has found.

    Example:
        >>> common_answer("which is faster?", "this one")                     # one process, which has met no other
        'this one'
    """
    if processes_met() == 1:
        return answer
    text = repr(question)
    _asked[text] += 1
    key = f"sparsernn/{hashlib.sha256(text.encode()).hexdigest()}/{_asked[text]}"
    heard: bytes = distributed.distributed_c10d._get_default_store().compare_set(key, "", answer)
    return heard.decode()


def share_of(size: int, number: int, parts: int) -> slice:
    """Which of `size` sequences are in a part, counted from 0: as many as in the others, or one more or less.

    >>> [share_of(5, number, 2) for number in range(2)]
    [slice(0, 2, None), slice(2, 5, None)]
    """
    return slice(size * number // parts, size * (number + 1) // parts)
