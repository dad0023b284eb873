"""Small pictures of digits: MNIST from IDX files, and the 8x8 digits that come with scikit-learn.

`IMAGES` names the sets that a recipe can ask for.
"""

import hashlib
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.core.packages import check_installed, folder_of
from sparsernn.core.plain import Json
from sparsernn.data.download import cache_folder
from sparsernn.data.split_files import DATA_VARIABLE, named_place
from sparsernn.data.text_files import read_bytes, read_text, unpacked

ORDER_SEED = 1234
"""Of the published permutations of pixels and of training images (the nnRNN code, G. Kerg et al., 2019)."""

MNIST_TRAIN, MNIST_VALID = 50_000, 10_000
CLASSES = 10

MOST_DIMENSIONS = 4
"""Of an IDX file: pictures, rows, columns and at most the channels of a colour."""


@dataclass(frozen=True)
class Images:
    """Pictures with a class each.

    Attributes:
        pixels: split -> uint8 (N, P), row by row from the top left.
        labels: split -> int64 (N,), 0 to 9.
        brightest: the value of white: pixels / brightest lie in [0, 1].
        info: plain facts for the run folder: `name`, `source`, `sha256` per split, `note`.
    """

    pixels: dict[str, Tensor]
    labels: dict[str, Tensor]
    brightest: int
    info: dict[str, Json]


def pixel_order(pixels: int) -> Tensor:
    """The published permutation of the pixels of a picture, (P,) int64.

    Example:
        >>> pixel_order(784)[:5].tolist()
        [529, 511, 328, 133, 532]
    """
    return torch.from_numpy(np.random.RandomState(ORDER_SEED).permutation(pixels))


def image_order(pixels: int, images: int) -> Tensor:
    """The published order of the training images, drawn after that of the pixels; the last ones are for validation.

    Example:
        >>> image_order(784, 60_000)[:3].tolist()
        [8550, 21862, 695]
    """
    generator = np.random.RandomState(ORDER_SEED)
    generator.permutation(pixels)
    return torch.from_numpy(generator.permutation(images))


def read_idx(path: str | Path) -> Tensor:
    """A tensor of bytes in the IDX format, compressed or not, uint8.

    Raises:
        InputError: no such file, or it is damaged, empty or of another format.

    Source of the format: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits".
    """
    data = unpacked(read_bytes(path), path)
    rank = data[3] if len(data) > 3 else 0
    if data[:3] != b"\x00\x00\x08" or not 1 <= rank <= MOST_DIMENSIONS or len(data) < 4 + 4 * rank:
        raise InputError(
            f"'{path}' is no IDX file of bytes; it begins with {data[:4].hex() or 'nothing'}, where 000008 and 1 to "
            f"{MOST_DIMENSIONS} dimensions are needed."
        )
    shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    found, wanted = len(data) - 4 - 4 * rank, math.prod(shape)
    if found != wanted:
        raise InputError(f"'{path}' is damaged: {wanted:,} bytes should follow its header, but {found:,} do.")
    if not wanted:
        raise InputError(
            f"'{path}' is empty: its header says {' x '.join(map(str, shape))}; nothing can be read."
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * rank).copy()).view(shape)


def mnist(path: str | Path | None = None, *, data_dir: str | Path | None = None) -> Images:
    """MNIST as the nnRNN paper splits it: 50,000 to train, 10,000 to validate, the official 10,000 to test.

    Args:
        path: a folder with the four IDX files (`train-images-idx3-ubyte` ...; also with `.gz`), or one with a folder
            `mnist` that has them; missing: $SPARSERNN_DATA.
        data_dir: takes the place of `path`.

    Raises:
        InputError: a file is missing or damaged.
    """
    place = _place("mnist", path, data_dir)
    images, labels = _pair(place, "train")
    if len(images) != MNIST_TRAIN + MNIST_VALID:
        raise InputError(f"'{place}' has {len(images):,} training images; MNIST has 60,000.")
    order = image_order(images.shape[1], len(images))
    train, valid = order[:MNIST_TRAIN], order[MNIST_TRAIN : MNIST_TRAIN + MNIST_VALID]
    splits = {"train": (images[train], labels[train]), "valid": (images[valid], labels[valid])}
    test = _pair(place, "t10k")
    if test[0].shape[1] != images.shape[1]:
        raise InputError(
            f"the pictures in '{place}' have {images.shape[1]} pixels for training and {test[0].shape[1]} for "
            "testing; they must be equally large."
        )
    return _images("mnist", str(place), 255, {**splits, "test": test})


def mnist_10k(path: str | Path | None = None, *, data_dir: str | Path | None = None) -> Images:
    """The 10,000 test images of MNIST alone: 8,000 to train, 1,000 to validate, 1,000 to test.

    Results do not compare with published ones. Arguments and errors as in `mnist`; two files are enough.
    """
    place = _place("mnist", path, data_dir)
    note = "the official test images, split; results are not comparable with published ones"
    return _images("mnist-10k", str(place), 255, split_by_hash(*_pair(place, "t10k")), note)


def digits(path: str | Path | None = None, *, data_dir: str | Path | None = None) -> Images:
    """The 1,797 pictures of 8x8 pixels that scikit-learn brings along: 1,437 to train, 180 to validate, 180 to test.

    Only scikit-learn's data file is read, the library itself is not imported.

    Args:
        path: a folder with `digits.csv.gz` (or `digits.csv`), or one with a folder `digits` that has it; missing:
            $SPARSERNN_DATA, then the installed scikit-learn.
        data_dir: takes the place of `path`.

    Raises:
        InputError: no file, or a damaged one.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
    1998; this is its test set.
    """
    file = _digits_file(path, data_dir)
    table = _table(file)
    if table.shape[1] != 65 or not 0 <= int(table.min()) <= int(table.max()) <= 16:
        raise InputError(f"'{file}' is not the table of digits; 64 pixels of 0 to 16 and a label make a row.")
    if int(table[:, -1].max()) >= CLASSES:
        raise InputError(f"'{file}' has the label {int(table[:, -1].max())}; labels are 0 to 9.")
    return _images("digits", str(file), 16, split_by_hash(table[:, :-1].to(torch.uint8), table[:, -1]))


def _table(file: Path) -> Tensor:
    """The whole numbers of a file with commas, (rows, columns)."""
    lines = read_text(file).split()
    try:
        table = torch.tensor([[int(cell) for cell in line.split(",")] for line in lines])
    except (ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"'{file}' is no table of numbers ({error}).") from error
    return table


IMAGES: dict[str, Callable[..., Images]] = {"digits": digits, "mnist": mnist, "mnist-10k": mnist_10k}


def split_by_hash(images: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """A tenth to validate, a tenth to test, the rest to train, by the rank of each picture's sha256.

    The split depends on the pictures and not on their order; equal pictures are neighbours, so that at the two
    borders alone they could part.

    Args:
        images: uint8 (N, P), N at least 10.
        labels: (N,).

    Raises:
        InputError: fewer than ten pictures.

    Example:
        >>> parts = split_by_hash(torch.arange(20, dtype=torch.uint8).view(20, 1), torch.arange(20))
        >>> {split: len(labels) for split, (_, labels) in parts.items()}
        {'train': 16, 'valid': 2, 'test': 2}
    """
    if len(images) < 10:
        raise InputError(f"there are {len(images)} pictures; at least 10 are needed, to split them in three.")
    keys = [hashlib.sha256(row.tobytes()).digest() for row in images.numpy()]
    order = torch.tensor(sorted(range(len(keys)), key=keys.__getitem__))
    tenth = -(-len(keys) // 10)
    parts = torch.split(order, [len(keys) - 2 * tenth, tenth, tenth])
    return {s: (images[k], labels[k]) for s, k in zip(("train", "valid", "test"), parts, strict=True)}


def _images(
    name: str, source: str, brightest: int, splits: Mapping[str, tuple[Tensor, Tensor]], note: str = ""
) -> Images:
    pixels = {split: pictures.contiguous() for split, (pictures, _) in splits.items()}
    labels = {split: classes.long().contiguous() for split, (_, classes) in splits.items()}
    digests = {s: hashlib.sha256(pixels[s].numpy().tobytes() + labels[s].numpy().tobytes()) for s in pixels}
    hashes = {split: digest.hexdigest() for split, digest in digests.items()}
    return Images(pixels, labels, brightest, {"name": name, "source": source, "note": note, "sha256": hashes})


def _pair(place: Path, kind: str) -> tuple[Tensor, Tensor]:
    """Images (N, P) and labels (N,) of "train" or "t10k"."""
    files = [_file(place, f"{kind}-{what}") for what in ("images-idx3", "labels-idx1")]
    images, labels = map(read_idx, files)
    if images.dim() != 3 or labels.shape != images.shape[:1]:
        shapes = f"{tuple(images.shape)} and {tuple(labels.shape)}"
        raise InputError(
            f"the {kind} images and labels in '{place}' have the shapes {shapes}; one digit per image is needed."
        )
    if int(labels.max()) >= CLASSES:
        wrong = int((labels >= CLASSES).nonzero()[0])
        raise InputError(
            f"'{files[1]}' has the label {int(labels[wrong])} for picture {wrong + 1:,}; the labels of MNIST are 0 "
            "to 9 (the letters of EMNIST, which have 1 to 26, are not read)."
        )
    return images.flatten(1), labels


def _file(place: Path, stem: str) -> Path:
    name = f"{stem}-ubyte"
    names = [name, f"{name}.gz", name.replace("-idx", ".idx"), f"{name.replace('-idx', '.idx')}.gz"]
    for candidate in names:
        if (place / candidate).is_file():
            return place / candidate
    raise InputError(f"'{place / names[0]}' does not exist; MNIST is read from {', '.join(names)}.")


def _place(name: str, path: str | Path | None, data_dir: str | Path | None) -> Path:
    """The folder of a data set: what is said, else what was downloaded."""
    place = named_place(name, path, data_dir)
    if place is None and (cache_folder() / name).is_dir():
        place = cache_folder() / name
    if place is None:
        raise InputError(
            f"the {name} files are needed; get them with 'sparsernn data get {name}', name their folder with --data, "
            f"or put them into ${DATA_VARIABLE}/{name}."
        )
    if not place.is_dir():
        raise InputError(f"'{place}' is not a folder; one with the {name} files is needed.")
    return place


def _folder_of_sklearn() -> Path:
    folder = "name a folder that has digits.csv.gz with --data"
    check_installed("the digits", "sklearn", install="scikit-learn", instead=f"or {folder}")
    return folder_of("sklearn") / "datasets" / "data"


def _digits_file(path: str | Path | None, data_dir: str | Path | None) -> Path:
    place = named_place("digits", path, data_dir) or _folder_of_sklearn()
    for name in ("digits.csv.gz", "digits.csv"):
        if (place / name).is_file():
            return place / name
    raise InputError(f"'{place / 'digits.csv.gz'}' does not exist; it holds the pictures.")
