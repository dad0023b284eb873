"""Model files without the weights that do not exist: one bit per position and the kept values.

A masked float32 tensor of n weights, k of them kept, takes n/8 + 4k bytes instead of 4n: less as soon as the
density is below 31/32. With 8-bit values it takes n/8 + k bytes and 4 per row, with 4-bit values n/8 + k/2 and 2 for
each group of 64 columns of a row. The file is a safetensors file: readable anywhere, never unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.core.limits import OneOf
from sparsernn.core.plain import Json
from sparsernn.core.safe_files import replacing
from sparsernn.deploy.described_models import Tensors, described
from sparsernn.deploy.unpacking import FORMAT, ROUNDED, UNFIT, VALUES, digest, read_table
from sparsernn.kernels.group_rounding import BITS, to_int4, to_nibbles
from sparsernn.kernels.weight_formats import to_int8

ROUNDINGS = {"int8": to_int8, "int4": to_int4}
"""Kind of values -> (R, C) rounded, and the factors."""


@dataclass
class Packed:
    """What a packed file holds.

    Attributes:
        state: parameter name -> dense tensor, ready for `load_state_dict` and for `runtime`.
        masks: parameter name -> bool tensor, for the tensors that were packed under a mask.
        recipe: the summary given to `pack`, plain data.
        vocabulary: hash of the vocabulary given to `pack`, or "".
        values: "float32", "int8" or "int4", how masked values were stored.
    """

    state: Tensors
    masks: dict[str, Tensor]
    recipe: dict[str, Json] = field(default_factory=dict)
    vocabulary: str = ""
    values: str = "float32"


def pack(
    state: Mapping[str, Tensor] | nn.Module,
    masks: Mapping[str, Tensor],
    path: str | Path,
    *,
    values: str = "float32",
    recipe: Mapping[str, Json] | None = None,
    vocabulary: str = "",
) -> int:
    """Writes a packed model file, in one step (a reader never sees half of it).

    Args:
        state: a model, or parameter name -> tensor. A model of this library is described in the file, so that
            `runtime(unpack(path))` can compute it. Matrices of equal bits and equal masks (tied weights) are stored
            once.
        masks: parameter name -> bool tensor of its shape; tensors without one are stored dense. Of the names of a
            tied weight one is enough.
        path: file to write.
        values: "float32" keeps every bit; "int8" rounds masked matrices of floating point to 8 bits with one factor
            per row, "int4" to 4 bits with one factor per 64 columns of a row. Types stay what they are.
        recipe: plain data (JSON) that says what the model is; under "model" as a recipe does, `{name: ...,
            settings}`, which a model given as `state` says itself.
        vocabulary: hash of its vocabulary.

    Returns:
        Size of the file in bytes.

    Raises:
        InputError: a mask fits no tensor, a tensor is not zero where its mask says absent or cannot be rounded, or
            state (a module's extra state, for example) or recipe have something that such a file cannot hold.

    Example:
        >>> import tempfile
        >>> weight, mask = torch.tensor([[0.0, 2.0]]), torch.tensor([[False, True]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     size = pack({"w": weight}, {"w": mask}, folder + "/w.safetensors")
        ...     unpack(folder + "/w.safetensors")
        {'w': tensor([[0., 2.]])}
    """
    check_value("values", values, Annotated[str, OneOf(VALUES)])
    told = {**(described(state) if isinstance(state, nn.Module) else {}), **(recipe or {})}
    state = state.state_dict() if isinstance(state, nn.Module) else state
    _check_state(state)
    _check_masks(state, masks)
    tensors: dict[str, Tensor] = {}
    plan: dict[str, dict[str, Json]] = {}
    aliases, masks = _aliases(state, masks)
    for name, tensor in state.items():
        if name in aliases:
            plan[name] = {"as": "alias", "of": aliases[name], "masked": name in masks}
        else:
            plan[name] = _store(tensors, name, tensor.detach().cpu(), masks.get(name), values)
    about = {"tensors": plan, "recipe": told, "vocabulary": vocabulary, "values": values}
    return _write(Path(path), tensors, _plain(about))


def unpack(path: str | Path) -> Tensors:
    """Reads a packed file: parameter name -> dense tensor, for `load_state_dict` or `runtime`.

    See `read_packed` for masks and metadata.
    """
    return read_packed(path).state


def read_packed(path: str | Path) -> Packed:
    """Reads everything in a packed file, whoever wrote it: what does not fit is refused, never guessed.

    Raises:
        InputError: the file is missing, damaged, or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file; a packed model file is wanted.")
    about, found = read_table(path)
    state = Tensors({name: tensor for name, (tensor, _) in found.items()}, about["recipe"])
    masks = {name: mask for name, (_, mask) in found.items() if mask is not None}
    return Packed(state, masks, about["recipe"], about["vocabulary"], about["values"])


def _check_state(state: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise InputError(
                f"'{name}' is a {type(tensor).__name__}, which a packed file cannot hold; leave it out of the state, "
                "or let the module's get_extra_state return a tensor."
            )
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise InputError(
                f"'{name}' is {tensor.layout} on {tensor.device}; a packed file holds dense tensors."
            )


def _check_masks(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        if name not in state:
            raise InputError(f"there is a mask for {name!r}, but the model has {', '.join(state)}.")
        tensor = state[name]
        if mask.shape != tensor.shape:
            wanted = tuple(tensor.shape)
            raise InputError(f"the mask of {name!r} has shape {tuple(mask.shape)}; it must have {wanted}.")
        stray = int(tensor.detach()[~mask.bool()].count_nonzero())
        if stray:
            raise InputError(
                f"{name!r} has {stray} weights that are not 0 where its mask says absent; mask it first."
            )


def _aliases(
    state: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Name -> earlier name of a matrix that is the same under the same mask; and the masks, tied weights sharing one.

    A mask that is there for one name of a tied weight only is stored with the first name, as its own if it has none.
    """
    aliases: dict[str, str] = {}
    held = dict(masks)
    matrices = [(name, t.detach()) for name, t in state.items() if t.ndim > 1]
    for position, (name, tensor) in enumerate(matrices):
        for earlier, other in matrices[:position]:
            if earlier in aliases or not _same_bits(tensor, other):
                continue
            mine, theirs = held.get(name), held.get(earlier)
            if mine is None or theirs is None:
                alike = mine is theirs or _is_one(tensor, other)
            else:
                alike = torch.equal(mine.bool(), theirs.bool())
            if alike:
                aliases[name] = earlier
                if theirs is None and mine is not None:
                    held[earlier] = mine
                break
    return aliases, held


def _is_one(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape lie in the same place in memory."""
    return tensor.data_ptr() == other.data_ptr() and tensor.stride() == other.stride()


def _same_bits(tensor: Tensor, other: Tensor) -> bool:
    if tensor.shape != other.shape or tensor.dtype != other.dtype or tensor.device != other.device:
        return False
    if _is_one(tensor, other):
        return True
    # bits, because 0.0 equals -0.0, and what is no number does not equal itself
    pair = (t.contiguous().reshape(-1).view(torch.uint8) for t in (tensor, other))
    return torch.equal(*pair)


def _store(
    tensors: dict[str, Tensor], name: str, tensor: Tensor, mask: Tensor | None, values: str
) -> dict[str, Json]:
    """Adds what represents one tensor to `tensors`; returns its entry of the table."""
    if mask is None:
        _add(tensors, name, tensor.clone())
        return {"as": "dense"}
    mask = mask.detach().cpu().bool()
    bits = np.packbits(mask.reshape(-1).numpy(), bitorder="little")
    _add(tensors, f"{name}/bits", torch.from_numpy(bits))
    entry: dict[str, Json] = {"as": "bits", "shape": list(tensor.shape)}
    kind = str(tensor.dtype).removeprefix("torch.")
    if values in ROUNDINGS and tensor.ndim > 1 and tensor.numel() and kind in ROUNDED:
        rounded, scale = ROUNDINGS[values](tensor.float().reshape(tensor.shape[0], -1))
        if not bool(torch.isfinite(scale).all()):
            raise InputError(
                f"{name!r} has numbers that are not finite or too large for {BITS[values]} bits; use float32."
            )
        _add(tensors, f"{name}/scale", scale)
        kept = rounded.reshape(tensor.shape)[mask]
        _add(tensors, f"{name}/values", to_nibbles(kept) if values == "int4" else kept)
        return entry | {"as": f"bits_{values}", "dtype": kind}
    _add(tensors, f"{name}/values", tensor[mask])
    return entry


def _add(tensors: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if name in tensors:
        raise InputError(f"the name {name!r} stands for a tensor and for a part of a masked one; rename it.")
    tensors[name] = tensor.contiguous()


def _plain(about: Mapping[str, Json]) -> str:
    try:
        return json.dumps(about, allow_nan=False)
    except UNFIT as fault:
        raise InputError(
            f"the recipe is not plain data ({fault}); give text, numbers, lists and mappings."
        ) from fault


def _write(path: Path, tensors: dict[str, Tensor], about: str) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        try:
            save_file(tensors, beside, {"format": FORMAT, "about": about, "sha256": digest(tensors, about)})
        except (KeyError, ValueError, TypeError) as fault:  # a type that the format does not know
            raise InputError(f"{path} cannot hold these tensors ({fault}).") from fault
    return path.stat().st_size
