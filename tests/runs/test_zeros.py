"""Packed checkpoints: to the bit, smaller, readable like any other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsernn.runs.bitpack import joined, pays, pieces
from sparsernn.runs.checkpoint import load_checkpoint, save_checkpoint

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool)


@given(kind=st.sampled_from(TYPES), shape=st.lists(st.integers(1, 7), max_size=3), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_pieces_are_put_together_to_the_bit(kind, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    tensor = (torch.randn(shape, generator=generator) * 3).round().to(kind)
    again = joined(pieces(tensor), list(tensor.shape))
    assert again.dtype == tensor.dtype
    assert again.shape == tensor.shape
    assert torch.equal(again, tensor)


def test_negative_zeros_and_what_is_no_number_are_kept():
    tensor = torch.tensor([0.0, -0.0, float("nan"), float("-inf"), 1e-45])
    again = joined(pieces(tensor), [5])
    assert again.numpy().tobytes() == tensor.numpy().tobytes()


def test_only_what_gets_smaller_is_taken_apart():
    dense, sparse = torch.ones(100), torch.eye(20)
    assert (pays(dense), pays(sparse), pays(torch.zeros(8)), pays(torch.tensor(0.0))) == (
        False,
        True,
        False,
        False,
    )


@pytest.mark.parametrize("size", [64, 100, 803])
def test_it_pays_exactly_where_the_pieces_are_smaller_also_where_every_zero_has_a_sign(size):
    """But for a few bytes: two names more in the file are not worth less."""
    for kept in range(size + 1):
        tensor = torch.cat([torch.ones(kept), torch.full((size - kept,), -0.0)])
        saved = tensor.nbytes - sum(piece.nbytes for piece in pieces(tensor).values())
        assert saved > 0 if pays(tensor) else saved <= 4 or kept == size


def test_a_packed_checkpoint_is_smaller_and_loads_like_any_other(tmp_path):
    weight = torch.randn(100, 80) * (torch.rand(100, 80) < 0.1)
    tree = {
        "model": {"w": weight, "b": torch.ones(3)},
        "masks": [weight != 0],
        "state": (weight.t(), None, 2),
    }
    sizes = [save_checkpoint(tmp_path / f"{packed}.safetensors", tree, packed) for packed in (False, True)]
    assert sizes[1] < 0.3 * sizes[0]
    plain, packed = (load_checkpoint(tmp_path / f"{packed}.safetensors") for packed in (False, True))
    assert torch.equal(plain["model"]["w"], packed["model"]["w"])
    assert torch.equal(plain["masks"][0], packed["masks"][0])
    assert torch.equal(plain["state"][0], packed["state"][0])
    assert packed["state"][1:] == (None, 2)


@pytest.mark.parametrize("shape", [(), (0,), (0, 4)])
def test_tensors_without_elements_stay_as_they_are(shape, tmp_path):
    tensor = torch.zeros(shape)
    save_checkpoint(tmp_path / "x.safetensors", {"t": tensor}, packed=True)
    assert load_checkpoint(tmp_path / "x.safetensors")["t"].shape == tensor.shape
