"""The published methods as settings of one engine: a preset has defaults, and what the user gives wins."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from sparsernn.sparsity.dynamic.engine import DynamicSparse
from sparsernn.sparsity.dynamic.engine_settings import GROUPS, accepted, parse
from sparsernn.sparsity.dynamic.update_times import Length
from sparsernn.sparsity.frozen_zeros import Frozen
from sparsernn.sparsity.optimizer_state import Optimizers
from sparsernn.sparsity.penalties.penalty import Penalty
from sparsernn.sparsity.penalties.sum_of_penalties import SINGLE, Together
from sparsernn.sparsity.sparsifier import Sparsifier

# name -> what differs from the defaults in settings.py.
DEFAULTS: dict[str, dict[str, Any]] = {
    "dynamic": {},
    # S. Liu et al., "Selfish Sparse RNN Training", 2021, arXiv:2101.09048. 0.5 is the published code's
    # default rate; its LSTM runs use 0.7 and 0.8.
    "selfish": {"prune_rate": 0.5},
    # The first mask for ever.
    "static": {"update": {"every": 0}},
    # D. C. Mocanu et al., 2018, arXiv:1707.04780: zeta = 0.3, constant; here applied to every gate on its
    # own.
    "set": {
        "init": "erdos_renyi",
        "prune": "set",
        "gate_scope": "independent",
        "prune_rate": 0.3,
        "anneal": "constant",
    },
    # U. Evci et al., 2020, arXiv:1911.11134: every 100 steps, alpha = 0.3 annealed to 0 at 75 % of training.
    "rigl": {
        "init": "erdos_renyi",
        "grow": "gradient",
        "prune_rate": 0.3,
        "prune_rate_end": 0.0,
        "update": {"every": 100, "unit": "step", "stop": 0.75},
    },
    # T. Dettmers and L. Zettlemoyer, 2019, arXiv:1907.04840.
    "snfs": {"grow": "momentum", "redistribute": "momentum", "prune_rate": 0.5},
    # H. Mostafa and X. Wang, 2019, arXiv:1902.05967. prune_rate is only what the threshold aims at.
    "dsr": {"prune": "threshold", "redistribute": "nonzeros"},
    # "Hyperpruning", 2025, arXiv:2506.07975: the best combination found for the stacked LSTM.
    "hyperpruning": {
        "init": "erdos_renyi",
        "prune": "global_magnitude",
        "redistribute": "nonzeros",
        "prune_rate": 0.7,
    },
}


def build(
    preset: str,
    model: nn.Module,
    optimizer: Optimizers = None,
    *,
    total_steps: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    **settings: Any,
) -> DynamicSparse:
    """The engine with a preset's defaults under the user's settings.

    Args:
        preset: a key of `DEFAULTS`.
        model: is masked in place.
        optimizer: whose buffers follow the masks.
        total_steps: optimizer steps of the whole run, if known.
        epochs: epochs of the whole run, if known.
        seed: of the masks.
        **settings: see `sparsity.settings`; density or sparsity is required.

    Raises:
        InputError: an unknown or impossible setting.
    """
    length = Length(total_steps, epochs)
    return DynamicSparse(model, parse(settings, DEFAULTS[preset]), optimizer, length=length, seed=seed)


def _signature() -> inspect.Signature:
    """That of `build` after the preset's name, with every setting spelt out for the registry to check."""
    own = list(inspect.signature(build).parameters.values())[1:-1]
    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in accepted()]
    return inspect.Signature([*own, *named], return_annotation=DynamicSparse)


def _preset(name: str) -> Callable[..., Sparsifier]:
    def method(model: nn.Module, optimizer: Optimizers = None, **settings: Any) -> DynamicSparse:
        return build(name, model, optimizer, **settings)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"Dynamic sparse training with the defaults of '{name}': {DEFAULTS[name] or 'none'}."
    method.__signature__ = _signature()  # type: ignore[attr-defined]
    setattr(method, "settings_groups", GROUPS)  # noqa: B010  # a function has no such attribute for a type checker
    return method


# Penalties that bring weights to 0; W. Wen et al., 2018, arXiv:1709.05027.
PENALTIES: Mapping[str, Callable[..., Penalty]] = {**SINGLE, "together": Together}

SPARSIFIERS: Mapping[str, Callable[..., Sparsifier]] = {
    "dense": Sparsifier,
    "frozen": Frozen,
    **PENALTIES,
    **{name: _preset(name) for name in DEFAULTS},
}
