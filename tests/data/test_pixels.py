"""Pictures: files, splits, permutations, and the task that reads them."""

import gzip
import hashlib
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.data.digit_images import (
    digits,
    image_order,
    mnist,
    mnist_10k,
    pixel_order,
    read_idx,
    split_by_hash,
)
from sparsernn.data.download import DATASETS, Remote, status
from sparsernn.tasks import Pixels

SIDE = 2


def write_idx(path, array, packed=False):
    array = np.asarray(array, np.uint8)
    data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def write_digits(folder, count=40):
    generator = np.random.default_rng(0)
    rows = np.concatenate((generator.integers(0, 17, (count, 64)), np.arange(count)[:, None] % 10), 1)
    text = "\n".join(",".join(map(str, row)) for row in rows.tolist()) + "\n"
    (folder / "digits.csv.gz").write_bytes(gzip.compress(text.encode()))
    return rows


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_as_they_were_written(tmp_path, packed):
    array = np.arange(24).reshape(2, 3, 4)
    assert torch.equal(
        read_idx(write_idx(tmp_path / "a", array, packed)), torch.tensor(array, dtype=torch.uint8)
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no IDX file of bytes; it begins with nothing"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x00\x00", "it begins with 00000d01"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abc", "5 bytes should follow its header, but 3 do"),
        (b"\x1f\x8bnothing", "is damaged"),
    ],
)
def test_other_files_are_refused(tmp_path, data, message):
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_idx(tmp_path / "bad")


def test_the_published_permutations():
    assert pixel_order(784)[:10].tolist() == [529, 511, 328, 133, 532, 378, 156, 305, 143, 582]
    order = image_order(784, 60_000)
    assert order[:6].tolist() == [8550, 21862, 695, 39481, 32467, 48691]
    assert order[50_000:50_004].tolist() == [47579, 56372, 8313, 14595]


def write_mnist(folder, train=60_000, test=20):
    generator = np.random.default_rng(0)
    for kind, count in (("train", train), ("t10k", test)):
        write_idx(folder / f"{kind}-images-idx3-ubyte", generator.integers(0, 256, (count, SIDE, SIDE)))
        write_idx(folder / f"{kind}-labels-idx1-ubyte.gz", np.arange(count) % 10, packed=True)


def test_mnist_is_split_in_the_published_order(tmp_path):
    (tmp_path / "mnist").mkdir()
    write_mnist(tmp_path / "mnist")
    images = mnist(data_dir=tmp_path)
    assert {split: tuple(pixels.shape) for split, pixels in images.pixels.items()} == {
        "train": (50_000, 4),
        "valid": (10_000, 4),
        "test": (20, 4),
    }
    order = image_order(4, 60_000)
    assert torch.equal(images.labels["train"], order[:50_000] % 10)
    assert torch.equal(images.labels["valid"], order[50_000:] % 10)
    raw = read_idx(tmp_path / "mnist" / "train-images-idx3-ubyte").flatten(1)
    assert torch.equal(images.pixels["valid"][0], raw[order[50_000]])


def test_the_test_images_alone_are_split_and_say_so(tmp_path):
    write_mnist(tmp_path, train=10)
    images = mnist_10k(tmp_path)
    assert [len(images.labels[split]) for split in ("train", "valid", "test")] == [16, 2, 2]
    assert "not comparable" in images.info["note"]
    with pytest.raises(InputError, match="10 training images; MNIST has 60,000"):
        mnist(tmp_path)


def test_missing_files_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("SPARSERNN_DATA", raising=False)
    monkeypatch.setenv("SPARSERNN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="t10k-images-idx3-ubyte' does not exist"):
        mnist_10k(tmp_path)
    with pytest.raises(
        InputError, match="the mnist files are needed; get them with 'sparsernn data get mnist'"
    ):
        mnist()
    with pytest.raises(InputError, match=r"digits\.csv\.gz' does not exist"):
        digits(tmp_path)


def test_what_was_downloaded_is_found(tmp_path, monkeypatch):
    monkeypatch.delenv("SPARSERNN_DATA", raising=False)
    monkeypatch.setenv("SPARSERNN_CACHE", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    write_mnist(tmp_path / "mnist", train=10)
    assert mnist_10k().info["source"] == str(tmp_path / "mnist")


def test_packed_files_are_known_by_what_they_hold(tmp_path, monkeypatch):
    """Whoever packed them, and however."""
    remote = Remote("a.gz", f"md5:{hashlib.md5(b'pixels').hexdigest()}", ())
    monkeypatch.setitem(DATASETS, "mnist", (remote,))
    assert status("mnist", tmp_path) == {"a.gz": "missing"}
    for level in (1, 9):
        (tmp_path / "a.gz").write_bytes(gzip.compress(b"pixels", level))
        assert status("mnist", tmp_path) == {"a.gz": "standard"}
    for damaged in (gzip.compress(b"pixel"), gzip.compress(b"pixels")[:-9], b"\x1f\x8bpixels"):
        (tmp_path / "a.gz").write_bytes(damaged)
        assert status("mnist", tmp_path) == {"a.gz": "different"}


def test_labels_that_fit_no_images_are_refused(tmp_path):
    write_mnist(tmp_path, train=10)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.arange(19))
    with pytest.raises(InputError, match="one digit per image is needed"):
        mnist_10k(tmp_path)


def test_digits_are_read_from_the_table_and_found_by_the_environment(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    rows = write_digits(tmp_path / "digits")
    monkeypatch.setenv("SPARSERNN_DATA", str(tmp_path))
    images = digits()
    got = torch.cat(
        [torch.cat((images.pixels[s].long(), images.labels[s][:, None]), 1) for s in images.pixels]
    )
    assert sorted(got.tolist()) == sorted(rows.tolist())
    assert {split: len(labels) for split, labels in images.labels.items()} == {
        "train": 32,
        "valid": 4,
        "test": 4,
    }


@pytest.mark.parametrize("text", ["1,2\n", "a,b\n", ",".join(["17"] * 65)])
def test_a_table_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "digits.csv").write_text(text)
    with pytest.raises(InputError, match=r"is no table of numbers|is not the table of digits"):
        digits(tmp_path)


def test_the_split_depends_on_the_pictures_and_not_on_their_order():
    images, labels = torch.randint(0, 256, (50, 9), dtype=torch.uint8), torch.arange(50)
    turned = torch.randperm(50)
    one, other = split_by_hash(images, labels), split_by_hash(images[turned], labels[turned])
    assert all(torch.equal(one[split][1], other[split][1]) for split in one)
    assert sorted(torch.cat([part[1] for part in one.values()]).tolist()) == list(range(50))


# --- the task


def make_task(tmp_path, **settings):
    if not (tmp_path / "digits.csv.gz").exists():
        write_digits(tmp_path)
    return Pixels(data_dir=tmp_path, batch_size=12, **settings)


def test_a_batch_is_a_sequence_of_pixels_in_reading_order(tmp_path):
    plain, permuted = make_task(tmp_path, shuffle=False), make_task(tmp_path, shuffle=False, permuted=True)
    first, other = next(plain.batches(0, 0)), next(permuted.batches(0, 0))
    assert first.inputs.shape == (64, 12, 1)
    expected = plain.images.pixels["train"][:12].t().float().unsqueeze(-1) / 16
    assert torch.equal(first.inputs, expected)
    assert torch.equal(other.inputs, expected[pixel_order(64)])
    assert torch.equal(first.targets, plain.images.labels["train"][:12])


def test_an_epoch_reads_every_picture_once_in_an_order_of_its_own(tmp_path):
    task = make_task(tmp_path)
    epoch = list(task.batches(1, 0))
    assert [len(batch.targets) for batch in epoch] == [12, 12, 8]
    assert task.steps_per_epoch() == 3
    rows = torch.cat([batch.inputs.squeeze(-1).t() for batch in epoch])
    assert sorted((rows * 16).long().tolist()) == sorted(task.images.pixels["train"].tolist())
    assert torch.equal(next(task.batches(1, 0, start=1)).inputs, epoch[1].inputs)
    assert not torch.equal(next(task.batches(1, 1)).inputs, epoch[0].inputs)


class Lookup(torch.nn.Module):
    """Knows the answer to every picture of one split."""

    def __init__(self, task, split):
        super().__init__()
        pixels = task.images.pixels[split].float() / 16
        self.known = {
            tuple(row.tolist()): label for row, label in zip(pixels, task.images.labels[split], strict=True)
        }

    def forward(self, x, state=None):
        rows = [tuple(row.tolist()) for row in x.squeeze(-1).t()]
        hits = [self.known.get(row, torch.tensor(0)) for row in rows]
        return SimpleNamespace(raw=100 * torch.nn.functional.one_hot(torch.stack(hits), 10)[None].float())

    def read_out(self, h):
        return h


def test_accuracy_is_the_share_of_all_pictures_of_a_split(tmp_path):
    task = make_task(tmp_path)
    model = Lookup(task, "valid")
    for size in (None, 3):
        right, wrong = (task.evaluate(model, split, size) for split in ("valid", "train"))
        assert (right["accuracy"], right["loss"]) == (1, 0)
        zeros = (task.images.labels["train"] == 0).double().mean().item()
        assert wrong["accuracy"] == pytest.approx(zeros)
        assert task.criterion(right) < task.criterion(wrong)


def test_impossible_settings_are_one_sentence(tmp_path):
    write_digits(tmp_path)
    with pytest.raises(InputError, match=r"images 'minst' is unknown.*Did you mean 'mnist'"):
        Pixels(images="minst", data_dir=tmp_path)
    with pytest.raises(InputError, match="eval_batch_size is 0"):
        Pixels(eval_batch_size=0, data_dir=tmp_path)
    with pytest.raises(InputError, match="the split 'dev' is unknown"):
        Pixels(data_dir=tmp_path).evaluate(Lookup(Pixels(data_dir=tmp_path), "test"), "dev")
