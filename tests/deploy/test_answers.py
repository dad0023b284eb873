"""What the compiled runtime says goes out text after text, whichever format and kind of instruction computes it."""

import pytest
import torch
from test_kernels import sparse_weight, way  # noqa: F401 - a fixture

from sparsernn.deploy import compiled_runtime
from sparsernn.deploy.sequence_runtime import SequenceRuntime
from sparsernn.deploy.step_list import Step, StepList
from sparsernn.kernels import FORMATS

COLUMNS = 40


def one_product(name, rows, threads=1, twice=False):
    """A model of a single product, or of one that a second step follows; its numbers are whole, so that no sum is
    rounded, the scales of 8 bits among them powers of two."""
    steps, generator = StepList(), torch.Generator().manual_seed(rows)
    weight = sparse_weight(rows, COLUMNS, 0.5, blocks=True).sign() * torch.arange(1, COLUMNS + 1)
    weight[:, 0] = 127
    bias = torch.randint(-50, 50, (rows,), generator=generator).float()
    held = FORMATS[name](weight)
    steps.inputs, said = steps.moving_room(COLUMNS), steps.room(rows)
    steps.add(Step("affine", said, steps.inputs, vector=bias, first=held))
    if twice:
        steps.add(Step("relu", said, said))
    return SequenceRuntime(steps, said, {"output.weight": held}, threads, 1), weight, bias


def whole_inputs(time, batch):
    generator = torch.Generator().manual_seed(batch)
    x = torch.randint(-32767, 32768, (time, batch, COLUMNS), generator=generator).float()
    x[..., 1] = 32767
    return x


@pytest.mark.parametrize("twice", [False, True], ids=["the product", "a step after it"])
@pytest.mark.parametrize("rows", [1, 15, 16, 50, 600])
@pytest.mark.parametrize("name", list(FORMATS))
def test_every_text_has_its_own_answer(way, name, rows, twice):  # noqa: F811
    ready, weight, bias = one_product(name, rows, twice=twice)
    for batch in (1, 2, 4, 5, 8, 11, 16):
        x = whole_inputs(3, batch)
        wanted = (x.double() @ weight.t().double() + bias.double()).clamp(min=0 if twice else -torch.inf)
        stream = ready.stream(batch)
        found = torch.cat([stream.step(x[0]).unsqueeze(0), stream.read(x[1:])])
        assert found.is_contiguous()
        torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=4)


@pytest.mark.parametrize("twice", [False, True], ids=["the product", "a step after it"])
@pytest.mark.parametrize("name", ["csr", "block16_int8"])
def test_threads_share_the_rows_of_an_answer(name, twice):
    x = whole_inputs(2, 5)
    for rows in (5, 50, 600):
        one, two = (one_product(name, rows, threads, twice)[0].read(x) for threads in (1, 2))
        assert torch.equal(one, two)


def test_an_answer_is_of_the_time_it_was_given_at(way, monkeypatch):  # noqa: F811
    """What is said is not written over by the next step or window, however short the windows."""
    ready, _, _ = one_product("block16_int8", 50)
    x = whole_inputs(6, 3)
    stream = ready.stream(3)
    each = torch.stack([stream.step(row) for row in x])
    monkeypatch.setattr(compiled_runtime, "LARGEST_WINDOW", 1)
    assert torch.equal(ready.stream(3).read(x), each)
    monkeypatch.setattr(compiled_runtime, "LARGEST_WINDOW", 2 * 4 * (COLUMNS + 50))
    assert torch.equal(ready.stream(3).read(x), each)


def test_the_runtime_keeps_its_own_type_of_numbers():
    ready, _, _ = one_product("block16_int8", 50)
    x = whole_inputs(3, 3)
    wanted = ready.read(x)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(ready.read(x), wanted)
    finally:
        torch.set_default_dtype(torch.float32)
