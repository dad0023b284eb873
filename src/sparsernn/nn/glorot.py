"""Layers initialised as TensorFlow does when nothing is said: Glorot uniform weights, biases 0.

Source: X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS
2010.
"""

import math

import torch
from torch import Tensor, nn

from sparsernn.nn.cells.lstm import LSTM


@torch.no_grad()
def glorot_(weight: Tensor, fan_in: int, fan_out: int) -> Tensor:
    """Fill a weight from U(-a, a), a = sqrt(6 / (fan_in + fan_out)).

    Example:
        >>> bool(glorot_(torch.empty(40, 10), 10, 40).abs().max() <= math.sqrt(6 / 50))
        True
    """
    return weight.uniform_(-1, 1).mul_(math.sqrt(6 / (fan_in + fan_out)))


def glorot_linear(input_size: int, output_size: int) -> nn.Linear:
    """A linear layer with a Glorot weight and a bias of 0.

    Example:
        >>> glorot_linear(3, 2).bias.tolist()
        [0.0, 0.0]
    """
    layer = nn.Linear(input_size, output_size)
    glorot_(layer.weight, input_size, output_size)
    nn.init.zeros_(layer.bias)
    return layer


def glorot_lstm(input_size: int, hidden_size: int) -> LSTM:
    """An LSTM with one bias per gate row and 1 added before the forget gate.

    Its two weights are initialised as one matrix from [x, h] to the four gates. `bias_ih` starts at 0 and is trained;
    `bias_hh` is the constant that is added, 1 for the forget gate and 0 for the others, and is not.

    Example:
        >>> layer = glorot_lstm(3, 2)
        >>> layer.bias_hh.tolist(), sum(p.numel() for p in layer.parameters() if p.requires_grad)
        ([0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], 48)

    Source of the 1: R. Jozefowicz, W. Zaremba and I. Sutskever, "An Empirical Exploration of Recurrent Network
    Architectures", ICML 2015.
    """
    layer = LSTM(input_size, hidden_size)
    rows = len(layer.gates) * hidden_size
    for weight in (layer.weight_ih, layer.weight_hh):
        glorot_(weight, input_size + hidden_size, rows)
    nn.init.zeros_(layer.bias_ih)
    forget = layer.gates.index("f") * hidden_size
    with torch.no_grad():
        layer.bias_hh.zero_()[forget : forget + hidden_size] = 1.0
    layer.bias_hh.requires_grad_(False)
    return layer
