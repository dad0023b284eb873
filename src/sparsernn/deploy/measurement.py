"""What a model costs: products and bytes; how long it takes is measured in `latency`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from sparsernn.nn.blocks.block_embedding import BlockEmbedding
from sparsernn.nn.words.characters import CharacterCNN
from sparsernn.nn.words.heads import Head
from sparsernn.nn.words.word_embedding import Embedding
from sparsernn.nn.words.word_table import WordTable

LOOKED_UP: dict[type[nn.Module], str] = {
    BlockEmbedding: "",
    CharacterCNN: "embedding",
    Embedding: "",
    WordTable: "",
    nn.Embedding: "",
    nn.EmbeddingBag: "",
}
"""Modules that look rows up, and which of their own tensors: one by name, or "" for all."""


def macs_per_token(model: nn.Module | Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None) -> int:
    """Multiply-accumulates that one token takes: every kept weight of every matrix once.

    An embedding is looked up, not multiplied: 0; with tied weights it counts once, as the head. In a model that is
    decided by what its modules are (see `LOOKED_UP`), whatever their names; tensors alone have nothing but names, and
    those with a part "embedding" are taken for one. A weight that a torch parametrization computes counts once, with
    the shape it has. The head counts in full (no sampled or split softmax). Biases and pointwise parts are left out.
    Matrices that a cell applies several times per token (recurrent highway layers) count once. FLOPs are twice this
    number.

    Args:
        model: a model or its tensors by name.
        masks: parameter name -> bool tensor; {} or None: everything is dense.

    Example:
        >>> from sparsernn.models.language_model import LanguageModel
        >>> macs_per_token(LanguageModel(100, 10, [20]))   # 4 x 20 x (10 + 20) + 100 x 20
        4400
        >>> macs_per_token(nn.ModuleDict({"table": nn.Embedding(100, 10), "rnn": nn.RNN(10, 20)}))   # 20 x (10 + 20)
        600
    """
    state = model.state_dict(keep_vars=True) if isinstance(model, nn.Module) else model
    matrices = _matrices_of(model) if isinstance(model, nn.Module) else _matrices_in(model)
    masks = _by_first_name(state, masks or {})
    return sum(int(masks[name].sum()) if name in masks else size for name, size in matrices.items())


def _matrices_in(state: Mapping[str, Tensor]) -> dict[str, int]:
    """First name -> size of each distinct matrix that is multiplied, as far as names tell."""
    first = _distinct(state)
    tables = {name for name in first if "embedding" in name.split(".")}
    tied = bool(tables) and "head.weight" not in first and "head.bias" in state
    return {name: size for name, size in first.items() if tied or name not in tables}


def _matrices_of(model: nn.Module) -> dict[str, int]:
    """The same by the types of the modules that hold the matrices."""
    state = dict(model.state_dict(keep_vars=True))
    computed: dict[str, int] = {}
    for path, module in model.named_modules():
        dot = f"{path}." if path else ""
        for name in module.parametrizations if is_parametrized(module) else ():
            inner = f"{dot}parametrizations.{name}."
            parts = [part for part in state if part.startswith(inner)]
            if (weight := getattr(module, name)).ndim > 1:  # known by the part that a mask would be put on
                computed[next((p for p in parts if state[p].shape == weight.shape), inner)] = weight.numel()
            state = {part: tensor for part, tensor in state.items() if part not in parts}
    pruned = {f"{name.removesuffix('_orig')}_mask" for name in state if name.endswith("_orig")}
    kept = {name: tensor for name, tensor in state.items() if name not in pruned}
    tables = _tables(model)
    multiplied = {n: size for n, size in _distinct(kept).items() if _place(kept[n]) not in tables}
    return multiplied | computed


def _tables(model: nn.Module) -> set[int]:
    """Places of the matrices that are only looked up; one that another module holds too is multiplied by it."""
    decoding = {id(part) for head in model.modules() if isinstance(head, Head) for part in head.children()}
    looked_up, read = set[int](), set[int]()
    for module in model.modules():
        which = next((own for kind, own in LOOKED_UP.items() if isinstance(module, kind)), None)
        alone = which is not None and id(module) not in decoding
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            (looked_up if alone and which in ("", name) else read).add(_place(tensor))
    return looked_up - read


def _by_first_name(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks, those of tied weights under their first name whichever one they were given for."""
    first: dict[int, str] = {}
    for name, tensor in state.items():
        if isinstance(tensor, Tensor):
            first.setdefault(_place(tensor), name)
    return {first[_place(state[name])] if name in state else name: mask for name, mask in masks.items()}


def _distinct(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Sizes of the distinct matrices by first name."""
    first: dict[int, str] = {}
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and tensor.ndim > 1:  # and no module's extra state
            first.setdefault(_place(tensor), name)
    return {name: state[name].numel() for name in first.values()}


def _place(tensor: Tensor) -> int:
    """One number for all views of a weight (on the meta device there is no address, but one object)."""
    return tensor.data_ptr() or id(tensor)


def sizes(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Bytes of a model's tensors: dense float32, packed with float32 values, and packed with 8-bit values.

    What `pack` writes is this and a header of one to a few KB. Tied weights count once.

    Example:
        >>> import torch
        >>> weight = torch.eye(64)
        >>> sizes({"w": weight}, {"w": weight.bool()})
        {'dense_bytes': 16384, 'packed_bytes': 768, 'packed_int8_bytes': 832}
    """
    tensors = [(name, t) for name, t in state.items() if isinstance(t, Tensor)]  # no module's extra state
    distinct = {_place(t) if t.ndim > 1 else name: name for name, t in reversed(tensors)}
    masks = {**masks, **_by_first_name(state, masks)}
    total = dict.fromkeys(("dense_bytes", "packed_bytes", "packed_int8_bytes"), 0)
    for name in distinct.values():
        for key, size in zip(total, _bytes(state[name], masks.get(name)), strict=True):
            total[key] += size
    return total


def _bytes(tensor: Tensor, mask: Tensor | None) -> tuple[int, int, int]:
    dense = 4 * tensor.numel()
    if mask is None:
        return dense, dense, dense
    kept, bits = int(mask.sum()), (tensor.numel() + 7) // 8
    int8 = kept + 4 * tensor.shape[0] if tensor.ndim > 1 else 4 * kept
    return dense, bits + 4 * kept, bits + int8
