"""Model files without the weights that do not exist: one bit per position and the kept values.

A masked float32 tensor of n weights, k of them kept, takes n/8 + 4k bytes instead of 4n: less as soon as the
density is below 31/32. With 8-bit values it takes n/8 + k bytes and 4 per row. The file is a safetensors
file: readable anywhere, never unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.core.safe_files import replacing
from sparsernn.kernels.weight_formats import to_int8

FORMAT = "sparsernn-packed-1"
VALUES = ("float32", "int8")


@dataclass
class Packed:
    """What a packed file holds.

    Attributes:
        state: parameter name -> dense tensor, ready for `load_state_dict`.
        masks: parameter name -> bool tensor, for the tensors that were packed under a mask.
        recipe: the summary given to `pack`, plain data.
        vocabulary: hash of the vocabulary given to `pack`, or "".
        values: "float32" or "int8", how masked values were stored.
    """

    state: dict[str, Tensor]
    masks: dict[str, Tensor]
    recipe: dict[str, Any] = field(default_factory=dict)
    vocabulary: str = ""
    values: str = "float32"


def pack(
    state: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    path: str | Path,
    *,
    values: str = "float32",
    recipe: Mapping[str, Any] | None = None,
    vocabulary: str = "",
) -> int:
    """Writes a packed model file, in one step (a reader never sees half of it).

    Args:
        state: parameter name -> tensor. Equal matrices (tied weights) are stored once.
        masks: parameter name -> bool tensor of its shape; tensors without one are stored dense.
        path: file to write.
        values: "float32" keeps every bit; "int8" rounds masked matrices to 8 bits with one factor per row.
        recipe: plain data (JSON) that says what the model is.
        vocabulary: hash of its vocabulary.

    Returns:
        Size of the file in bytes.

    Raises:
        InputError: a mask fits no tensor, or a tensor is not zero where its mask says absent.

    Example:
        >>> import tempfile
        >>> weight, mask = torch.tensor([[0.0, 2.0]]), torch.tensor([[False, True]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     size = pack({"w": weight}, {"w": mask}, folder + "/w.safetensors")
        ...     unpack(folder + "/w.safetensors")
        {'w': tensor([[0., 2.]])}
    """
    if values not in VALUES:
        raise InputError(f"values is {values!r}; it must be one of {', '.join(VALUES)}.")
    _check_masks(state, masks)
    tensors: dict[str, Tensor] = {}
    plan: dict[str, dict[str, Any]] = {}
    aliases = _aliases(state)
    for name, tensor in state.items():
        if name in aliases:
            plan[name] = {"as": "alias", "of": aliases[name]}
        else:
            plan[name] = _store(tensors, name, tensor.detach().cpu(), masks.get(name), values)
    about = {"tensors": plan, "recipe": dict(recipe or {}), "vocabulary": vocabulary, "values": values}
    return _write(Path(path), tensors, json.dumps(about))


def unpack(path: str | Path) -> dict[str, Tensor]:
    """Reads a packed file: parameter name -> dense tensor. See `read_packed` for masks and metadata."""
    return read_packed(path).state


def read_packed(path: str | Path) -> Packed:
    """Reads everything in a packed file.

    Raises:
        InputError: the file is missing, damaged, or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file; a packed model file is wanted.")
    about, tensors = _read(path)
    try:
        plan = about["tensors"]
        found = {
            name: _restore(tensors, name, entry) for name, entry in plan.items() if entry["as"] != "alias"
        }
        state = {name: found[entry.get("of", name)][0] for name, entry in plan.items()}
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as fault:
        raise InputError(
            f"{path} is damaged: its table of tensors does not fit its contents ({fault})."
        ) from fault
    masks = {name: mask for name, (_, mask) in found.items() if mask is not None}
    return Packed(state, masks, about["recipe"], about["vocabulary"], about["values"])


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


def _aliases(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Name -> earlier name of an equal matrix."""
    aliases: dict[str, str] = {}
    matrices = [(name, t.detach()) for name, t in state.items() if t.ndim > 1]
    for position, (name, tensor) in enumerate(matrices):
        for earlier, other in matrices[:position]:
            alike = tensor.shape == other.shape and tensor.dtype == other.dtype
            if alike and (tensor.data_ptr() == other.data_ptr() or torch.equal(tensor, other)):
                aliases[name] = aliases.get(earlier, earlier)
                break
    return aliases


def _store(
    tensors: dict[str, Tensor], name: str, tensor: Tensor, mask: Tensor | None, values: str
) -> dict[str, Any]:
    """Adds what represents one tensor to `tensors`; returns its entry of the table."""
    if mask is None:
        tensors[name] = tensor.clone().contiguous()
        return {"as": "dense"}
    mask = mask.detach().cpu().bool()
    bits = np.packbits(mask.reshape(-1).numpy(), bitorder="little")
    tensors[f"{name}/bits"] = torch.from_numpy(bits)
    entry = {"as": "bits", "shape": list(tensor.shape)}
    if values == "int8" and tensor.ndim > 1:
        rounded, scale = to_int8(tensor.float().reshape(tensor.shape[0], -1))
        tensors[f"{name}/scale"] = scale
        tensor, entry["as"] = rounded.reshape(tensor.shape), "bits_int8"
    tensors[f"{name}/values"] = tensor[mask].contiguous()
    return entry


def _restore(
    tensors: Mapping[str, Tensor], name: str, entry: Mapping[str, Any]
) -> tuple[Tensor, Tensor | None]:
    if entry["as"] == "dense":
        return tensors[name], None
    shape = torch.Size(entry["shape"])
    bits = np.unpackbits(tensors[f"{name}/bits"].numpy(), count=shape.numel(), bitorder="little")
    mask, values = torch.from_numpy(bits).bool().reshape(shape), tensors[f"{name}/values"]
    dense = torch.zeros(shape, dtype=values.dtype)
    dense[mask] = values
    if entry["as"] == "bits_int8":
        dense = dense * tensors[f"{name}/scale"].reshape(-1, *[1] * (len(shape) - 1))
    return dense, mask


def _digest(tensors: Mapping[str, Tensor], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write(path: Path, tensors: dict[str, Tensor], about: str) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        save_file(tensors, beside, {"format": FORMAT, "about": about, "sha256": _digest(tensors, about)})
    return path.stat().st_size


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                kind = metadata.get("format", "a safetensors file of another program")
                raise InputError(f"{path} is not a packed model ({kind}); a file written by pack is wanted.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as fault:
        raise InputError(f"{path} is no safetensors file or is damaged ({fault}).") from fault
    about = metadata.get("about", "")
    if _digest(tensors, about) != metadata.get("sha256"):
        raise InputError(f"{path} is damaged: its checksum does not fit its contents.")
    return json.loads(about), tensors
