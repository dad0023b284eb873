"""What there is to see in a network's recurrent matrices, as plain data for the records of a run."""

import base64

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.nn.maps import Dense, Normal, RecurrentMap, spectra
from sparsernn.nn.maps.schur_form import schur_form

LAGS = 128
"""Steps of a Fisher memory curve, and of noise in its state."""
DIRECTIONS = 64
"""Most units whose memory is averaged."""
CELLS = 96
"""Most rows of a picture of a Schur form: more are smaller than a pixel or two on a page."""
SCHUR_UP_TO = 256
"""Units up to which powers are measured and a free matrix is brought into Schur form: beyond, that takes seconds."""


@torch.no_grad()
def recurrences(model: nn.Module, closely: bool = False) -> list[dict[str, Json]]:
    """Of every recurrent map in a model, what `recurrence` says, and its name.

    Example:
        >>> from sparsernn.nn.cells.elman import Elman
        >>> [found] = recurrences(Elman(3, 4, map="orthogonal"))
        >>> found["name"], found["map"], found["manifold_error"] < 1e-5, round(found["radius"], 4)
        ('cell.map', 'orthogonal', True, 1.0)
    """
    maps = [(name, module) for name, module in model.named_modules() if isinstance(module, RecurrentMap)]
    return [{"name": name, **recurrence(map, closely)} for name, map in maps]


@torch.no_grad()
def recurrence(map: RecurrentMap, closely: bool = False) -> dict[str, Json]:
    """A recurrent map in numbers, rounded to five digits.

    Args:
        map: any one.
        closely: with what takes longer.

    Returns:
        map (its kind), size (H); manifold_error, unless the matrix is free; where V is finite, radius (the largest
        modulus of an eigenvalue), departure (from normality, relative, in [0, 1]) and eigenvalues ([real, imaginary],
        of a real V without the conjugates). Closely also `memory`, the Fisher memory of 0 to 127 steps ago, a mean
        over directions in [0, 1]; up to 256 units `growth`, the norms of V^k for k = 0 to 128, as far as they are
        finite; and where there is a Schur form, `profile`, the mean size of its entries by their
        distance below the diagonal, and `theta`, their root mean squares in a grid ({side, top, cells}: cells are
        base64 of side^2 bytes, 255 for `top`).
    """
    v = map().detach().cpu()  # spectra take many small steps, each of which asks for a number
    found: dict[str, Json] = {"map": type(map).__name__.lower(), "size": map.hidden_size}
    if not isinstance(map, Dense):
        found["manifold_error"] = _round(map.manifold_error())
    if not v.isfinite().all():
        return found
    form = map.theta().detach().cpu() if isinstance(map, Normal) else v
    found |= _spectrum(form)
    if closely:
        found |= _memory(v) | _growth(v) | _schur(map, form)
    return found


def _spectrum(v: Tensor) -> dict[str, Json]:
    values = spectra.eigenvalues(v)
    kept = values if v.is_complex() else values[values.imag >= 0]
    pairs = [[_round(z.real), _round(z.imag)] for z in kept.tolist()]
    return {
        "radius": _round(float(values.abs().max())),
        "departure": _round(spectra.departure_from_normality(v, relative=True)),
        "eigenvalues": pairs,
    }


def _growth(v: Tensor) -> dict[str, Json]:
    if len(v) > SCHUR_UP_TO:
        return {}
    return {"growth": [_round(x) for x in spectra.power_norms(v, LAGS).tolist()]}


def _memory(v: Tensor) -> dict[str, Json]:
    """Of all units, or of some evenly chosen ones, each alone: the mean of their curves."""
    units = torch.arange(0, len(v), -(-len(v) // DIRECTIONS))
    try:
        curve = spectra.fisher_memory(v, LAGS, torch.eye(len(v))[:, units], LAGS) / len(units)
    except InputError:
        return {}
    # what a state holds of an input is at most all of it; rounding alone says otherwise, or NaN
    sound = bool(((curve >= 0) & (curve <= 1 + 1e-6)).all())
    return {"memory": [_round(x) for x in curve.tolist()]} if sound else {}


def _schur(map: RecurrentMap, form: Tensor) -> dict[str, Json]:
    """The form below its blocks: from the map where it has one, else worked out for a free matrix."""
    if not isinstance(map, Normal):
        if not isinstance(map, Dense) or len(form) > SCHUR_UP_TO or len(form) < 3:
            return {}
        try:
            form = schur_form(form)[1]
        except InputError:
            return {}
    below = below_blocks(form)
    profile, _ = spectra.band_profile(below)
    return {"profile": [_round(x) for x in profile[:LAGS].tolist()], "theta": _grid(below)}


def below_blocks(theta: Tensor) -> Tensor:
    """What a lower Schur form (H, H) has below its blocks, float64: all that is not normal in it.

    Example:
        >>> below_blocks(torch.tensor([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0], [0.1, 0.2, 1.0]])).round(decimals=2)
        tensor([[0.0000, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.0000],
                [0.1000, 0.2000, 0.0000]], dtype=torch.float64)
    """
    below = theta.detach().double().tril(-1)
    below.diagonal(-1)[theta.diagonal(1) != 0] = 0
    return below


def _grid(below: Tensor) -> dict[str, Json]:
    side = min(len(below), CELLS)
    cells = adaptive_avg_pool2d(below.square()[None], side)[0].sqrt()
    top = float(cells.max())
    levels = (255 * cells / top if top else cells).round().to(torch.uint8)
    return {
        "side": side,
        "top": _round(top),
        "cells": base64.b64encode(levels.numpy().tobytes()).decode("ascii"),
    }


def _round(value: float) -> float:
    return float(f"{value:.5g}")
