"""Writing exact zeros where a mask is False: the one thing that happens after every optimizer step."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

# Types that numpy multiplies by bytes without changing the result's type.
_NUMPY_TYPES = (torch.float32, torch.float64, torch.int32, torch.int64)


@torch.no_grad()
def zero_absent(tensors: Iterable[Tensor], mask: Tensor) -> None:
    """Multiply every tensor in place by a mask, without a temporary of their size.

    Present positions keep their bits. Infinite or undefined values at absent positions become undefined, as in
    any multiplication; a run that has them is lost anyway.

    On the CPU numpy does it: it widens the mask in pieces that stay in the first-level cache, and one thread
    saturates the memory, so nothing has to wait for a second one. 66 million weights take 21 ms on an AVX2
    processor; a bool mask in torch's `mul_` takes 160 ms on two threads, and a float mask kept for good 20 ms and
    four bytes for each weight.

    Args:
        tensors: tensors of the mask's shape, of any number type and device.
        mask: bool tensor, True where a weight is present.

    Example:
        >>> weight = torch.tensor([1.0, 2.0, 3.0])
        >>> zero_absent([weight], torch.tensor([True, False, True]))
        >>> weight
        tensor([1., 0., 3.])
    """
    for tensor in tensors:
        if tensor.is_cpu and mask.is_cpu and tensor.dtype in _NUMPY_TYPES:
            array = tensor.detach().numpy()
            np.multiply(array, mask.view(torch.uint8).numpy(), out=array)
            torch.autograd.graph.increment_version(tensor)  # numpy wrote behind autograd's back
        else:
            tensor.mul_(mask.to(tensor.device))
