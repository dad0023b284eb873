"""Streams and windows: every row once, the published counts, and the statistics of random lengths."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.data.windows import (
    RandomWindows,
    check_rows,
    random_windows,
    streams,
    window_bounds,
    window_of,
)


def covered(bounds):
    return [row for start, length in bounds for row in range(start, start + length)]


def test_penn_treebank_has_1328_windows_the_last_of_33_rows():
    bounds = window_bounds(929_589 // 20, 35)
    assert len(bounds) == 1328
    assert bounds[-1] == (46_445, 33)


@pytest.mark.parametrize(
    ("tokens", "batch", "window", "count"),
    [
        (5_017_482, 128, 150, 262),
        (5_017_482, 128, 300, 131),
        (393_042, 10, 150, 263),
        (442_423, 10, 150, 295),
        (442_423, 10, 300, 148),
    ],
)
def test_counts_of_the_character_level_experiments(tokens, batch, window, count):
    assert len(window_bounds(tokens // batch, window)) == count


@given(st.integers(2, 500), st.integers(1, 60), st.booleans(), st.integers(0, 9), st.integers(0, 9))
def test_windows_cover_every_row_exactly_once(rows, window, drawn, seed, epoch):
    bounds = window_bounds(rows, window, random=RandomWindows() if drawn else None, seed=seed, epoch=epoch)
    assert covered(bounds) == list(range(rows - 1))
    assert all(length >= 1 for _, length in bounds)


def test_fixed_windows_do_not_depend_on_seed_or_epoch():
    assert window_bounds(100, 7, seed=1, epoch=2) == window_bounds(100, 7)


def test_random_windows_are_a_function_of_seed_and_epoch():
    def draw(seed, epoch):
        return window_bounds(2000, 70, random=RandomWindows(), seed=seed, epoch=epoch)

    assert draw(1, 2) == draw(1, 2)
    assert len({tuple(draw(seed, epoch)) for seed in (1, 12) for epoch in (1, 2, 11)}) == 6


def test_random_windows_stay_the_same_between_versions():
    lengths = [length for _, length in window_bounds(1000, 70, random=RandomWindows(), seed=1111, epoch=1)]
    assert lengths == GOLDEN_LENGTHS


# Seed 1111, epoch 1, window 70: a change of these numbers changes every run with random windows.
GOLDEN_LENGTHS = [73, 76, 67, 70, 69, 67, 76, 37, 70, 72, 66, 66, 63, 79, 48]


def test_statistics_of_random_lengths():
    bounds = window_bounds(2_000_000, 70, random=RandomWindows(max_delta=40), seed=3, epoch=1)
    lengths = torch.tensor([length for _, length in bounds[:-1]], dtype=torch.float64)
    short = lengths < 52.5  # 3.5 standard deviations from either centre
    # about 29,000 draws: the share of halves has a standard error of 0.0013, the means of 0.03 and 0.13 rows
    assert abs(short.double().mean() - 0.05) < 0.006
    assert abs(lengths[~short].mean() - 69.5) < 0.15  # int() cuts off half a row on average
    assert abs(lengths[short].mean() - 34.5) < 0.6
    assert abs(lengths[~short].std() - 5.0) < 0.12
    assert lengths.min() >= 5
    assert lengths.max() <= 110


def test_limits_of_random_lengths():
    bounds = window_bounds(3000, 8, random=RandomWindows(max_delta=2, minimum=4, spread=6.0), seed=0, epoch=0)
    lengths = [length for _, length in bounds[:-1]]
    assert min(lengths) == 4
    assert max(lengths) == 10
    free = window_bounds(3000, 8, random=RandomWindows(max_delta=None, spread=6.0), seed=0, epoch=0)
    assert max(length for _, length in free) > 10


class Fixed:
    """A generator that draws what it is told."""

    def __init__(self, *values):
        self.values = list(values)

    def random(self):
        return self.values.pop(0)


def test_the_shortest_draw_is_a_window_and_not_minus_infinity():
    """A generator may give 0, whose quantile is minus infinity; the 1e-16 in its place is 8.222 deviations below."""
    assert RandomWindows(minimum=1).length(70, Fixed(0.5, 0.0)) == int(70 - 5 * 8.2220822)
    assert RandomWindows(minimum=40).length(70, Fixed(0.5, 0.0)) == 40
    assert RandomWindows(minimum=1).length(7, Fixed(0.5, 0.0)) == 1


def test_half_a_window_is_drawn_below_its_probability_alone():
    sure = RandomWindows(half=0.05, spread=0.0, minimum=1)
    assert [sure.length(70, Fixed(drawn, 0.5)) for drawn in (0.0, 0.049, 0.05, 0.9)] == [35, 35, 70, 70]
    assert RandomWindows(half=0.0, spread=0.0).length(70, Fixed(0.0, 0.5)) == 70
    assert RandomWindows(half=1.0, spread=0.0, max_delta=0, minimum=1).length(70, Fixed(0.999, 0.999)) == 35


def test_the_bounds_of_every_setting_are_allowed():
    assert RandomWindows(max_delta=0, half=0, minimum=1, spread=0).length(9, Fixed(0.5, 0.5)) == 9
    assert window_bounds(2, 1) == [(0, 1)]
    assert RandomWindows(max_delta=0).length(20, Fixed(0.5, 1 - 1e-12)) == 20


def test_settings_that_were_checked_stay_as_they_are():
    chosen = RandomWindows(half=0.5)
    with pytest.raises(FrozenInstanceError):
        chosen.half = 1.5
    assert {chosen: 1}[RandomWindows(half=0.5)] == 1


def test_the_published_cap_is_forty_rows_above_the_window():
    assert RandomWindows(spread=20.0).length(70, Fixed(0.5, 1 - 1e-12)) == 110


def test_streams_are_contiguous_stretches():
    ids = torch.arange(47)
    stream = streams(ids, 4)
    assert stream.shape == (11, 4)
    assert stream.is_contiguous()
    assert all(torch.equal(stream[:, b], ids[11 * b : 11 * b + 11]) for b in range(4))


def test_targets_are_the_next_tokens():
    stream = streams(torch.arange(40), 4)
    for start, length in window_bounds(len(stream), 4):
        inputs, targets = window_of(stream, start, length)
        assert torch.equal(targets, inputs + 1)
        assert inputs.shape == (length, 4)


def test_a_split_that_is_too_short_is_named():
    check_rows(torch.arange(8), 4)
    with pytest.raises(InputError, match=r"valid split has 7 tokens.*batch_size 4.*at least 8"):
        streams(torch.arange(7), 4, "valid")


@pytest.mark.parametrize(
    "call",
    [
        lambda: window_bounds(1, 5),
        lambda: window_bounds(10, 0),
        lambda: window_bounds(10, "5"),
        lambda: streams(torch.arange(9), 0),
        lambda: RandomWindows(half=1.5),
        lambda: RandomWindows(minimum=0),
        lambda: RandomWindows(max_delta=-1),
        lambda: RandomWindows(spread=-0.1),
    ],
)
def test_values_out_of_range_are_refused(call):
    with pytest.raises(InputError, match="it must be"):
        call()


def test_what_a_recipe_may_say():
    assert random_windows(False) is None
    assert random_windows(None) is None
    assert random_windows(True) == RandomWindows()
    assert random_windows({"max_delta": 20}) == RandomWindows(max_delta=20)
    for wrong in ({"delta": 20}, 70):
        with pytest.raises(InputError, match="random_windows"):
            random_windows(wrong)
