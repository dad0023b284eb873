"""Which tensors, by name, are a language model of stacked LSTM layers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sparsernn.core.errors import InputError

WEIGHTS = ("weight_ih", "weight_hh")
BIASES = ("bias_ih", "bias_hh")


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
