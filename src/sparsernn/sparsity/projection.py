"""Writing exact zeros where a mask is False: the one thing that happens after every optimizer step."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

# Elements handled at a time. The factor 0/1 is widened from bytes to floats one chunk at a time and stays in
# the cache; on a two-core AVX2 processor this takes 16 ms for 66 million weights, where a bool mask in `mul_`
# takes 160 ms and a float mask kept for good 20 ms and four bytes for each weight.
CHUNK = 1 << 20


@torch.no_grad()
def zero_absent(tensors: Iterable[Tensor], mask: Tensor) -> None:
    """Multiply every tensor in place by a mask, without a temporary of their size.

    Present positions keep their bits. Infinite or undefined values at absent positions become undefined, as
    in any multiplication; a run that has them is lost anyway.

    Args:
        tensors: tensors of the mask's shape, of any number type and device.
        mask: bool tensor, True where a weight is present.

    Example:
        >>> weight = torch.tensor([1.0, 2.0, 3.0])
        >>> zero_absent([weight], torch.tensor([True, False, True]))
        >>> weight
        tensor([1., 0., 3.])
    """
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_cpu and tensor.is_contiguous() and mask.is_contiguous():
            by_type.setdefault(tensor.dtype, []).append(tensor.detach().view(-1))
        else:
            tensor.mul_(mask.to(tensor.device))
    for kind, group in by_type.items():
        _in_chunks(group, mask, kind)


def _in_chunks(flat: Sequence[Tensor], mask: Tensor, kind: torch.dtype) -> None:
    bytes_ = mask.view(torch.uint8).view(-1)
    for start in range(0, bytes_.numel(), CHUNK):
        factor = bytes_[start : start + CHUNK].to(kind)
        for tensor in flat:
            tensor[start : start + CHUNK].mul_(factor)
