"""Whether a run's loops over time are sent to its device as CUDA graphs."""

from typing import Protocol, runtime_checkable

import torch
from torch import nn

from sparsernn.core.errors import InputError


@runtime_checkable
class StepsThroughTime(Protocol):
    """A layer whose loop can be captured; see `sparsernn.nn.drive.recurrent.Recurrent`."""

    captured: bool


def send_as_graphs(model: nn.Module, device: torch.device) -> None:
    """Let every layer that steps through time capture its training windows, where the device has graphs.

    On other devices nothing changes: a run goes on there as it is.

    Args:
        model: whose layers may have the attribute `captured`.
        device: where it computes.

    Raises:
        InputError: none of its layers has.

    Example:
        >>> from sparsernn.nn import RHN
        >>> layer = RHN(3, 5)
        >>> send_as_graphs(layer, torch.device("cpu"))
        >>> layer.captured
        False
    """
    loops = [part for part in model.modules() if isinstance(part, StepsThroughTime)]
    if not loops:
        raise InputError(
            "cuda_graphs is True, but no layer of this model steps through time by a loop that could be captured, as "
            "RHN, ON-LSTM, Elman and block LSTM layers do; let it be False."
        )
    for part in loops:
        part.captured = device.type == "cuda"
