"""Compiled work on strips is what torch gives, and both are what the dense table gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sparsernn import kernels
from sparsernn.kernels import build
from sparsernn.kernels import strip_kernel as compiled_strips
from sparsernn.nn.blocks import strips as functions


@pytest.fixture(params=["twin", *build.VARIANTS])
def way(request, monkeypatch):
    """Runs a test on the twin and on every library this machine can run."""
    monkeypatch.setenv("SPARSERNN_NO_KERNELS", "1" if request.param == "twin" else "0")
    monkeypatch.setenv("SPARSERNN_KERNELS", "" if request.param == "twin" else request.param)
    if request.param != "twin" and not kernels.available():
        pytest.skip(kernels.describe())


def table(widths, heights, seed=0):
    """Strips and the dense table."""
    generator = torch.Generator().manual_seed(seed)
    strips = [
        torch.randn(h, w, generator=generator, requires_grad=True)
        for h, w in zip(heights, widths, strict=True)
    ]
    missing = [functional.pad(s.detach(), (0, 0, heights[0] - len(s), 0)) for s in strips]
    return strips, torch.cat(missing, 1).requires_grad_()


def gradients(dense, strips):
    """Its gradient where the strips lie."""
    return [
        dense.grad[len(dense) - len(s) :, start:stop]
        for s, (start, stop) in zip(strips, functions.borders(strips), strict=True)
    ]


TABLES = [
    ((3,), (9,)),
    ((1, 1, 1), (5, 3, 1)),
    ((20, 9, 40), (300, 300, 37)),
    ((17, 33, 8), (130, 60, 0)),
    ((40,) * 10, (1000, 832, 692, 575, 478, 398, 331, 275, 229, 190)),
]
ROWS = [1, 2, 5, 24, 31, 161, 200]
"""Few at a time, more than stay in the cache together, and so many that the table is rearranged."""


@pytest.mark.parametrize(("widths", "heights"), TABLES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_lookup_and_its_gradient(way, widths, heights, rows):
    strips, dense = table(widths, heights)
    wanted = torch.randint(heights[0], (rows,), generator=torch.Generator().manual_seed(1))
    weight = torch.randn(rows, dense.shape[1], generator=torch.Generator().manual_seed(2))
    vectors = functions.lookup(wanted, strips)
    assert torch.equal(vectors, dense[wanted])
    vectors.backward(weight)
    dense[wanted].backward(weight)
    for strip, expected in zip(strips, gradients(dense, strips), strict=True):
        torch.testing.assert_close(strip.grad, expected)


@pytest.mark.parametrize(("widths", "heights"), TABLES, ids=str)
def test_a_device_and_a_graph_look_up_the_same(widths, heights):
    """Of no strip they ask how many words are in it."""
    strips, dense = table(widths, heights)
    wanted = torch.randint(heights[0], (24,), generator=torch.Generator().manual_seed(1))
    vectors = functions._looked_up(wanted, strips)
    assert torch.equal(vectors, dense[wanted])
    vectors.square().sum().backward()
    dense[wanted].square().sum().backward()
    for strip, exact in zip(strips, gradients(dense, strips), strict=True):
        torch.testing.assert_close(torch.zeros_like(strip) if strip.grad is None else strip.grad, exact)


@pytest.mark.parametrize(("widths", "heights"), TABLES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_scores(way, widths, heights, rows):
    strips, dense = table(widths, heights)
    generator = torch.Generator().manual_seed(1)
    x, bias = (torch.randn(shape, generator=generator) for shape in ((rows, sum(widths)), (heights[0],)))
    expected = torch.addmm(bias, x, dense.t())
    torch.testing.assert_close(functions.scores(x, bias, strips), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(functions.scores(x, bias, strips), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("widths", "heights"), TABLES, ids=str)
@pytest.mark.parametrize("rows", [1, 30, 170])
def test_likelihood_and_its_gradients(way, widths, heights, rows):
    strips, dense = table(widths, heights)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, sum(widths), generator=generator).div_(4).requires_grad_()
    bias = torch.randn(heights[0], generator=generator, requires_grad=True)
    target = torch.randint(heights[0], (rows,), generator=generator)
    weight = torch.randn(rows, generator=generator)
    mine = functions.nll(x, bias, target, strips)
    theirs = functional.cross_entropy(torch.addmm(bias, x, dense.t()), target, reduction="none")
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    for a, b in zip(
        torch.autograd.grad(mine @ weight, [x, bias], retain_graph=True),
        torch.autograd.grad(theirs @ weight, [x, bias], retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    (mine @ weight).backward()
    (theirs @ weight).backward()
    for strip, expected in zip(strips, gradients(dense, strips), strict=True):
        torch.testing.assert_close(strip.grad, expected, rtol=1e-4, atol=1e-4)


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_any_table(data):
    widths = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=6))
    tall = data.draw(st.integers(1, 70))
    rest = data.draw(st.lists(st.integers(0, tall), min_size=len(widths) - 1, max_size=len(widths) - 1))
    strips, dense = table(widths, [tall, *sorted(rest, reverse=True)])
    rows = data.draw(st.sampled_from(ROWS))
    x, bias = torch.randn(rows, sum(widths)), torch.randn(tall)
    with torch.no_grad():
        torch.testing.assert_close(
            functions.scores(x, bias, strips), torch.addmm(bias, x, dense.t()), rtol=1e-4, atol=1e-4
        )
        assert torch.equal(functions.lookup(torch.arange(tall), strips), dense)


def test_bands_hold_the_rows():
    strips, dense = table((2, 3, 1), (9, 5, 5))
    bands = functions.bands(strips)
    assert [tuple(band.shape) for band in bands] == [(4, 2), (0, 5), (5, 6)]
    assert torch.equal(bands[0], dense[:4, :2])
    assert torch.equal(bands[2], dense[4:])


@pytest.mark.parametrize("rows", [5, 200])
def test_numbers_do_not_depend_on_the_threads(way, rows):
    strips, _ = table(*TABLES[-1])
    x, bias, before = torch.randn(rows, 400), torch.randn(1000), torch.get_num_threads()
    wanted, gradient = torch.randint(1000, (rows,)), torch.randn(rows, 400)
    taken = compiled_strips.takes([s.detach() for s in strips], x, bias)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with torch.no_grad():
            made = functions.scores(x, bias, strips)
        results.append([made, *torch.autograd.grad(functions.lookup(wanted, strips), strips, gradient)])
    torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        if taken:
            assert torch.equal(one, two)
        torch.testing.assert_close(one, two)
