"""Packed files: exact, smaller, safe to read."""

import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sparsernn.core.errors import InputError
from sparsernn.deploy import pack, read_packed, sizes, unpack


def sample(density=0.3, shape=(40, 30), seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < density
    weight = torch.randn(shape, generator=generator) * mask
    return {"w": weight, "b": torch.randn(shape[0], generator=generator)}, {"w": mask}


def same_bits(a, b):
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


@settings(deadline=None, max_examples=25)
@given(st.floats(0, 1), st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_round_trip_keeps_every_bit(tmp_path_factory, density, rows, columns, seed):
    path = tmp_path_factory.mktemp("packed") / "m.safetensors"
    state, masks = sample(density, (rows, columns), seed)
    state["w"] += 0.0  # products of negative numbers and absent weights are -0.0; a trained model holds +0.0
    pack(state, masks, path)
    found = read_packed(path)
    assert list(found.state) == list(state)
    assert all(same_bits(found.state[name], state[name]) for name in state)
    assert torch.equal(found.masks["w"], masks["w"])


def test_kept_zeros_and_odd_values_survive(tmp_path):
    weight = torch.tensor([[0.0, -0.0, float("inf")], [1e-45, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    pack({"w": weight}, {"w": mask}, tmp_path / "m")
    assert same_bits(unpack(tmp_path / "m")["w"], weight)
    assert torch.equal(read_packed(tmp_path / "m").masks["w"], mask)


@pytest.mark.parametrize("density", [0.05, 0.33, 0.5, 0.96])
def test_smaller_than_dense_below_31_32(tmp_path, density):
    state, masks = sample(density, (500, 400))
    save_file(state, tmp_path / "dense")
    size = pack(state, masks, tmp_path / "packed")
    assert size == (tmp_path / "packed").stat().st_size
    assert size < (tmp_path / "dense").stat().st_size
    wanted = sizes(state, masks)
    assert wanted["packed_bytes"] < size < wanted["packed_bytes"] + 1500  # the header
    assert wanted["packed_bytes"] == 500 * 400 // 8 + 4 * int(masks["w"].sum()) + 4 * 500


def test_int8_values(tmp_path):
    state, masks = sample()
    pack(state, masks, tmp_path / "m", values="int8")
    found = read_packed(tmp_path / "m")
    step = state["w"].abs().amax(1, keepdim=True) / 127
    assert ((found.state["w"] - state["w"]).abs() <= 0.5001 * step).all()
    assert same_bits(found.state["b"], state["b"])
    assert found.values == "int8"
    assert (
        pack(found.state, found.masks, tmp_path / "again", values="int8") == (tmp_path / "m").stat().st_size
    )
    torch.testing.assert_close(unpack(tmp_path / "again")["w"], found.state["w"])


def test_metadata_and_tied_weights(tmp_path):
    state, masks = sample()
    tied = {"embedding.weight": state["w"], "head.weight": state["w"], "head.bias": state["b"]}
    masks = {"embedding.weight": masks["w"]}
    size = pack(tied, masks, tmp_path / "m", recipe={"name": "a", "epochs": 3}, vocabulary="ab12")
    found = read_packed(tmp_path / "m")
    assert found.recipe == {"name": "a", "epochs": 3}
    assert found.vocabulary == "ab12"
    assert found.state["head.weight"] is found.state["embedding.weight"]
    assert size < 40 * 30 * 4


def test_bad_input_is_named(tmp_path):
    state, masks = sample()
    path = tmp_path / "m"
    with pytest.raises(InputError, match="mask for 'x'"):
        pack(state, {"x": masks["w"]}, path)
    with pytest.raises(InputError, match=r"shape \(40,\)"):
        pack(state, {"w": masks["w"][:, 0]}, path)
    with pytest.raises(InputError, match="not 0 where its mask"):
        pack({"w": torch.ones(40, 30)}, masks, path)
    with pytest.raises(InputError, match="float16"):
        pack(state, masks, path, values="float16")
    assert not path.exists()


def test_foreign_and_damaged_files_are_refused(tmp_path):
    state, masks = sample()
    path, bad = tmp_path / "m", tmp_path / "bad"
    pack(state, masks, path)
    whole = path.read_bytes()
    with pytest.raises(InputError, match="not a file"):
        unpack(tmp_path / "missing")
    for content in (b"", b"hello", pickle.dumps(state), whole[:-1], whole[:100], whole + b"x"):
        bad.write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            unpack(bad)
    bad.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(InputError, match="checksum"):
        unpack(bad)
    save_file(state, bad)
    with pytest.raises(InputError, match="another program"):
        unpack(bad)
    save_file(state, bad, {"format": "sparsernn-checkpoint-1"})
    with pytest.raises(InputError, match="sparsernn-checkpoint-1"):
        unpack(bad)


def test_a_table_that_does_not_fit_is_refused(tmp_path):
    from sparsernn.deploy import packed

    for plan in ({"w": {"as": "bits", "shape": [3]}}, {"w": {}}, {"w": {"as": "alias", "of": "v"}}):
        about = json.dumps({"tensors": plan, "recipe": {}, "vocabulary": "", "values": "float32"})
        packed._write(tmp_path / "m", {"b": torch.zeros(2)}, about)
        with pytest.raises(InputError, match="table of tensors"):
            unpack(tmp_path / "m")
