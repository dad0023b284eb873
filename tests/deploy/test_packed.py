"""Packed files: exact, smaller, safe to read."""

import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.deploy import macs_per_token, pack, read_packed, sizes, unpack


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


def test_equal_matrices_keep_a_mask_each(tmp_path):
    """Both are 0 where either mask says so; only the masks tell them apart."""
    weight = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    masks = {"a": torch.eye(3, dtype=torch.bool), "b": torch.ones(3, 3, dtype=torch.bool), "c": None}
    masks["d"] = masks["b"].clone()
    state = {name: weight.clone() for name in masks}
    pack(state, {name: mask for name, mask in masks.items() if mask is not None}, tmp_path / "m")
    found = read_packed(tmp_path / "m")
    assert {name: int(mask.sum()) for name, mask in found.masks.items()} == {"a": 3, "b": 9, "d": 9}
    assert all(same_bits(found.state[name], weight) for name in masks)
    assert found.state["b"] is found.state["d"]


@pytest.mark.parametrize("masked", [("x", "y"), ("x",), ("y",)])
def test_one_mask_is_enough_for_a_tied_weight(tmp_path, masked):
    state, masks = sample()
    size = pack({"x": state["w"]}, {"x": masks["w"]}, tmp_path / "alone")
    tied = {"x": state["w"], "y": state["w"]}
    assert pack(tied, dict.fromkeys(masked, masks["w"]), tmp_path / "m") < size + 200
    found = read_packed(tmp_path / "m")
    assert set(masked) <= set(found.masks)
    assert all(torch.equal(mask, masks["w"]) for mask in found.masks.values())
    assert found.state["x"] is found.state["y"]


def test_a_transposed_view_and_a_negative_zero_are_other_matrices(tmp_path):
    square = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    state = {"w": square, "t": square.t(), "zero": torch.zeros(2, 2), "below": -torch.zeros(2, 2)}
    pack(state, {}, tmp_path / "m")
    found = unpack(tmp_path / "m")
    assert all(same_bits(found[name], state[name].contiguous()) for name in state)


@pytest.mark.parametrize("values", ["float32", "int8"])
@pytest.mark.parametrize(
    "kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int32, torch.complex64]
)
def test_types_stay_what_they_are(tmp_path, kind, values):
    state, masks = sample()
    state = {name: (10 * t).to(kind) for name, t in state.items()}
    pack(state, masks, tmp_path / "m", values=values)
    found = unpack(tmp_path / "m")
    assert {name: t.dtype for name, t in found.items()} == dict.fromkeys(state, kind)
    if values == "int8" and kind.is_floating_point:
        step = state["w"].double().abs().amax(1, keepdim=True) / 127
        assert (
            (found["w"].double() - state["w"].double()).abs() <= 0.51 * step + state["w"].double().abs() / 256
        ).all()
        assert not torch.equal(found["w"], state["w"])
    else:
        assert torch.equal(found["w"], state["w"])
    assert torch.equal(found["b"], state["b"])


@pytest.mark.parametrize("values", ["float32", "int8"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1, 1), (2, 3, 4)])
def test_tensors_of_any_shape(tmp_path, shape, values):
    state = {"w": torch.full(shape, 0.5), "d": torch.full(shape, 0.25)}
    masks = {"w": torch.ones(shape, dtype=torch.bool)}
    pack(state, masks, tmp_path / "m", values=values)
    found = read_packed(tmp_path / "m")
    assert found.masks["w"].shape == found.state["w"].shape == shape
    torch.testing.assert_close(found.state, state)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_what_8_bits_cannot_hold_is_refused(tmp_path, value):
    weight = torch.tensor([[value, 1.0], [2.0, 3.0]], dtype=torch.float64)
    everywhere = {"w": torch.ones(2, 2, dtype=torch.bool)}
    with pytest.raises(InputError, match="not finite or too large"):
        pack({"w": weight}, everywhere, tmp_path / "m", values="int8")
    assert not (tmp_path / "m").exists()
    pack({"w": weight}, everywhere, tmp_path / "m")
    assert torch.equal(unpack(tmp_path / "m")["w"].nan_to_num(5), weight.nan_to_num(5))


class Remembering(nn.Linear):
    """A layer with extra state, which is whatever it was given."""

    def __init__(self, extra):
        super().__init__(2, 2)
        self.extra = extra

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


def test_extra_state_that_is_a_tensor_is_kept(tmp_path):
    model, other = Remembering(torch.tensor([7, 8])), Remembering(torch.zeros(2, dtype=torch.long))
    pack(model.state_dict(), {}, tmp_path / "m")
    other.load_state_dict(unpack(tmp_path / "m"))
    assert other.extra.tolist() == [7, 8]
    assert torch.equal(other.weight, model.weight)


@pytest.mark.parametrize("extra", [{"steps": 3}, 3, "text", b"bytes", None])
def test_other_extra_state_is_one_sentence(tmp_path, extra):
    state = Remembering(extra).state_dict()
    with pytest.raises(InputError, match=r"'_extra_state' is a .* which a packed file cannot hold") as caught:
        pack(state, {}, tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()
    assert macs_per_token(Remembering(extra)) == macs_per_token(state) == 4
    assert sizes(state, {})["dense_bytes"] == 24


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"w": torch.eye(3).to_sparse()}, "dense tensors"),
        ({"w": torch.zeros(3, device="meta")}, "on meta"),
        ({"w": [1.0]}, "'w' is a list"),
        ({"w": torch.eye(2), "w/bits": torch.zeros(1)}, "'w/bits' stands for"),
        ({"w/bits": torch.zeros(1), "w": torch.eye(2)}, "'w/bits' stands for"),
    ],
)
def test_a_state_that_does_not_go_into_a_file_is_one_sentence(tmp_path, state, said):
    masks = {"w": torch.eye(2, dtype=torch.bool)} if len(state) == 2 else {}
    with pytest.raises(InputError, match=said) as caught:
        pack(state, masks, tmp_path / "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", [{"a": {1, 2}}, {"lr": float("nan")}, {"t": torch.zeros(2)}, {(1, 2): 3}])
def test_a_recipe_that_is_no_plain_data_is_one_sentence(tmp_path, recipe):
    with pytest.raises(InputError, match="recipe is not plain data") as caught:
        pack({"w": torch.eye(2)}, {}, tmp_path / "m", recipe=recipe)
    assert "\n" not in str(caught.value)
