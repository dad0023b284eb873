"""The compiled kernels and their twins give the same numbers."""

import pytest
import torch

from sparsernn import kernels
from sparsernn.errors import InputError
from sparsernn.kernels import FORMATS, build, library, mask_, masked_sgd_


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
    # int8 products of one column round x to 15 bits: 3e-5 of the largest |x| per term
    tolerance = 1e-5 if held.exact or batch > 1 else 1e-4
    bound = tolerance * (held.restored().double().abs() @ x.double().abs() + 1e-6)
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
        weight, x = torch.ones(16, columns), torch.ones(columns, 1)
        for name in ("dense_int8", "csr_int8"):
            y = FORMATS[name](weight).multiply(x)
            torch.testing.assert_close(y, torch.full_like(y, columns), rtol=1e-4, atol=0)


def test_too_many_columns_or_too_large_a_batch():
    with pytest.raises(InputError, match="65536"):
        FORMATS["csr"](torch.zeros(1, 65536))
    held = FORMATS["csr"](torch.zeros(2, 2))
    with pytest.raises(InputError, match="batch is 17"):
        held.multiply(torch.zeros(2, 17))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("shape", [(1,), (257, 301)])
def test_masked_sgd_is_the_step_written_out(way, masked, summed, shape):
    generator = torch.Generator().manual_seed(2)
    w, g, total = (torch.randn(shape, generator=generator) for _ in range(3))
    mask = torch.rand(shape, generator=generator) < 0.4 if masked else None
    wanted = w.double() - 0.3 * (0.25 * g.double() + 0.01 * w.double())
    wanted = wanted * mask if masked else wanted
    summed_up = total.double() + wanted
    masked_sgd_(w, g, mask, lr=0.3, weight_decay=0.01, scale=0.25, total=total if summed else None)
    torch.testing.assert_close(w.double(), wanted, rtol=1e-6, atol=1e-6)
    if summed:
        torch.testing.assert_close(total.double(), summed_up, rtol=1e-6, atol=1e-6)
    if masked:
        assert not w[~mask].any()


def test_masked_sgd_on_what_has_no_compiled_pass(way):
    """Other types, strided tensors and parameters take the twin or the kernel, with the same result."""
    w = torch.randn(6, 4)
    half = w.t().double()
    masked_sgd_(half, torch.ones(4, 6, dtype=torch.float64), lr=1.0)
    torch.testing.assert_close(half, w.t().double() - 1)
    strided = w.clone().t()
    masked_sgd_(strided, torch.ones(4, 6), torch.ones(4, 6, dtype=torch.bool), lr=1.0)
    torch.testing.assert_close(strided, w.t() - 1)
    parameter = torch.nn.Parameter(w.clone())
    masked_sgd_(parameter, torch.ones(6, 4), lr=1.0)
    torch.testing.assert_close(parameter.detach(), w - 1)


def test_changes_are_seen_by_autograd(way):
    w = torch.ones(3, requires_grad=True)
    loss = (w * w).sum()
    masked_sgd_(w, torch.ones(3), torch.ones(3, dtype=torch.bool), lr=1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_mask_sets_zeros_even_over_nan(way):
    w = torch.tensor([1.0, float("nan"), 3.0])
    assert mask_(w, torch.tensor([True, False, False])).tolist() == [1.0, 0.0, 0.0]
    large, mask = torch.randn(300, 300), torch.rand(300, 300) < 0.5
    assert torch.equal(mask_(large.clone(), mask), large * mask + 0.0)


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
