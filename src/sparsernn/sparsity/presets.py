"""The published methods as settings of one engine: a preset has defaults, and what the user gives wins."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

from torch import nn

from sparsernn.core.checks import check_value, checked
from sparsernn.core.errors import InputError
from sparsernn.core.forms import check_names
from sparsernn.core.limits import Entries, Kind, OneOf, Spec
from sparsernn.core.plain import Json
from sparsernn.core.registry import make
from sparsernn.core.streams import stream_seed
from sparsernn.sparsity.dynamic.dense_to_sparse import DenseToSparse
from sparsernn.sparsity.dynamic.engine import DynamicSparse
from sparsernn.sparsity.dynamic.engine_settings import GROUPS, Settings, accepted, parse
from sparsernn.sparsity.dynamic.update_times import Length
from sparsernn.sparsity.frozen_zeros import Frozen
from sparsernn.sparsity.optimizer_state import Optimizers
from sparsernn.sparsity.penalties.penalty import Penalty
from sparsernn.sparsity.penalties.sum_of_penalties import SINGLE, Together
from sparsernn.sparsity.sparsifier import Chain, Sparsifier

# name -> what differs from the defaults in settings.py.
DEFAULTS: dict[str, dict[str, Json]] = {
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

# Dense at first, pruned by magnitude on the way, nothing grows back: name -> (what differs from the defaults, how).
PRUNED_ON_THE_WAY: dict[str, tuple[dict[str, Json], dict[str, bool]]] = {
    # M. Zhu and S. Gupta, 2017, arXiv:1710.01878; S. Narang et al., 2017, arXiv:1704.05119, prune recurrent networks
    # from an early point to about a half of training, along two lines in place of the cube.
    "gradual": ({"update": {"every": 100, "unit": "step", "stop": 0.75}}, {"gradual": True}),
    # S. Han et al., 2015, arXiv:1506.02626, without further rounds: train, prune, retrain.
    "one_shot": ({"update": {"every": 1, "unit": "step", "stop": 0.5}}, {}),
    # J. Frankle et al., "Stabilizing the Lottery Ticket Hypothesis", 2019, arXiv:1903.01611, one round.
    "rewind": ({"update": {"every": 1, "unit": "step", "start": 0.02, "stop": 0.5}}, {"rewinds": True}),
}
OF_THESE = (
    *("density", "sparsity", "include", "exclude", "densities", "block", "block_fallback"),
    *("init", "prune", "gate_scope", "update"),
)
"""The settings that they have; the others are about first masks and growth."""
BY_MAGNITUDE = ("magnitude", "global_magnitude")


def parse_pruned(preset: str, settings: Mapping[str, Json]) -> Settings:
    """The settings of a preset of `PRUNED_ON_THE_WAY`.

    Raises:
        InputError: an unknown or impossible one.
    """
    check_names(f"sparsity '{preset}'", settings, OF_THESE)
    check_value("prune", settings.get("prune", BY_MAGNITUDE[0]), Annotated[str, OneOf(BY_MAGNITUDE)])
    parsed = parse(settings, PRUNED_ON_THE_WAY[preset][0])
    if not parsed.updates.at_switch:
        raise InputError(f"update.at_switch is false; '{preset}' prunes whenever it is time: leave it out.")
    return parsed


def build(
    preset: str,
    model: nn.Module,
    optimizer: Optimizers = None,
    *,
    total_steps: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    **settings: Json,
) -> DynamicSparse:
    """The engine with a preset's defaults under the user's settings.

    Args:
        preset: a key of `DEFAULTS` or `PRUNED_ON_THE_WAY`.
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
    if preset in PRUNED_ON_THE_WAY:
        how = PRUNED_ON_THE_WAY[preset][1]
        parsed = parse_pruned(preset, settings)
        return DenseToSparse(model, parsed, optimizer, length=length, seed=seed, **how)
    return DynamicSparse(model, parse(settings, DEFAULTS[preset]), optimizer, length=length, seed=seed)


def _signature(names: Sequence[str]) -> inspect.Signature:
    """That of `build` after the preset's name, with every setting spelt out for the registry to check."""
    own = list(inspect.signature(build).parameters.values())[1:-1]
    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    return inspect.Signature([*own, *named], return_annotation=DynamicSparse)


def preset_defaults(name: str) -> dict[str, Json]:
    """What a preset sets; {} of a method that is none.

    >>> preset_defaults("selfish"), preset_defaults("gradual")["update"]["every"], preset_defaults("iss")
    ({'prune_rate': 0.5}, 100, {})
    """
    return DEFAULTS[name] if name in DEFAULTS else PRUNED_ON_THE_WAY.get(name, ({}, {}))[0]


def _preset(name: str) -> Callable[..., Sparsifier]:
    def method(model: nn.Module, optimizer: Optimizers = None, **settings: Json) -> DynamicSparse:
        return build(name, model, optimizer, **settings)

    method.__name__ = method.__qualname__ = name
    dynamic = name in DEFAULTS
    what, own = (
        ("Dynamic sparse training", DEFAULTS[name])
        if dynamic
        else ("From dense to sparse", preset_defaults(name))
    )
    method.__doc__ = f"{what} with the defaults of '{name}': {own or 'none'}."
    method.__signature__ = _signature(accepted() if dynamic else OF_THESE)  # type: ignore[attr-defined]
    setattr(method, "settings_groups", GROUPS)  # noqa: B010  # a function has no such attribute for a type checker
    return method


# Penalties that bring weights to 0; W. Wen et al., 2018, arXiv:1709.05027.
PENALTIES: Mapping[str, Callable[..., Penalty]] = {**SINGLE, "together": Together}


@checked
def chain(
    model: nn.Module,
    optimizer: Optimizers = None,
    *,
    of: Annotated[Sequence[Annotated[Spec, Kind("sparsity")]], Entries(1)],
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    window: int | None = None,
) -> Chain:
    """Several methods in one run, one after the other, such as masks and a penalty on the units that they leave.

    Args:
        model: is masked in place.
        optimizer: whose buffers follow the masks.
        of: their specs, {name: ..., density or strength, ...}, at least one; no two of them may mask the same tensor.
        total_steps, steps_per_epoch, epochs, seed, window: what a run knows of itself; each member takes what it
            needs. The first one draws its masks as it would alone, the others from streams of their own.

    Raises:
        InputError: an empty list, a tensor that two of them mask, or what a member refuses.

    Example:
        >>> specs = [{"name": "static", "density": 0.5}, {"name": "l1", "strength": 0.1}]
        >>> made = chain(nn.Linear(4, 4), of=specs)
        >>> [type(member).__name__ for member in made.members]
        ['DynamicSparse', 'L1']
    """
    known = {
        "total_steps": total_steps,
        "steps_per_epoch": steps_per_epoch,
        "epochs": epochs,
        "window": window,
    }
    single = {name: made for name, made in SPARSIFIERS.items() if name != "chain"}
    seeds = [seed, *(stream_seed("chain", seed, number) for number in range(1, len(of)))]
    context = {"model": model, "optimizer": optimizer, **known}
    return Chain(
        [make("sparsity.of", single, spec, seed=own, **context) for spec, own in zip(of, seeds, strict=True)]
    )


SPARSIFIERS: Mapping[str, Callable[..., Sparsifier]] = {
    "chain": chain,
    "dense": Sparsifier,
    "frozen": Frozen,
    **PENALTIES,
    **{name: _preset(name) for name in (*DEFAULTS, *PRUNED_ON_THE_WAY)},
}
