"""Hand-worked tables for the pruning and growing rules."""

import pytest
import torch

from sparsernn.sparsity.dynamic.growth import GROW, by_row, largest_signal
from sparsernn.sparsity.dynamic.pruning import PRUNE, magnitude, sign_split


def flags(text):
    """'1.1' -> [True, False, True]"""
    return torch.tensor([letter == "1" for letter in text])


def generator():
    return torch.Generator().manual_seed(0)


# weights      .9  -.1   .4  -.5   .2  -.8   .05  0
WEIGHTS = torch.tensor([0.9, -0.1, 0.4, -0.5, 0.2, -0.8, 0.05, 0.0])


@pytest.mark.parametrize(
    ("rule", "active", "count", "removed"),
    [
        # magnitudes in order: 0 (7), .05 (6), .1 (1), .2 (4), .4 (2), .5 (3), .8 (5), .9 (0)
        ("magnitude", "11111111", 0, "........"),
        ("magnitude", "11111111", 3, ".1....11"),
        ("magnitude", "11111100", 3, ".11.1..."),  # absent positions do not count
        ("magnitude", "11111111", 8, "11111111"),
        ("magnitude", "10000001", 5, "1......1"),  # fewer than asked for
        # zero first, then alternately nearest to zero from above (.05, .2, .4, .9) and below (-.1, -.5, -.8)
        ("set", "11111111", 1, ".......1"),
        ("set", "11111111", 2, "......11"),
        ("set", "11111111", 3, ".1....11"),
        ("set", "11111111", 5, ".1.11.11"),
        ("set", "11111110", 4, ".1.11.1."),
        ("set", "11111110", 3, ".1..1.1."),  # the odd one is positive
        ("set", "11110000", 3, "111....."),  # both positive ones, and -.1
    ],
)
def test_prune_tables(rule, active, count, removed):
    chosen = PRUNE[rule]([WEIGHTS], [flags(active)], count, generator())[0]
    assert torch.equal(chosen, flags(removed))


def test_sign_split_takes_the_remainder_from_the_other_side():
    weights = torch.tensor([0.3, -0.1, -0.2, -0.4, -0.9])
    chosen = sign_split([weights], [torch.ones(5, dtype=torch.bool)], 4, generator())[0]
    assert torch.equal(chosen, flags("1111."))


def test_sign_split_never_takes_the_most_negative_first():
    weights = torch.tensor([0.5, 0.6, -0.1, -5.0])
    chosen = sign_split([weights], [torch.ones(4, dtype=torch.bool)], 2, generator())[0]
    assert torch.equal(chosen, flags("1.1."))


def test_a_pool_of_two_tensors_is_one_competition():
    parts = [torch.tensor([0.1, 0.9]), torch.tensor([0.2, 0.3, 0.8])]
    masks = [torch.ones(2, dtype=torch.bool), torch.ones(3, dtype=torch.bool)]
    chosen = magnitude(parts, masks, 3, generator())
    assert [c.tolist() for c in chosen] == [[True, False], [True, True, False]]


def test_active_zeros_go_first_and_by_lot():
    weights = torch.zeros(1000)
    weights[500:] = 0.1
    chosen = magnitude([weights], [torch.ones(1000, dtype=torch.bool)], 250, generator())[0]
    assert int(chosen[:500].sum()) == 250
    assert 90 < int(chosen[:250].sum()) < 160  # not simply the first ones


@pytest.mark.parametrize(
    ("empty", "count", "grown"),
    [
        ("11111111", 2, "1....1.."),
        ("01111011", 2, "..11...."),  # active positions stay out, whatever their gradient
        ("00000011", 2, "......11"),
        ("00000011", 5, "......11"),
    ],
)
def test_largest_signal_table(empty, count, grown):
    assert torch.equal(largest_signal([flags(empty)], [WEIGHTS], count, generator())[0], flags(grown))


def test_positions_without_any_gradient_are_filled_by_lot_and_active_ones_are_not_touched():
    signal = torch.zeros(1000)
    signal[:10] = 1.0
    empty = torch.ones(1000, dtype=torch.bool)
    empty[:5] = False  # five of the ten positions with a gradient are active
    grown = largest_signal([empty], [signal], 200, generator())[0]
    assert int(grown.sum()) == 200
    assert grown[5:10].all()
    assert not grown[:5].any()
    assert int(grown[500:].sum()) > 60


@pytest.mark.parametrize("name", list(GROW))
def test_every_growth_rule_is_exact(name):
    g = generator()
    empty = [torch.rand(20, 15, generator=g) < 0.6, torch.rand(8, 30, generator=g) < 0.2]
    signals = [torch.randn(20, 15, generator=g), torch.randn(8, 30, generator=g)]
    for count in (0, 1, 100, 10_000):
        grown = GROW[name].function(empty, signals, count, g)
        assert sum(int(part.sum()) for part in grown) == min(count, sum(int(e.sum()) for e in empty))
        assert not any((part & ~e).any() for part, e in zip(grown, empty, strict=True))


def test_rows_share_by_mean_signal_within_their_room():
    # means 3 : 1 -> of 4 weights 3 and 1; row 0 has only two empty positions, the third goes to row 1
    signal = torch.tensor([[6.0, 5.0, 0.5, 0.5], [2.0, 0.5, 1.0, 0.5]])
    empty = torch.tensor([[False, True, True, False], [True, True, True, True]])
    grown = by_row([empty], [signal], 4, generator())[0]
    assert grown.tolist() == [[False, True, True, False], [True, False, True, False]]
