"""The processes that train one run together: each reads its share of every batch, and all take the same step.

The batch of a recipe is the batch of all. A process (a rank, counted from 0) computes the gradients of its own
sequences. Its loss, a mean over its own targets, counts by the share that these are of all targets; a penalty, which
has nothing to do with the batch, by one part of as many as there are ranks. Then the gradients are summed over the
ranks before anybody looks at them, and that is the gradient of the whole batch, whether it was divided evenly or not.
So weights, averages, masks and learning rates are the same on every rank without being sent. What differs is carried
state and dropouts. Rank 0 alone writes.

The gradients are summed by all-reduces over flat buckets after the backward pass, and not while it goes on, as
DistributedDataParallel does: so nothing has to be known of what else starts or follows the pass (boundaries,
penalties without a graph, dense gradients for growth rules), and nothing is wrapped around the model.
"""

import atexit
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed

from sparsernn.contracts import Batch, Boundary, Task
from sparsernn.core.devices import CPU, moved
from sparsernn.core.errors import InputError
from sparsernn.core.peers import Peers, share_of
from sparsernn.core.plain import Json
from sparsernn.core.streams import begin_dropout

BUCKET = 2**26
"""Bytes that are summed at once: enough that the number of messages does not matter, little beside the weights."""

Word = TypeVar("Word")
Shares = Sequence[Mapping[str, Json]]
"""What belongs to each rank but the first."""


class Lost(InputError):
    """Another process of the run has ended; the last checkpoint is where to go on from."""


class Alone(Peers):
    """One process: nothing is shared and nobody is asked. The null member.

    Attributes:
        rank: number of this process, from 0.
        count: of all processes.

    Example:
        >>> alone = Alone()
        >>> alone.first, alone.agreed(True, 0), alone.told("word"), alone.gathered(dict)
        (True, (True, 0), 'word', [])
    """

    rank, count = 0, 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def check(self, task: Task, boundary: Boundary, device: torch.device) -> None:
        """Before training.

        Raises:
            InputError: the parts of the run cannot be shared by so many processes, or several processes were started
                and each would train a run of its own.
        """
        if started() > 1:
            raise InputError(
                f"{started()} processes were started (WORLD_SIZE), and this way to train knows of one; only "
                "'sparsernn train', 'resume' and 'finetune' share a run among them."
            )

    def own(self, shares: Shares, step: int) -> Mapping[str, Json] | None:
        """What of a saved state belongs to this rank instead of what belongs to the first; None: nothing else does.

        Args:
            shares: as `gathered` gave them when the state was saved.
            step: optimizer steps done by then; before the first one nothing belongs to anybody yet.

        Raises:
            InputError: the state is of another number of processes.
        """
        if step and len(shares) + 1 != self.count:
            before = len(shares) + 1
            raise InputError(
                f"the run was trained by {before} process{'es' * (before > 1)} so far and {self.count} would go on; "
                "each has its part of the state, so start as many as before (torchrun --nproc-per-node)."
            )
        return shares[self.rank - 1] if step and self.rank else None

    def begin_dropout(self, seed: int) -> None:
        """Before the first step: ranks draw other dropouts. Those of the first are a single process'."""

    def part(self, task: Task, batch: Batch) -> Batch:
        """This rank's share of a batch."""
        return batch

    def share(self, part: Batch, whole: Batch) -> float:
        """How much of the mean loss over the whole batch is that of this rank's part: by scored targets."""
        return part.targets.numel() / whole.targets.numel()

    def sequences(self, batch_size: int) -> int:
        """How many sequences of a batch of the usual size are this rank's."""
        return len(range(batch_size)[share_of(batch_size, self.rank, self.count)])

    def agreed(
        self, due: bool, signal_number: int, masks: Mapping[str, Tensor] | None = None
    ) -> tuple[bool, int]:
        """What all ranks do next: save, if the first one says so, and stop, if any of them got a signal.

        Args:
            due: whether this rank would save.
            signal_number: that this rank got; 0: none.
            masks: in a step that may have changed them.

        Raises:
            InputError: a rank has other masks than the first.
        """
        return due, signal_number

    def told(self, word: Word) -> Word:
        """What the first rank has to say; `word` is what it says, and not looked at elsewhere."""
        return word

    def gathered(self, share: Callable[[], Mapping[str, Json]]) -> list[Mapping[str, Json]]:
        """What `share` says on all ranks but the first, in their order and on the CPU; on the others []."""
        return []


class Ranks(Alone):
    """Several processes that have met in torch's default process group.

    Collective calls are made by every rank in the same order. Where one has ended, the others' calls raise `Lost`.

    Args:
        rank: of this process.
        count: of all, at least 1.
    """

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count

    def check(self, task: Task, boundary: Boundary, device: torch.device) -> None:
        """See `Alone.check`."""
        task.check_parts(self.count)
        boundary.check_parts(self.count)
        if device.type == "cuda" and device.index != torch.cuda.current_device():
            raise InputError(
                f"the device is '{device}' and every process has one of its own; it must be auto or cuda where "
                "several processes train."
            )

    def begin_dropout(self, seed: int) -> None:
        """See `Alone.begin_dropout`."""
        if self.rank:
            begin_dropout(seed, self.rank)

    def part(self, task: Task, batch: Batch) -> Batch:
        """See `Alone.part`."""
        return task.part(batch, self.rank, self.count)

    @torch.no_grad()
    def sum(self, tensors: Sequence[Tensor]) -> None:
        """See `Peers.sum`."""
        for bucket in buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with _together():
                distributed.all_reduce(flat)
            for tensor, total in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def agreed(
        self, due: bool, signal_number: int, masks: Mapping[str, Tensor] | None = None
    ) -> tuple[bool, int]:
        """See `Alone.agreed`; one small message on the CPU, for which no device is waited."""
        mine = torch.tensor([due, signal_number, 0 if masks is None else fingerprint(masks)])
        heard = [torch.empty_like(mine) for _ in range(self.count)]
        with _together():
            distributed.all_gather(heard, mine)
        rows = torch.stack(heard)
        odd = (rows[:, 2] != rows[0, 2]).nonzero().flatten().tolist()
        if odd:
            raise InputError(
                f"process {odd[0]} has other masks than process 0, so they no longer train one network; the last "
                "checkpoint is from before, and every process must have the same software and kind of processor."
            )
        return bool(rows[0, 0]), int(rows[:, 1].max())

    def told(self, word: Word) -> Word:
        """See `Alone.told`."""
        words = [word]
        with _together():
            distributed.broadcast_object_list(words)
        return words[0]

    def gathered(self, share: Callable[[], Mapping[str, Json]]) -> list[Mapping[str, Json]]:
        """See `Alone.gathered`."""
        shares: list[Mapping[str, Json]] | None = [{}] * self.count if self.first else None
        own = {} if self.first else moved(share(), CPU)
        with _together():
            distributed.gather_object(own, shares)
        return (shares or [])[1:]


ALONE = Alone()


def started() -> int:
    """How many processes torchrun, or whoever sets its variables, has started.

    >>> started()
    1
    """
    count = os.environ.get("WORLD_SIZE", "")
    return int(count) if count.isdecimal() and "RANK" in os.environ else 1


@contextmanager
def processes() -> Iterator[Alone]:
    """The ranks that were started with this process, met; `ALONE` where it was started by itself.

    Every process takes the CUDA device of its number on its machine, where there are such.

    Example:
        >>> with processes() as ranks:
        ...     ranks.count
        1
    """
    if started() <= 1:
        yield ALONE
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl" if distributed.is_nccl_available() else "gloo"
    with _together():
        distributed.init_process_group(backend)
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    except Lost:
        atexit.register(_leave)
        raise
    finally:
        distributed.destroy_process_group()


def _leave() -> None:
    """End at once: threads that still wait for a lost process were seen to abort an exit in good order."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def buckets(tensors: Sequence[Tensor], size: int = BUCKET) -> Iterator[list[Tensor]]:
    """The tensors in lists of one type each and of not much more than `size` bytes.

    >>> [len(bucket) for bucket in buckets([torch.ones(3), torch.ones(1), torch.ones(2).double()], size=12)]
    [1, 1, 1]
    """
    for kind in dict.fromkeys((t.dtype, t.device) for t in tensors):
        bucket: list[Tensor] = []
        held = 0
        for tensor in (t for t in tensors if (t.dtype, t.device) == kind):
            if bucket and held + tensor.nbytes > size:
                yield bucket
                bucket, held = [], 0
            bucket.append(tensor)
            held += tensor.nbytes
        yield bucket


def fingerprint(masks: Mapping[str, Tensor]) -> int:
    """A number of 56 bits that tells masks apart.

    >>> fingerprint({"w": torch.tensor([True, False])}) == fingerprint({"w": torch.tensor([False, True])})
    False
    """
    digest = hashlib.sha256()
    for name, mask in masks.items():
        digest.update(name.encode())
        digest.update(mask.detach().cpu().numpy().tobytes())
    return int.from_bytes(digest.digest()[:7], "big")


@contextmanager
def _together() -> Iterator[None]:
    """What all ranks do; one that finds another gone says so in a sentence."""
    try:
        yield
    except RuntimeError as error:
        raise Lost(
            f"another process of this run has ended or cannot be reached ({str(error).splitlines()[0][:150]}); its "
            "last checkpoint is whole, so go on with 'sparsernn resume' in as many processes."
        ) from error
