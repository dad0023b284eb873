"""Synthesizers: small networks that estimate the gradient of everything that comes later at a recurrent state.

A synthesizer reads the state as one vector per sequence, (B, D), and answers with a vector like it; the numbers of
the answer are gradients in whatever unit its targets have.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sparsernn.core.checks import checked
from sparsernn.core.limits import Count, DropRate, Kind, NonNegative, Size, Spec
from sparsernn.core.plain import Json
from sparsernn.core.registry import make
from sparsernn.core.states import State
from sparsernn.nn import LAYERS
from sparsernn.nn.dropout import drop

Memory = State
"""What a synthesizer carries from one boundary to the next: nested tensors, or None for the beginning."""

WEIGHT_RANGE = 0.1  # of encoder and decoder, as in the published code
MERGING = ("lstm", "gru", "qrnn")
"""Layers that read their input by one product, with `weight_ih`, so that a linear encoder can be merged into it."""


class Synthesizer(nn.Module, ABC):
    """The contract: `forward(x (B, D), memory) -> (estimate (B, D), memory)`; noise and dropouts in training mode.

    Attributes:
        carries: whether its memory holds anything.
        context_size: numbers per sequence that it reads beside the state.
        mixes: the estimate for a sequence depends on the others of the batch.
    """

    carries = False
    mixes = False
    context_size = 0

    @abstractmethod
    def forward(self, x: Tensor, memory: Memory = None) -> tuple[Tensor, Memory]:
        """The estimate at one boundary, and what is carried to the next."""


class MLP(Synthesizer):
    """One network for the whole vector, as the first paper has it: it can learn what a state means.

    Args:
        size: D.
        hidden_sizes: widths of the hidden layers, which are rectified linear; [] makes it a linear map.
        zero_init: the last layer starts at 0, and with it the estimates.
        context_size: numbers per sequence that are read beside the state, such as a label; 0 for none. For loops
            of your own: a boundary has none to give.

    Example:
        >>> estimate, memory = MLP(6, hidden_sizes=[8])(torch.ones(2, 6))
        >>> estimate.abs().sum().item(), memory
        (0.0, None)

    Source: M. Jaderberg et al., "Decoupled Neural Interfaces using Synthetic Gradients", 2016, arXiv:1608.05343.
    """

    @checked
    def __init__(
        self,
        size: Size,
        *,
        hidden_sizes: Sequence[Size] = (256,),
        zero_init: bool = True,
        context_size: Count = 0,
    ) -> None:
        super().__init__()
        self.context_size = context_size
        widths = [size + context_size, *hidden_sizes, size]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        if zero_init:
            _zero(self.linears[-1])

    def forward(
        self, x: Tensor, memory: Memory = None, context: Tensor | None = None
    ) -> tuple[Tensor, Memory]:
        """x (B, D) and, where there is one, context (B, C) -> estimate (B, D); nothing is carried."""
        h = x if context is None else torch.cat((x, context), 1)
        for linear in self.linears[:-1]:
            h = linear(h).relu()
        return self.linears[-1](h), None


class Elementwise(Synthesizer):
    """One tiny network, a number in and a number out, shared by all B x D numbers of the state.

        encoder (1 -> n), recurrent layers (n -> n), decoder (n -> 1)

    Args:
        size: D; any will do.
        cell: "qrnn", "gru", "lstm" or another layer, or its spec, such as {name: qrnn, zoneout: 0.1}; the first layer
            of a "qrnn" has window 2 unless the spec says otherwise.
        hidden: n, at least 1.
        layers: at least 1.
        axis: what the recurrence runs over. "time": the boundaries one after the other, each number of the state for
            itself. "units": the numbers of a sequence's state, from the first layer's first unit to the last one's
            last. "flat": those of all sequences of the batch in one row, and on into the next boundary's: published.
        dropout: probability in [0, 1) between the layers (not before the first or after the last).
        noise: standard deviation of the factor around 1 on every number read in training, at least 0; published: 0.5.
        zero_init: the decoder starts at 0; published: U(-0.1, 0.1).

    Parameters at n = 50 and one layer: 15,301 (QRNN), 15,451 (GRU), 20,551 (LSTM).

    Example:
        >>> synthesizer = Elementwise(6, cell="gru", axis="time")
        >>> estimate, memory = synthesizer(torch.ones(2, 6))
        >>> estimate.shape, sum(p.numel() for p in synthesizer.parameters())
        (torch.Size([2, 6]), 15451)

    Source: F. Shang and H. Zhang, "Alternating Synthetic and Real Gradients for Neural Language Modeling", 2019,
    arXiv:1902.10630.
    Differs from the original: there a QRNN runs over "flat" and GRU and LSTM over "time"; here every cell runs over
    any axis. Encoder and first product are merged: nothing of n columns is computed in between.
    """

    @checked
    def __init__(
        self,
        size: Size,
        *,
        cell: Annotated[Spec, Kind("layer")] = "qrnn",
        hidden: Size = 50,
        layers: Size = 1,
        axis: Literal["time", "units", "flat"] = "units",
        dropout: DropRate = 0.0,
        noise: NonNegative = 0.0,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        self.axis, self.dropout, self.noise = axis, dropout, noise
        self.carries, self.mixes = axis != "units", axis == "flat"
        self.encoder, self.decoder = nn.Linear(1, hidden), nn.Linear(hidden, 1)
        specs = [_spec(cell, number) for number in range(layers)]
        self.layers = nn.ModuleList(
            make("cell", LAYERS, spec, input_size=hidden, hidden_size=hidden) for spec in specs
        )
        self.merges = specs[0].get("name") in MERGING
        self._initialise(specs, zero_init)

    def _initialise(self, specs: Sequence[Mapping[str, Json]], zero_init: bool) -> None:
        for linear in (self.encoder, self.decoder):
            nn.init.uniform_(linear.weight, -WEIGHT_RANGE, WEIGHT_RANGE)
            nn.init.zeros_(linear.bias)
        for layer, spec in zip(self.layers, specs, strict=True):
            for name in ("weight_ih", "weight_hh") if spec.get("name") in ("gru", "lstm") else ():
                nn.init.orthogonal_(layer.get_parameter(name))  # as published
        if zero_init:
            _zero(self.decoder)

    def forward(self, x: Tensor, memory: Memory = None) -> tuple[Tensor, Memory]:
        """x (B, D) -> estimate (B, D), and the layers' states where the axis carries them on."""
        if self.training and self.noise:
            x = x * (1 + self.noise * torch.randn_like(x))
        row = self._as_sequence(x)
        states = memory if memory is not None else [None] * len(self.layers)
        y, after = self._first(row, states[0])
        carried = [after]
        for layer, state in zip(self.layers[1:], states[1:], strict=True):
            y, after = layer(drop(y, self.dropout, self.training, False), state)
            carried.append(after)
        estimate = self._as_batch(self.decoder(y).squeeze(-1), len(x))
        return estimate, None if self.axis == "units" else tuple(carried)

    def _first(self, row: Tensor, state: Memory) -> tuple[Tensor, Memory]:
        """Encoder and first layer: W (w x + b) = (W [w b]) [x 1], so that nothing of n columns is made in between."""
        layer = self.layers[0]
        if not self.merges:
            y, after = layer(self.encoder(row.unsqueeze(-1)), state)
            return y, after
        encoder = torch.cat((self.encoder.weight, self.encoder.bias.unsqueeze(1)), 1)
        read = layer.get_parameter("weight_ih")
        weight = read.view(len(read), -1, len(encoder))  # a block per input of the window
        merged = {"weight_ih": (weight @ encoder).flatten(1)}
        pairs = torch.stack((row, torch.ones_like(row)), -1)
        y, after = functional_call(layer, merged, (pairs, state))
        return y, after

    def _as_sequence(self, x: Tensor) -> Tensor:
        """(B, D) -> (T, sequences) of single numbers."""
        if self.axis == "time":
            return x.reshape(1, -1)
        return x.t() if self.axis == "units" else x.reshape(-1, 1)

    def _as_batch(self, y: Tensor, batch: int) -> Tensor:
        return y.t() if self.axis == "units" else y.reshape(batch, -1)


def _spec(cell: str | Mapping[str, Json], number: int) -> Mapping[str, Json]:
    spec: dict[str, Json] = {"name": cell} if isinstance(cell, str) else dict(cell)
    if spec.get("name") == "qrnn":
        spec.setdefault("window", 1 if number else 2)
    return spec


def _zero(linear: nn.Module) -> None:
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)


SYNTHESIZERS: dict[str, Callable[..., Synthesizer]] = {"elementwise": Elementwise, "mlp": MLP}
