"""What a report shows of a checkpoint: weights, averages, masks. Only `read_tensors` knows the file."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from struct import pack

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.runs.checkpoint import load_checkpoint

CELLS = (200, 60)  # most rows and columns of a mask picture: a cell is then some 3 pixels on a desktop page
ELEMENTS_PER_CELL = 12  # fewer would show sampling noise, not structure


@dataclass(frozen=True)
class Tensors:
    """Tensors of one checkpoint by parameter name: float weights, bool masks, float averages (where kept)."""

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    averages: Mapping[str, Tensor] = field(default_factory=dict)


def read_tensors(folder: Path) -> Tensors:
    """The tensors of last.safetensors in `folder`, else of best.safetensors; none where neither is whole."""
    for name in ("last.safetensors", "best.safetensors"):
        try:
            return tensors_of(load_checkpoint(folder / name))
        except InputError:
            continue
    return Tensors()


def tensors_of(tree: Mapping[str, Json]) -> Tensors:
    """Pick weights, masks and averages out of a checkpoint's tree.

    An optimizer numbers its parameters; its groups say the names. Older files do not: there, parameters were numbered
    in the order of the model, in which the weights are stored too.
    """
    weights = {name: value for name, value in (tree.get("model") or {}).items() if isinstance(value, Tensor)}
    optimizer = tree.get("optimizer")
    held = optimizer if isinstance(optimizer, Mapping) else {}
    names = [name for group in held.get("param_groups") or () for name in group.get("param_names") or ()]
    names = names or list(weights)
    kept = [(names[int(k)], one) for k, one in (held.get("state") or {}).items() if int(k) < len(names)]
    averages = {name: _average(one) for name, one in kept if isinstance(one.get("average"), Tensor)}
    return Tensors(weights, _masks(tree.get("sparsifier")), averages)


def _average(state: Mapping[str, Json]) -> Tensor:
    """An averaged weight, NaN where nothing was averaged yet (weights that were grown a moment ago)."""
    average: Tensor = state["average"].float()
    count = state.get("count")
    return average.masked_fill(count == 0, float("nan")) if isinstance(count, Tensor) else average


def _masks(tree: object) -> dict[str, Tensor]:
    """All masks below `tree`: sparsifiers can be chained, so they are looked for at every depth."""
    if not isinstance(tree, Mapping | list | tuple):
        return {}
    found: dict[str, Tensor] = {}
    for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
        if key == "masks" and isinstance(value, Mapping):
            found |= {
                n: mask for n, mask in value.items() if isinstance(mask, Tensor) and mask.dtype == torch.bool
            }
        else:
            found |= _masks(value)
    return found


def density_map(mask: Tensor, cells: tuple[int, int] = CELLS) -> Tensor:
    """Average density in a grid of cells.

    Args:
        mask: (R, C), bool.
        cells: at most so many rows and columns. Small masks get fewer, so that each holds enough positions.

    Returns:
        (r, c) float in [0, 1], r <= cells[0], c <= cells[1].

    Example:
        >>> density_map(torch.eye(4, dtype=torch.bool), cells=(2, 2)).shape
        torch.Size([1, 1])
    """
    rows, columns = mask.shape
    most = min(rows, cells[0]), min(columns, cells[1])
    shrink = min(1.0, (rows * columns / ELEMENTS_PER_CELL / (most[0] * most[1])) ** 0.5)
    grid = max(1, round(most[0] * shrink)), max(1, round(most[1] * shrink))
    return adaptive_avg_pool2d(mask.to(torch.float32)[None], grid)[0]


def png(alpha: Tensor, colour: tuple[int, int, int]) -> bytes:
    """A small PNG: one colour with the opacity `alpha`, (R, C) in [0, 1]; it suits light and dark pages.

    >>> png(torch.ones(2, 3), (0, 0, 0))[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    rows, columns = alpha.shape
    levels = (alpha.clamp(0, 1) * 255).round().to(torch.uint8)
    raw = b"".join(b"\0" + bytes(row.tolist()) for row in levels)
    header = pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", bytes(colour) * 256), (b"tRNS", bytes(range(256))))
    body = b"".join(
        _chunk(tag, data) for tag, data in (*chunks, (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _chunk(tag: bytes, data: bytes) -> bytes:
    return pack(">I", len(data)) + tag + data + pack(">I", zlib.crc32(tag + data))


def histogram(values: Tensor, edges: Tensor) -> list[float]:
    """Share of all `values` in each bin between the uniform `edges`; what lies outside is in no bin.

    >>> histogram(torch.tensor([-9.0, 0.1, 0.2, 0.3]), torch.linspace(-1, 1, 3))
    [0.0, 0.75]
    """
    counts = torch.histc(values, bins=len(edges) - 1, min=float(edges[0]), max=float(edges[-1]))
    return (counts / max(1, values.numel())).tolist()
