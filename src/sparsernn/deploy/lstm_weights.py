"""The weights of stacked LSTM layers, each in the format that its products are fastest in."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.deploy.autotune import hold, kept_of
from sparsernn.kernels.library import library
from sparsernn.kernels.weight_formats import FORMATS, CMatrix, Csr, Dense, DenseInt8, Format, padded

WEIGHTS = ("weight_ih", "weight_hh")
BIASES = ("bias_ih", "bias_hh")
LOOKED_UP = (Dense, DenseInt8, Csr)
"""Formats in which one row can be read by itself (CsrInt8 is a Csr)."""


class CLayer(ctypes.Structure):
    """`Layer` of token.c."""

    _fields_ = (("ih", CMatrix), ("hh", CMatrix), ("bias", ctypes.c_void_p))


class CModel(ctypes.Structure):
    """`Model` of token.c."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("layers", "threads")),
        ("table", CMatrix),
        ("layer", ctypes.POINTER(CLayer)),
        ("head", CMatrix),
        ("head_bias", ctypes.c_void_p),
    )


def count_layers(state: Mapping[str, Tensor]) -> int:
    """Number of LSTM layers of a language model given by its tensors.

    Raises:
        InputError: these are not the tensors of one.
    """
    layers = 0
    while f"layers.{layers}.weight_hh" in state:
        layers += 1
    names = {f"layers.{n}.{part}" for n in range(layers) for part in (*WEIGHTS, *BIASES)}
    names |= {"embedding.weight", "head.bias"}
    odd = names ^ (set(state) - {"head.weight"})
    if odd or not layers:
        raise InputError(
            f"this is no LSTM language model: {min(odd, default='layers.0.weight_hh')} is missing or odd."
        )
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.numel():
            what = (
                f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else repr(tensor)[:60]
            )
            raise InputError(
                f"this is no LSTM language model: {name} is {what}, not numbers of floating point."
            )
    for name in ("embedding.weight", *(f"layers.{n}.weight_hh" for n in range(layers))):
        if state[name].ndim != 2:
            raise InputError(f"this is no LSTM language model: {name} has {state[name].ndim} axes and not 2.")
    wrong = [name for name, shape in _shapes(state, layers).items() if state[name].shape != shape]
    if wrong:
        raise InputError(
            f"this is no LSTM language model: {wrong[0]} has shape {tuple(state[wrong[0]].shape)}."
        )
    return layers


def _shapes(state: Mapping[str, Tensor], layers: int) -> dict[str, tuple[int, ...]]:
    """The shapes that follow from the embedding's and the recurrent weights'."""
    vocabulary, size = state["embedding.weight"].shape
    shapes: dict[str, tuple[int, ...]] = {}
    for n in range(layers):
        hidden = state[f"layers.{n}.weight_hh"].shape[-1]
        shapes[f"layers.{n}.weight_ih"] = (4 * hidden, size)
        shapes[f"layers.{n}.weight_hh"] = (4 * hidden, hidden)
        shapes |= {f"layers.{n}.{bias}": (4 * hidden,) for bias in BIASES}
        size = hidden
    head = "head.weight" if "head.weight" in state else "embedding.weight"
    return {**shapes, "head.bias": (vocabulary,), head: (vocabulary, size)}


class LSTMWeights:
    """The weights of a language model of stacked LSTM layers, held ready for products, as C reads them.

    Args:
        state: `embedding.weight` (V, E), `layers.N.weight_ih` (4H, I), `layers.N.weight_hh` (4H, H),
            `layers.N.bias_ih`, `layers.N.bias_hh`, `head.bias` (V,) and, unless tied, `head.weight` (V, H).
        masks: parameter name -> bool tensor; without one, zeros count as absent.
        products: "auto" times the formats of `sparsernn.kernels.FORMATS` for each weight and keeps the
            fastest; a name takes that one for all; a mapping parameter -> name leaves the others to "auto".
        int8: lets "auto" round weights to 8 bits where that is faster.
        batch: streams that "auto" tunes for, 1 to 16 (any other batch works too).

    Attributes:
        held: parameter name -> its `Format`.
        structure: `Model` of token.c; its number of threads may be set.
    Raises:
        InputError: other tensors, numbers that are not finite, masks or products for what is not there, weights that
            are not 0 where their mask says absent, or an impossible number of threads or streams.

    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
        *,
        products: str | Mapping[str, str] = "auto",
        int8: bool = False,
        batch: int = 1,
    ) -> None:
        self.layers = count_layers(state)
        _check_given(state, masks or {}, products)
        self.tied = _is_tied(state)
        self.bias = [
            _float(state[f"layers.{n}.bias_ih"] + state[f"layers.{n}.bias_hh"]) for n in range(self.layers)
        ]
        self.head_bias = _float(state["head.bias"])
        self.held = self._hold(state, masks or {}, products, (int8, padded(batch)))
        self.hidden = [self.held[f"layers.{n}.weight_hh"].shape[1] for n in range(self.layers)]
        self.library = library()
        self._dense_table: Tensor | None = None
        self.structure = self._structure()

    def _hold(
        self,
        state: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        products: str | Mapping[str, str],
        how: tuple[bool, int],
    ) -> dict[str, Format]:
        """Every matrix in its format; a tied head is kept once, unless its format has no rows to look up."""
        held: dict[str, Format] = {}
        head = "embedding.weight" if self.tied else "head.weight"
        for name in (*(f"layers.{n}.{part}" for n in range(self.layers) for part in WEIGHTS), head):
            product = products if isinstance(products, str) else products.get(name, "auto")
            held[name] = hold(state[name], masks.get(name), product, int8=how[0], batch=how[1])
        self.head = held[head]
        shared = self.tied and isinstance(self.head, LOOKED_UP)
        name = "embedding.weight"
        self.table = self.head if shared else _table(state[name], masks.get(name))
        return {**held, name: self.table, "head.weight": self.head}

    def _structure(self) -> CModel:
        pairs = [[self.held[f"layers.{n}.{part}"].structure for part in WEIGHTS] for n in range(self.layers)]
        rows = zip(pairs, self.bias, strict=True)
        self._rows = (CLayer * self.layers)(*(CLayer(*pair, bias.data_ptr()) for pair, bias in rows))
        head = (self.head.structure, self.head_bias.data_ptr())
        return CModel(self.layers, 1, self.table.structure, self._rows, *head)

    @property
    def bytes(self) -> int:
        """Memory that weights and biases take."""
        matrices = {id(f): f.bytes for f in self.held.values()}
        return sum(matrices.values()) + 4 * sum(b.numel() for b in (*self.bias, self.head_bias))

    def formats(self) -> dict[str, str]:
        """Name of each weight -> name of its format; the embedding is left out."""
        kinds = {cls: name for name, cls in FORMATS.items()}
        return {name: kinds[type(f)] for name, f in self.held.items() if name != "embedding.weight"}

    def rows(self, ids: list[int]) -> Tensor:
        """Word vectors (B, E); for the twin of the compiled token."""
        if self._dense_table is None:
            self._dense_table = self.table.restored()
        return self._dense_table[ids]


def _check_given(
    state: Mapping[str, Tensor], masks: Mapping[str, Tensor], products: str | Mapping[str, str]
) -> None:
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} has numbers that are not finite, so nothing can be computed with it.")
    names = state.keys() | {"head.weight"}
    for what, given in (("mask", masks), ("product", products if isinstance(products, Mapping) else {})):
        if odd := sorted(given.keys() - names):
            raise InputError(
                f"there is a {what} for '{odd[0]}', but the model has {', '.join(sorted(names))}."
            )
    for name, mask in masks.items():
        weight = state.get(name)
        if weight is not None and weight.shape == mask.shape and bool(weight[~mask.bool()].any()):
            raise InputError(f"{name} is not 0 where its mask says absent; mask it first.")


def _float(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()


def _is_tied(state: Mapping[str, Tensor]) -> bool:
    head, table = state.get("head.weight"), state["embedding.weight"]
    return head is None or head is table or (head.shape == table.shape and torch.equal(head, table))


def _table(weight: Tensor, mask: Tensor | None) -> Format:
    """An embedding to look words up in: without the absent weights where that takes less memory."""
    compressed = 6 * int(kept_of(weight, mask).sum()) < 4 * weight.numel()
    return FORMATS["csr" if compressed else "dense"](weight, mask)
