"""Sequences of different lengths as torch's recurrent kernels take them, without a wait for the device.

`pack_padded_sequence` puts sequences in the order of their lengths itself, and copies that order to the device while
the program waits. Here it is sent ahead.
"""

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from sparsernn.core.devices import moved


def returns(training: bool, x: Tensor) -> bool:
    """What torch's recurrent kernels are told as `train`: whether a gradient is going to come back.

    cuDNN lets none through a call that was not in training, which that of an evaluation may be that learns on the way
    or looks at gradients. The kernels have no dropout of their own here, so that nothing else follows from it.

    Args:
        training: of the module.
        x: what the kernel reads.

    Example:
        >>> returns(True, torch.zeros(1)), returns(False, torch.zeros(1))
        (True, False)
    """
    return training or (x.device.type != "cpu" and torch.is_grad_enabled())


class Ragged:
    """A batch of sequences, packed.

    Args:
        x: (T, B, I), padded.
        lengths: valid steps of each sequence, (B,) of 1 to T, on the CPU.

    Attributes:
        data: the steps of all sequences, (N, I), the longest sequence first.
        sizes: how many sequences go on at each step, (T',) int64, on the CPU.

    Example:
        >>> ragged = Ragged(torch.tensor([[1.0, 2.0], [3.0, 0.0]]).unsqueeze(-1), torch.tensor([2, 1]))
        >>> ragged.data.flatten().tolist(), ragged.sizes.tolist()
        ([1.0, 2.0, 3.0], [2, 1])
        >>> ragged.padded(ragged.data).squeeze(-1).tolist()
        [[1.0, 2.0], [3.0, 0.0]]
    """

    def __init__(self, x: Tensor, lengths: Tensor) -> None:
        falling, order = lengths.sort(descending=True)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        self._steps = len(x)
        self._order, self._back = moved((order, back), x.device)
        packed = pack_padded_sequence(x.index_select(1, self._order), falling)
        self.data, self.sizes = packed.data, packed.batch_sizes

    def in_order(self, state: Tensor) -> Tensor:
        """A state (1, B, H) in the order of the lengths."""
        return state.index_select(1, self._order)

    def as_given(self, state: Tensor) -> Tensor:
        """A state (1, B, H) of that order in the one in which the sequences were given."""
        return state.index_select(1, self._back)

    def padded(self, data: Tensor) -> Tensor:
        """Outputs (N, H) of all steps as (T, B, H), 0 beyond the end of a sequence."""
        y, _ = pad_packed_sequence(PackedSequence(data, self.sizes), total_length=self._steps)
        return self.as_given(y)
