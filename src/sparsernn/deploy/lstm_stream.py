"""Texts read by stacked LSTM layers, one call into C per token, or the same written out in torch."""

import ctypes
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.deploy.lstm_weights import LSTMWeights
from sparsernn.deploy.token_stream import Stream
from sparsernn.kernels.weight_formats import padded


class CBuffers(ctypes.Structure):
    """`Buffers` of token.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("h_old", "h_new", "c", "x", "gates", "logits", "scratch")),
        ("scratch_stride", ctypes.c_int32),
    )


class LSTMStream(Stream):
    """Texts read by stacked LSTM layers; `state` is a tuple of (h, c), each (B, H), one pair per layer."""

    def __init__(self, model: LSTMWeights, batch: int, threads: int) -> None:
        self.model, self.batch, self.width = model, batch, padded(batch)
        self.vocabulary_size = model.head.shape[0]
        width, cells = self.width, sum(model.hidden)
        self._h = [torch.zeros(cells, width), torch.zeros(cells, width)]
        self._c = torch.zeros(cells, width)
        self._x = torch.zeros(model.table.shape[1], width)
        self._gates = torch.zeros(4 * max(model.hidden), width)
        self._logits = torch.zeros(self.vocabulary_size, width)
        # rows of 64 bytes and more apart, so that threads do not share cache lines
        stride = (max(model.table.shape[1], *model.hidden) + 63) // 32 * 32
        self._scratch = torch.zeros(threads * stride, dtype=torch.int16)
        self._buffers = [self._pointers(0, stride), self._pointers(1, stride)]
        self._now = 0

    def _pointers(self, old: int, stride: int) -> CBuffers:
        tensors = (self._h[old], self._h[1 - old], self._c, self._x, self._gates, self._logits, self._scratch)
        return CBuffers(*(t.data_ptr() for t in tensors), stride)

    @property
    def state(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """A copy of what the model remembers."""
        parts = [
            torch.split(t[:, : self.batch].t(), self.model.hidden, 1) for t in (self._h[self._now], self._c)
        ]
        return tuple((h.contiguous().clone(), c.contiguous().clone()) for h, c in zip(*parts, strict=True))

    @state.setter
    def state(self, state: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Takes up another reading: a `state` of this or of the model's own forward pass.

        Raises:
            InputError: it is of other layers or another batch, or not finite.
        """
        pairs = self._checked(state)
        for target, values in ((self._h[self._now], 0), (self._c, 1)):
            target[:, : self.batch] = torch.cat([pair[values] for pair in pairs], 1).t()

    def _checked(self, state: Iterable[Iterable[Tensor]]) -> list[tuple[Tensor, Tensor]]:
        wanted = [(self.batch, hidden) for hidden in self.model.hidden for _ in range(2)]
        try:
            tensors = [t for pair in state for t in pair]
            fits = [tuple(t.shape) for t in tensors] == wanted and all(map(_is_number, tensors))
        except (TypeError, AttributeError):
            fits = False
        if not fits:
            shapes = ", ".join(f"two of {shape}" for shape in wanted[::2])
            raise InputError(f"the state does not fit: it must be finite tensors, {shapes}.")
        return [(tensors[k], tensors[k + 1]) for k in range(0, len(tensors), 2)]

    @torch.no_grad()
    def step(self, words: Sequence[int] | Tensor) -> Tensor:
        """One token."""
        ids = self._ids(words)
        if self.model.library is None:
            self._twin(ids)
        else:
            here = (ctypes.addressof(self.model.structure), ctypes.addressof(self._buffers[self._now]))
            self.model.library.token(*here, (ctypes.c_int64 * self.batch)(*ids), self.batch, self.width)
        self._now = 1 - self._now
        if self.width == 1:  # torch takes 60 microseconds to copy a column of 10,000, and 2 for a row
            return self._logits.view(1, -1).clone()
        return self._logits[:, : self.batch].t().clone(memory_format=torch.contiguous_format)

    def _twin(self, ids: list[int]) -> None:
        """The same in torch; see token.c."""
        model, at = self.model, 0
        self._x[:, : self.batch] = model.rows(ids).t()
        x = self._x
        for n, hidden in enumerate(model.hidden):
            old, new = (self._h[k][at : at + hidden] for k in (self._now, 1 - self._now))
            ih, hh = (model.held[f"layers.{n}.{part}"].twin() for part in ("weight_ih", "weight_hh"))
            i, f, g, o = torch.split(ih @ x + hh @ old + model.bias[n].unsqueeze(1), hidden)
            c = self._c[at : at + hidden]
            c.mul_(f.sigmoid()).add_(i.sigmoid() * g.tanh())
            x = torch.mul(o.sigmoid(), c.tanh(), out=new)
            at += hidden
        torch.add(model.head.twin() @ x, model.head_bias.unsqueeze(1), out=self._logits)


def _is_number(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(torch.isfinite(tensor).all())
