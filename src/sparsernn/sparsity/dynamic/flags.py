"""Truth values of a matrix, as a bool tensor or, eight to a byte, while nobody needs them."""

import numpy as np
import torch
from torch import Tensor


class Flags:
    """A bool tensor that can be put away.

    Args:
        tensor: bool, of any shape, on any device.

    Example:
        >>> flags = Flags(torch.tensor([[True, False]]))
        >>> flags.put_away()
        >>> flags.tensor.tolist(), flags.shape
        ([[True, False]], (1, 2))
    """

    def __init__(self, tensor: Tensor) -> None:
        self.shape = tuple(tensor.shape)
        self._tensor: Tensor | None = tensor
        self._bits: Tensor | None = None
        self._device = tensor.device

    @property
    def tensor(self) -> Tensor:
        """The tensor, live; a copy while it is put away."""
        if self._tensor is not None:
            return self._tensor
        assert self._bits is not None
        flags = np.unpackbits(self._bits.numpy(), count=torch.Size(self.shape).numel())
        return torch.from_numpy(flags).bool().view(self.shape).to(self._device)

    def put_away(self) -> None:
        """Keep the bits alone."""
        if self._tensor is not None:
            self._device = self._tensor.device
            self._bits = torch.from_numpy(np.packbits(self._tensor.cpu().flatten().numpy()))
            self._tensor = None

    def take_out(self) -> None:
        """Keep the tensor again."""
        self._tensor, self._bits = self.tensor, None
