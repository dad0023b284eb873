"""Checkpoints: round trip, atomicity, refusal of what is not one."""

import math
import os

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.runs import checkpoint
from sparsernn.runs.checkpoint import load_checkpoint, save_checkpoint

TREE = {
    "weights": {"a": torch.arange(6.0).view(2, 3), "mask": torch.tensor([True, False])},
    "by_number": {0: {"step": torch.tensor(1.5)}, 7: None},
    "pairs": (1, [2.5, "text", None, True]),
    "best": math.inf,
    "exact": 0.1 + 0.2,
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b and type(a) is type(b)


def test_round_trip(tmp_path):
    save_checkpoint(tmp_path / "c", TREE)
    assert same(load_checkpoint(tmp_path / "c"), TREE)


def test_a_tensor_twice_in_the_tree_and_a_view_are_stored(tmp_path):
    w = torch.arange(6.0).view(2, 3)
    save_checkpoint(tmp_path / "c", {"a": w, "tied": w, "column": w[:, 1]})
    loaded = load_checkpoint(tmp_path / "c")
    assert torch.equal(loaded["tied"], w)
    assert torch.equal(loaded["column"], w[:, 1])


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "c"
    save_checkpoint(path, TREE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="truncated, damaged or no safetensors file"):
        load_checkpoint(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "c"
    save_checkpoint(path, TREE)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="do not match their checksum"):
        load_checkpoint(path)


def test_a_foreign_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "c")
    with pytest.raises(InputError, match="not a checkpoint of sparsernn"):
        load_checkpoint(tmp_path / "c")
    torch.save({"w": torch.ones(2)}, tmp_path / "pickle")
    with pytest.raises(InputError, match="no safetensors file"):
        load_checkpoint(tmp_path / "pickle")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "c"
    save_checkpoint(path, {"step": 1})

    def full(*args):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"step": 2})
    monkeypatch.undo()
    assert load_checkpoint(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
