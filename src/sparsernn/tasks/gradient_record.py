"""How far back a trained network is taught: a record of the gradient against the time lag."""

from collections.abc import Callable

import torch
from torch import Tensor

from sparsernn.core.plain import Json
from sparsernn.models.language_model import LanguageModel
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.nn.drive.layer import Stack
from sparsernn.nn.gradient_reach import gradient_by_lag
from sparsernn.tasks.segments import dropouts_off

LOOKED_AT = 20
"""Sequences whose gradients are averaged: their norms differ by a few per cent."""


def lag_record(
    model: LanguageModel | SequenceModel, inputs: Tensor, score: Callable[[Tensor], Tensor]
) -> dict[str, Json]:
    """The norm of the gradient at the top layer's state, by the number of steps before the scored one.

    Args:
        model: with `layers`, a `Stack`; left in the mode in which it came, gradients as they were.
        inputs: what the stack reads, (T, B, I).
        score: the top layer's last output (B, H) -> a number, such as the mean loss of the last answers.

    Returns:
        {"event": "gradient", "norms": [T norms, lag 0 first, five digits]}.

    Example:
        >>> from sparsernn.models import SequenceModel
        >>> layer = {"name": "elman", "map": "orthogonal", "nonlinearity": "none"}
        >>> found = lag_record(SequenceModel(2, 1, [4], layer), torch.randn(3, 5, 2), lambda h: h.sum())
        >>> len(found["norms"]), round(found["norms"][2] / found["norms"][0], 3)
        (3, 1.0)
    """
    layers: Stack = model.layers
    *below, top = layers.members
    with dropouts_off(model), torch.no_grad():
        for layer in below:
            inputs, _ = layer(inputs)
        norms = gradient_by_lag(top, inputs, lambda y: score(y[-1]))
    return {"event": "gradient", "norms": [float(f"{norm:.5g}") for norm in norms.tolist()]}
