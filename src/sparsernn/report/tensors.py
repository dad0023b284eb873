"""What a checkpoint holds that a report shows: weights, their averages, masks. All reading is behind one function."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from struct import pack

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

CELLS = (
    60,
    200,
)  # most rows and columns of a mask picture: one cell is then about 5 pixels on a desktop page
ELEMENTS_PER_CELL = 12  # fewer would show sampling noise, not structure
AVERAGES = ("average", "ax")  # our name for an averaged weight, and torch ASGD's


@dataclass(frozen=True)
class Tensors:
    """Tensors of one checkpoint by parameter name: float weights, bool masks, float averages (where kept)."""

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    averages: Mapping[str, Tensor] = field(default_factory=dict)


def read_tensors(folder: Path) -> Tensors:
    """The tensors of `folder`/last.safetensors, else of best.safetensors; nothing where neither can be read."""
    for name in ("last.safetensors", "best.safetensors"):
        try:
            return _read(folder / name)
        except (OSError, SafetensorError):
            continue
    return Tensors()


def _read(path: Path) -> Tensors:
    with safe_open(str(path), framework="pt") as file:
        paths = [key.split("/") for key in file.keys()]  # noqa: SIM118  (it is not a mapping)
        chosen = {kind: _select(paths, kind) for kind in ("weights", "masks", "averages")}
        loaded = {kind: {n: file.get_tensor(p) for n, p in names.items()} for kind, names in chosen.items()}
    return Tensors(**loaded)


def _select(paths: list[list[str]], kind: str) -> dict[str, str]:
    """Parameter name -> path in the file, for one kind of tensor."""
    return {path[-1]: "/".join(path) for path in paths if _is(path, kind)}


def _is(path: list[str], kind: str) -> bool:
    if kind == "weights":
        return path[0] == "model" and len(path) == 2
    if kind == "masks":
        return path[0] == "sparsifier" and len(path) > 2 and path[-2] == "masks"
    return path[0] == "optimizer" and any(part in AVERAGES or part == "averages" for part in path[1:-1])


def density_map(mask: Tensor, cells: tuple[int, int] = CELLS) -> Tensor:
    """Average density in a grid of cells.

    Args:
        mask: (R, C), bool.
        cells: at most so many rows and columns. Small masks get fewer cells, so that each holds enough positions.

    Returns:
        (r, c) float in [0, 1], r <= cells[0], c <= cells[1].

    Example:
        >>> density_map(torch.eye(4, dtype=torch.bool), cells=(2, 2)).shape
        torch.Size([1, 1])
    """
    rows, columns = mask.shape
    shrink = min(
        1.0, (rows * columns / ELEMENTS_PER_CELL / (min(rows, cells[0]) * min(columns, cells[1]))) ** 0.5
    )
    grid = (max(1, round(min(rows, cells[0]) * shrink)), max(1, round(min(columns, cells[1]) * shrink)))
    return adaptive_avg_pool2d(mask.to(torch.float32)[None], grid)[0]


def png(alpha: Tensor, colour: tuple[int, int, int]) -> bytes:
    """A small PNG: one colour, `alpha` (R, C) in [0, 1] as its opacity, so that it sits on light and dark pages.

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
    """Share of `values` in each bin between the uniform `edges`; what lies outside counts in the outer bins.

    >>> histogram(torch.tensor([-9.0, 0.1, 0.2]), torch.linspace(-1, 1, 3))
    [0.3333333432674408, 0.6666666865348816]
    """
    low, high = float(edges[0]), float(edges[-1])
    counts = torch.histc(values.clamp(low, high), bins=len(edges) - 1, min=low, max=high)
    return (counts / max(1, values.numel())).tolist()
