"""One file per checkpoint: tensors as safetensors, everything else as JSON in its header. Nothing is unpickled.

A tree of dicts, lists, tuples, plain values and tensors is stored; each tensor leaf becomes a named tensor of the
file, and the JSON holds its place. Writing is atomic: the old file stays until the new one is complete on disk.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.safe_files import replacing
from sparsernn.runs import bitpack
from sparsernn.structure.weight_places import Stored

FORMAT = "sparsernn-checkpoint-1"
TENSOR, ZEROS, TUPLE, PAIRS = "__tensor__", "__zeros__", "__tuple__", "__pairs__"


class Values(NamedTuple):
    """A leaf of a tree that is saved: a matrix of which only the existing values are there.

    It is read back as the dense matrix.

    Attributes:
        layout: where they belong.
        values: (layout.size,).
    """

    layout: Stored
    values: Tensor


def with_places(state: Mapping[str, Json], layout: Stored | None) -> dict[str, Json]:
    """An optimizer's state of a parameter, its vectors of existing values together with their places."""
    fits = {k for k, v in state.items() if layout and isinstance(v, Tensor) and v.shape == (layout.size,)}
    return {k: Values(layout, v) if layout and k in fits else v for k, v in state.items()}


def save_checkpoint(path: Path, tree: Mapping[str, Json], packed: bool = False) -> int:
    """Write `tree` to `path` atomically.

    Args:
        path: the file; its folder must exist.
        tree: nested dicts (with str or int keys), lists, tuples, numbers, strings, None and tensors.
        packed: store tensors with zeros as one bit per position and what is not 0; it is read back to the bit.

    Returns:
        The size of the file in bytes.

    Raises:
        OSError: the disk is full or not writable; the old file, if any, is untouched.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "last.safetensors"
        >>> _ = save_checkpoint(path, {"model": {"weight": torch.ones(2)}, "step": 3})
        >>> load_checkpoint(path)
        {'model': {'weight': tensor([1., 1.])}, 'step': 3}
    """
    tensors: dict[str, Tensor] = {}
    state = json.dumps(_to_plain(tree, "", tensors, packed))
    metadata = {"format": FORMAT, "state": state, "sha256": _digest(state, tensors)}
    with replacing(path) as beside:
        _write(beside, tensors, metadata)
    _sync(path.parent)
    return path.stat().st_size


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:  # how the library reports that the disk refused the bytes
        raise OSError(str(error)) from error
    _sync(path)


def _sync(path: Path) -> None:
    """Make sure that the bytes (or the folder's entry) survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_checkpoint(path: Path) -> dict[str, Json]:
    """Read a checkpoint.

    Raises:
        InputError: missing, truncated, damaged, or not a checkpoint of this library.
    """
    tensors, metadata = _read_whole(path)
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a checkpoint of sparsernn (its format is {metadata.get('format')!r})."
        )
    if "state" not in metadata or metadata.get("sha256") != _digest(metadata["state"], tensors):
        raise InputError(
            f"{path} is damaged: its contents do not match their checksum; use another checkpoint."
        )
    try:
        tree = _from_plain(json.loads(metadata["state"]), tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: its parts do not fit together ({error!r}).") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path} is damaged: it holds a {type(tree).__name__}, not a state.")
    return tree


def _read_whole(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """As `read_safetensors`, and again where a run replaced the file meanwhile: it is opened twice."""
    while True:
        before = _identity(path)
        found = read_safetensors(path)
        if _identity(path) == before:
            return found


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        known = path.stat()
    except FileNotFoundError:
        return None
    return known.st_ino, known.st_mtime_ns


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file; one sentence of error for a bad one."""
    if not path.is_file():
        raise InputError(f"there is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # a method of its own: the file is no mapping to loop over
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path} is truncated, damaged or no safetensors file ({error}).") from error


def _digest(state: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(memoryview(tensors[name].reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()


def _to_plain(node: object, path: str, tensors: dict[str, Tensor], packed: bool) -> Json:
    if isinstance(node, Values):  # dense for a moment only
        return _to_plain(node.layout.put(node.values), path, tensors, packed=True)
    if isinstance(node, Tensor):
        if packed and bitpack.pays(node):
            tensors.update({f"{path}/{part}": piece for part, piece in bitpack.pieces(node).items()})
            return {ZEROS: path, "shape": list(node.shape)}
        tensors[path] = _own_bytes(node, tensors)
        return {TENSOR: path}
    if isinstance(node, Mapping):
        pairs = [
            (key, _to_plain(value, f"{path}/{key}" if path else str(key), tensors, packed))
            for key, value in node.items()
        ]
        return (
            dict(pairs)
            if all(isinstance(key, str) for key in node)
            else {PAIRS: [list(pair) for pair in pairs]}
        )
    if isinstance(node, list | tuple):
        items = [_to_plain(value, f"{path}/{k}", tensors, packed) for k, value in enumerate(node)]
        return {TUPLE: items} if isinstance(node, tuple) else items
    return node


def _own_bytes(tensor: Tensor, others: Mapping[str, Tensor]) -> Tensor:
    """The tensor, copied where it shares memory with one already taken: safetensors refuses such pairs."""
    own = tensor.detach().cpu().contiguous()
    place = own.untyped_storage().data_ptr()
    shared = any(place and other.untyped_storage().data_ptr() == place for other in others.values())
    return own.clone() if shared else own


def _from_plain(node: object, tensors: Mapping[str, Tensor]) -> Json:
    if isinstance(node, list):
        return [_from_plain(value, tensors) for value in node]
    if not isinstance(node, dict):
        return node
    if node.keys() == {TENSOR}:
        return tensors[node[TENSOR]]
    if node.keys() == {ZEROS, "shape"}:
        parts = {part: f"{node[ZEROS]}/{part}" for part in bitpack.PARTS}
        return bitpack.joined(
            {part: tensors[key] for part, key in parts.items() if key in tensors}, node["shape"]
        )
    if node.keys() == {TUPLE}:
        return tuple(_from_plain(value, tensors) for value in node[TUPLE])
    if node.keys() == {PAIRS}:
        return {key: _from_plain(value, tensors) for key, value in node[PAIRS]}
    return {key: _from_plain(value, tensors) for key, value in node.items()}
