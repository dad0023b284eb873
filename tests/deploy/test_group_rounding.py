"""Weights in 4 bits: levels, factors, two to a byte; the same numbers in packed files, graphs and calibration."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_calibration import V, with_outliers

from sparsernn.core.errors import InputError
from sparsernn.deploy import pack, read_packed, runtime, unpack
from sparsernn.deploy.calibration import calibrate, round_matrices
from sparsernn.kernels.group_rounding import GROUP, from_int4, from_nibbles, groups_of, to_int4, to_nibbles


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 200), st.integers(0, 99))
def test_a_weight_is_off_by_half_a_step_and_rounding_twice_is_rounding_once(rows, columns, seed):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    values, scale = to_int4(weight)
    assert scale.shape == (rows, groups_of(columns))
    assert int(values.min()) >= -8
    assert int(values.max()) <= 7
    restored = from_int4(values, scale)
    step = scale.float().abs().repeat_interleave(GROUP, 1)[:, :columns]
    # the level 8 is missing on one side: what lies there is off by a step at most
    off = (restored - weight).abs()
    assert (off <= step * torch.where(values == 7, 1.01, 0.501)).all()
    again, same = to_int4(restored)
    assert torch.equal(again, values)
    assert torch.equal(same, scale)


def test_each_group_has_its_largest_weight_on_a_level():
    weight = torch.zeros(2, 130)
    weight[0, 3], weight[0, 70], weight[0, 129] = 1.0, -64.0, 0.5
    values, scale = to_int4(weight)
    assert scale[0].tolist() == [-0.125, 8.0, -0.0625]
    assert not scale[1].any()
    assert torch.equal(from_int4(values, scale), weight)
    assert not torch.signbit(from_int4(values, scale)[1]).any()


@given(st.lists(st.integers(-8, 7), max_size=40))
def test_two_in_a_byte(values):
    packed = to_nibbles(torch.tensor(values, dtype=torch.int8))
    assert len(packed) == (len(values) + 1) // 2
    assert from_nibbles(packed, len(values)).tolist() == values


@pytest.mark.parametrize("shape", [(40, 30), (7, 3, 50), (5, 130)], ids=str)
def test_packed_files_hold_the_rounded_weights(tmp_path, shape):
    mask = torch.rand(shape) < 0.3
    weight = torch.randn(shape) * mask
    for kind in (torch.float32, torch.bfloat16):
        pack({"w": weight.to(kind)}, {"w": mask}, tmp_path / "m", values="int4")
        found = read_packed(tmp_path / "m")
        wanted = from_int4(*to_int4(weight.to(kind).float().view(shape[0], -1))).view(shape).to(kind)
        assert found.values == "int4"
        assert found.state["w"].dtype == kind
        assert torch.equal(found.state["w"], wanted)
        assert torch.equal(found.masks["w"], mask)


def test_packed_files_are_half_of_8_bits(tmp_path):
    state, masks = {"w": torch.randn(500, 640)}, {"w": torch.ones(500, 640, dtype=torch.bool)}
    size = {kind: pack(state, masks, tmp_path / kind, values=kind) for kind in ("int8", "int4")}
    numbers = 500 * 640
    assert size["int8"] - size["int4"] == pytest.approx(numbers / 2 + 4 * 500 - 2 * 500 * 10, abs=64)


@pytest.mark.parametrize("value", [1e6, float("inf"), float("nan")])
def test_what_no_factor_can_hold_is_refused(tmp_path, value):
    with pytest.raises(InputError, match="too large for 4 bits"):
        pack({"w": torch.full((2, 2), value)}, {"w": torch.ones(2, 2) > 0}, tmp_path / "m", values="int4")
    assert not (tmp_path / "m").exists()


def test_calibration_cuts_groups_and_lets_the_model_err_less(tmp_path):
    model = with_outliers("gru")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    done = calibrate(model, torch.randint(V, (20, 4)), values="int4")
    assert done.cut > 0
    assert all(after <= first for first, after in done.errors.values())
    assert sum(after for _, after in done.errors.values()) < sum(first for first, _ in done.errors.values())
    assert all((p.abs() <= before[name].abs() + 1e-7).all() for name, p in model.named_parameters())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pack(
        state,
        {n: torch.ones_like(t) > 0 for n, t in state.items() if t.ndim == 2},
        tmp_path / "m",
        values="int4",
    )
    round_matrices(model, "int4")
    ready = runtime(model, products="dense", threads=1)
    for name, tensor in unpack(tmp_path / "m").items():
        assert torch.equal(tensor, model.state_dict()[name])
        if name in ready.held:
            assert torch.equal(ready.held[name].restored(), tensor)


def test_other_values_are_refused():
    with pytest.raises(InputError, match="int2"):
        calibrate(with_outliers(), torch.randint(V, (4, 2)), values="int2")
