"""Reading packed files that may have been made by anybody: all is checked before a tensor is built from it.

A checksum in the file only says that it is whole; who edits a file can write a new one. So the table of tensors is
held against the tensors themselves: what it says about shapes can never ask for more memory than the bits that are
there stand for.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.kernels.group_rounding import from_int4, from_nibbles, groups_of

FORMAT = "sparsernn-packed-1"
VALUES = ("float32", "int8", "int4")
ROUNDED = {
    str(t).removeprefix("torch."): t for t in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}
"""What values stored in fewer bits may have been before, by name."""

AXES = 64
"""No tensor of torch has more."""

HEADER_UP_TO = 100_000_000
"""Bytes, as safetensors has it."""

UNFIT = (
    SafetensorError,
    OSError,
    KeyError,
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    OverflowError,
    MemoryError,
)
"""What readers raise that are given something else (RecursionError is a RuntimeError)."""

Restored = tuple[Tensor, Tensor | None]


def digest(tensors: Mapping[str, Tensor], about: str) -> str:
    """The checksum of a packed file's contents, SHA-256."""
    found = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def read_table(path: Path) -> tuple[dict[str, Json], dict[str, Restored]]:
    """What a packed file says about itself, and name -> (dense tensor, mask or None).

    Raises:
        InputError: the file is damaged, is something else, or its parts do not fit each other.
    """
    try:
        _check_names(path)
        metadata, tensors = _read(path)
    except InputError:
        raise
    except UNFIT as fault:
        raise InputError(f"{path} is no safetensors file or is damaged ({_told(fault)}).") from fault
    about = metadata.get("about", "")
    if digest(tensors, about) != metadata.get("sha256"):
        raise InputError(f"{path} is damaged: its checksum does not fit its contents.")
    try:
        said = json.loads(about, object_pairs_hook=_each_once, parse_constant=_no_number)
        _check_kinds(said)
        return said, _restored(said["tensors"], tensors)
    except UNFIT as fault:
        raise InputError(
            f"{path} is damaged: its table of tensors does not fit its contents ({_told(fault)})."
        ) from fault


def _check_names(path: Path) -> None:
    """Refuse a header that is longer than the file, or has a name twice, of which a reader would take one."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(HEADER_UP_TO, path.stat().st_size - 8):
            raise ValueError(f"its header claims {length} bytes")
        json.loads(file.read(length), object_pairs_hook=_each_once)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            kind = str(metadata.get("format", "a safetensors file of another program"))[:60]
            raise InputError(f"{path} is not a packed model ({kind}); a file written by pack is wanted.")
        return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def _told(fault: BaseException) -> str:
    if isinstance(fault, KeyError):
        return f"{fault} is missing"
    return str(fault).partition("\n")[0][:200].rstrip(".") or type(fault).__name__


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"'{twice[:60]}' is there twice")
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _check_kinds(about: dict[str, Json]) -> None:
    kinds = {"tensors": dict, "recipe": dict, "vocabulary": str, "values": str}
    _want(isinstance(about, dict), "it is no table")
    for key, kind in kinds.items():
        _want(isinstance(about[key], kind), f"'{key}' is a {type(about[key]).__name__}")
    _want(about["values"] in VALUES, f"values are {about['values'][:60]!r}")


def _restored(plan: dict[str, Json], tensors: Mapping[str, Tensor]) -> dict[str, Restored]:
    left = set(tensors)
    found: dict[str, Restored] = {}
    for name, entry in plan.items():
        _want(isinstance(entry, dict), f"'{name[:60]}' is a {type(entry).__name__}")
        if entry["as"] != "alias":
            parts = {part: tensors[f"{name}{part}"] for part in _parts(name, entry)}
            left -= {f"{name}{part}" for part in parts}
            found[name] = _one(name, entry, parts)
    for name, entry in plan.items():
        if entry["as"] == "alias":
            whole, mask = found[_text(entry["of"])]
            # files of before say nothing, and their aliases have no mask of their own
            found[name] = whole, mask if entry.get("masked") is True else None
    _want(not left, f"nothing is said about '{min(left, default='')[:60]}'")
    return {name: found[name] for name in plan}


def _parts(name: str, entry: Mapping[str, Json]) -> tuple[str, ...]:
    rounded = ("/bits", "/values", "/scale")
    kinds = {"dense": ("",), "bits": ("/bits", "/values"), "bits_int8": rounded, "bits_int4": rounded}
    how = _text(entry["as"])
    _want(how in kinds, f"'{name[:60]}' is stored as {how[:60]!r}")
    return kinds[how]


def _one(name: str, entry: Mapping[str, Json], parts: Mapping[str, Tensor]) -> Restored:
    if entry["as"] == "dense":
        return parts[""], None
    shape, bits, values = _shape(name, entry["shape"]), parts["/bits"], parts["/values"]
    numbers = math.prod(shape)
    wanted = -(-numbers // 8)
    _want(
        bits.dtype == torch.uint8 and bits.shape == (wanted,),
        f"'{name}' has the shape {shape}, which takes {wanted} bytes of bits, not {_form(bits)}",
    )
    present = np.unpackbits(bits.numpy(), count=numbers, bitorder="little")
    mask = torch.from_numpy(present).bool().reshape(shape)
    kept = int(mask.count_nonzero())
    if entry["as"] == "bits_int4":
        half = (kept + 1) // 2
        fits = values.dtype == torch.uint8 and values.shape == (half,)
        _want(fits, f"'{name}' has {kept} bits, which are {half} bytes of values, not {_form(values)}")
        values = from_nibbles(values, kept)
    _want(values.shape == (kept,), f"'{name}' has {kept} bits for values of {_form(values)}")
    dense = torch.zeros(shape, dtype=values.dtype)
    dense[mask] = values
    if entry["as"] == "bits_int8":
        dense = _rescaled(name, entry, dense, parts["/scale"])
    if entry["as"] == "bits_int4":
        dense = _regrouped(name, entry, dense, parts["/scale"])
    return dense, mask


def _kind(name: str, entry: Mapping[str, Json]) -> torch.dtype:
    kind = _text(entry.get("dtype", "float32"))
    _want(kind in ROUNDED, f"'{name}' is said to be of {kind[:60]!r}")
    return ROUNDED[kind]


def _regrouped(name: str, entry: Mapping[str, Json], steps: Tensor, scale: Tensor) -> Tensor:
    kind = _kind(name, entry)
    _want(steps.ndim > 1 and steps.numel() > 0, f"'{name}' has the shape {tuple(steps.shape)} in 4 bits")
    rows = steps.reshape(len(steps), -1)
    wanted = (len(rows), groups_of(rows.shape[1]))
    fits = scale.dtype == torch.float16 and scale.shape == wanted
    _want(fits, f"'{name}' takes float16 factors {wanted}, not {_form(scale)}")
    _want(bool(torch.isfinite(scale).all()), f"'{name}' has impossible factors")
    return from_int4(rows, scale).reshape(steps.shape).to(kind)


def _rescaled(name: str, entry: Mapping[str, Json], steps: Tensor, scale: Tensor) -> Tensor:
    kind = _kind(name, entry)
    _want(steps.dtype == torch.int8 and steps.ndim > 1, f"'{name}' has values of {_form(steps)}, not 8 bits")
    _want(
        scale.dtype == torch.float32 and scale.shape == steps.shape[:1],
        f"'{name}' has {len(steps)} rows and factors of {_form(scale)}",
    )
    _want(bool(torch.isfinite(scale).all()) and bool((scale >= 0).all()), f"'{name}' has impossible factors")
    return (steps * scale.reshape(-1, *[1] * (steps.ndim - 1))).to(kind)


def _shape(name: str, given: object) -> tuple[int, ...]:
    sizes = given if isinstance(given, list) else [None]
    whole = all(type(size) is int and 0 <= size < 1 << 48 for size in sizes)
    _want(whole and len(sizes) <= AXES, f"'{name[:60]}' has the shape {str(given)[:60]}")
    return tuple(sizes)


def _text(given: object) -> str:
    _want(isinstance(given, str), f"{str(given)[:60]} is no word")
    return str(given)


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _want(fits: bool, why: str) -> None:
    if not fits:
        raise ValueError(why)
