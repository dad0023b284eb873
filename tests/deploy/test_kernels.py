"""The compiled kernels and their twins give the same numbers."""

import subprocess
import sys

import pytest
import torch

from sparsernn import kernels
from sparsernn.core.errors import InputError
from sparsernn.kernels import FORMATS, build, library


@pytest.fixture(params=["twin", "compiled", *build.VARIANTS])
def way(request, monkeypatch):
    """Runs a test on the twins, on the library chosen by default, and on every one this machine can run."""
    if request.param == "twin":
        monkeypatch.setenv("SPARSERNN_NO_KERNELS", "1")
        return "twin"
    monkeypatch.delenv("SPARSERNN_NO_KERNELS", raising=False)
    monkeypatch.setenv("SPARSERNN_KERNELS", "" if request.param == "compiled" else request.param)
    if not kernels.available():
        pytest.skip(kernels.describe())
    return request.param


def sparse_weight(rows, columns, density, blocks=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    if not blocks:
        return weight * (torch.rand(rows, columns, generator=generator) < density)
    kept = torch.rand((rows + 15) // 16, columns, generator=generator) < density
    return weight * kept.repeat_interleave(16, 0)[:rows]


@pytest.mark.parametrize("name", list(FORMATS))
def test_products_match_the_matrix(way, name):
    for rows, columns in ((1, 1), (16, 7), (37, 65), (130, 203), (64, 5000)):
        held = FORMATS[name](sparse_weight(rows, columns, 0.3))
        for batch in (1, 3, 8, 13, 16):
            check_product(held, columns, batch)


def check_product(held, columns, batch):
    x = torch.randn(columns, batch, generator=torch.Generator().manual_seed(1))
    wanted = held.restored().double() @ x.double()
    size = held.restored().double().abs()
    bound = 1e-5 * (size @ x.double().abs() + 1e-6)
    if (
        not held.exact
    ):  # products in whole numbers round x to 15 bits, half a step of the largest |x| per term
        bound += size.sum(1, keepdim=True) * x.abs().amax(0) / 65534
    assert ((held.multiply(x, threads=2 if batch in (1, 13) else 1) - wanted).abs() <= bound).all()


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].exact])
@pytest.mark.parametrize("blocks", [False, True])
def test_exact_formats_restore_the_weight(name, blocks):
    weight = sparse_weight(50, 33, 0.2, blocks)
    assert torch.equal(FORMATS[name](weight).restored(), weight)


@pytest.mark.parametrize("name", [name for name in FORMATS if not FORMATS[name].exact])
def test_int8_formats_are_within_half_a_step(name):
    weight = sparse_weight(50, 33, 0.5)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((FORMATS[name](weight).restored() - weight).abs() <= 0.5001 * step).all()


def test_a_mask_keeps_zero_weights_and_drops_the_others():
    weight, mask = torch.tensor([[0.0, 2.0, 3.0]]), torch.tensor([[True, True, False]])
    held = FORMATS["csr"](weight, mask)
    assert held.values.tolist() == [0.0, 2.0]
    assert held.bytes == 2 * 4 + 2 * 4 + 2 * 2
    assert FORMATS["dense"](weight, mask).restored().tolist() == [[0.0, 2.0, 0.0]]


def test_empty_rows_and_an_all_zero_matrix(way):
    for name in FORMATS:
        assert torch.equal(FORMATS[name](torch.zeros(20, 9)).multiply(torch.ones(9, 1)), torch.zeros(20, 1))


def test_largest_int8_sums_do_not_overflow(way):
    """All weights and inputs at their maximum: the integer sums are as large as they can get."""
    for columns in (4096, 20000):
        for name in ("dense_int8", "csr_int8", "block16_int8"):
            held = FORMATS[name](torch.ones(16, columns))
            for batch in (1, 4, 8, 16):
                y = held.multiply(torch.ones(columns, batch))
                torch.testing.assert_close(y, torch.full_like(y, columns), rtol=1e-4, atol=0)


@pytest.mark.parametrize("batch", [1, 3, 8, 16])
@pytest.mark.parametrize("name", list(FORMATS))
def test_what_is_no_number_is_passed_on_to_its_own_text_alone(way, name, batch):
    """A row that reads it says so; a product that rounds its input may say so in every row."""
    weight = sparse_weight(40, 70, 0.5, blocks=True)
    held, x = FORMATS[name](weight), torch.randn(70, batch)
    clean = held.multiply(x, 1)
    for value in (float("nan"), float("inf"), float("-inf")):
        x[5, batch - 1] = value
        y = held.multiply(x, 1)
        assert not y[weight[:, 5] != 0, batch - 1].isfinite().any()
        torch.testing.assert_close(y[:, : batch - 1], clean[:, : batch - 1], rtol=1e-6, atol=1e-6)


@pytest.fixture
def with_and_without_vnni():
    """A product by the processor's own instructions for whole numbers, and by those that every AVX-512 has."""
    found = library.library()
    if found is None or not found.take_vnni(True):
        pytest.skip("no AVX-512 VNNI here")

    def both(held, x):
        return [held.multiply(x, 1) for wanted in (True, False) if found.take_vnni(wanted) == wanted]

    yield both
    found.take_vnni(True)


@pytest.mark.parametrize(
    ("name", "batch"), [("dense_int8", 1), *(("block16_int8", batch) for batch in (1, 4, 8, 16))]
)
@pytest.mark.parametrize("shape", [(1, 1), (37, 65), (33, 192), (18, 3000), (16, 65535)], ids=str)
def test_vnni_gives_the_same_bits(with_and_without_vnni, name, batch, shape):
    held = FORMATS[name](sparse_weight(*shape, 0.4, blocks=True))
    for factor in (1.0, 1e-30, 0.0):
        first, second = with_and_without_vnni(held, factor * torch.randn(shape[1], batch))
        assert torch.equal(first, second)
    first, second = with_and_without_vnni(
        FORMATS[name](torch.full(shape, -1.0)), torch.full((shape[1], batch), -3.0)
    )
    assert torch.equal(first, second)
    torch.testing.assert_close(first, torch.full_like(first, 3.0 * shape[1]), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("name", "batch"), [("dense_int8", 1), *(("block16_int8", batch) for batch in (1, 3, 8, 16))]
)
def test_every_width_of_vectors_sums_the_same_whole_numbers(name, batch, monkeypatch):
    """Scales are powers of two and no bias is added, so that only the sums could differ."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randint(-127, 128, (40, 1100), generator=generator).float()
    weight[:, 0] = 127
    x = torch.randint(-32767, 32768, (1100, batch), generator=generator).float()
    x[0] = 32767
    held, found = FORMATS[name](weight), []
    for variant in build.VARIANTS:
        monkeypatch.delenv("SPARSERNN_NO_KERNELS", raising=False)
        monkeypatch.setenv("SPARSERNN_KERNELS", variant)
        if kernels.available():
            found.append(held.multiply(x, 1))
            each = [held.multiply(column.unsqueeze(1).contiguous(), 1) for column in x.unbind(1)]
            assert torch.equal(torch.cat(each, 1), found[-1]), "one text, or several at once"
    if not found:
        pytest.skip(kernels.describe())
    wanted = held.restored().double() @ x.double()
    for y in found:
        assert torch.equal(y, found[0])
        torch.testing.assert_close(y.double(), wanted, rtol=1e-6, atol=64)


def test_8_bit_blocks_stand_in_pairs_and_are_filled_up_to_fours():
    """Three blocks of the first rows, of which one is the first column's, where a block to fill up is put too."""
    weight = torch.zeros(33, 6)
    weight[:16, [0, 2, 5]] = torch.arange(1, 49).view(16, 3).float()
    weight[32, 4] = 7
    held = FORMATS["block16_int8"](weight)
    assert held.start.tolist() == [0, 4, 4, 8]
    assert held.index.tolist() == [0, 2, 5, 0, 4, 0, 0, 0]
    assert held.values.shape == (4, 16, 2)
    first, second = (weight[3, column] / weight[3].max() * 127 for column in (0, 2))
    assert held.values[0, 3].tolist() == [round(float(first)), round(float(second))]
    assert not held.values[1, :, 1].any()
    assert not held.values[3].any()
    torch.testing.assert_close(held.restored(), weight, rtol=0, atol=0.2)


BEHIND_A_GUARD = """
import ctypes, mmap
import torch
from sparsernn.kernels import FORMATS, library
from sparsernn.kernels.weight_formats import CMatrix, scratch_for

libc, kept = ctypes.CDLL(None, use_errno=True), []


def guarded(tensor):
    # a copy that ends where a page begins that may not be touched
    size = tensor.numel() * tensor.element_size()
    room = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
    pages = mmap.mmap(-1, room + mmap.PAGESIZE)
    kept.append(pages)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    assert libc.mprotect(ctypes.c_void_p(begin + room), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    ctypes.memmove(begin + room - size, tensor.contiguous().data_ptr(), size)
    return begin + room - size


torch.manual_seed(0)
found = library.library()
for rows, columns in ((1, 1), (16, 64), (37, 65), (130, 203), (33, 1100)):
    kept_blocks = torch.rand((rows + 15) // 16, columns) < 0.4
    held = FORMATS["block16_int8"](torch.randn(rows, columns) * kept_blocks.repeat_interleave(16, 0)[:rows])
    tensors = (held.start, held.index, held.values, held.scale)
    matrix = CMatrix(held.kind, rows, columns, 0, *map(guarded, tensors))
    for batch in (1, 4, 8, 16):
        x, y = guarded(torch.randn(columns, batch)), guarded(torch.zeros(rows, batch))
        scratch = guarded(torch.zeros(batch * scratch_for(columns), dtype=torch.int16))
        for wanted in (True, False):
            found.take_vnni(wanted)
            found.multiply(ctypes.addressof(matrix), x, y, batch, scratch, 1)
print("nothing beyond")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are guarded by a call of Linux")
@pytest.mark.parametrize("variant", list(build.VARIANTS))
def test_products_of_8_bit_blocks_touch_nothing_beyond_what_they_are_given(variant, monkeypatch):
    monkeypatch.delenv("SPARSERNN_NO_KERNELS", raising=False)
    monkeypatch.setenv("SPARSERNN_KERNELS", variant)
    if not kernels.available():
        pytest.skip(kernels.describe())
    done = subprocess.run([sys.executable, "-c", BEHIND_A_GUARD], capture_output=True, text=True, timeout=300)
    assert done.stdout == "nothing beyond\n", f"status {done.returncode}\n{done.stderr}"


def test_too_many_columns_or_too_large_a_batch():
    with pytest.raises(InputError, match="65536"):
        FORMATS["csr"](torch.zeros(1, 65536))
    held = FORMATS["csr"](torch.zeros(2, 2))
    with pytest.raises(InputError, match="batch is 17"):
        held.multiply(torch.zeros(2, 17))


def test_environment_forces_the_twins(monkeypatch):
    monkeypatch.setenv("SPARSERNN_NO_KERNELS", "1")
    assert not kernels.available()
    assert "SPARSERNN_NO_KERNELS" in kernels.describe()
    monkeypatch.delenv("SPARSERNN_NO_KERNELS")
    monkeypatch.setenv("SPARSERNN_KERNELS", "mmx")
    with pytest.raises(InputError, match="mmx"):
        kernels.available()


def test_loader_and_builder_mean_the_same_files():
    assert list(library.NEEDS) == list(build.VARIANTS)
    assert all(library._path(variant).name == build.library_name(variant) for variant in build.VARIANTS)


def test_no_compiler_is_no_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(build, "find_compiler", lambda: None)
    assert build.build(tmp_path) == []
    assert "no C compiler" in capsys.readouterr().out


def test_a_compiler_that_fails_is_no_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(build, "find_compiler", lambda: ["false"])
    assert build.build(tmp_path) == []
    assert "not compiled" in capsys.readouterr().out
