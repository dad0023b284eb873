"""The options of `sparsernn evaluate` that choose another mode of evaluation, and what they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated

import typer

from sparsernn.core.checks import check_value, forms_of
from sparsernn.core.errors import InputError
from sparsernn.core.limits import OneOf
from sparsernn.core.plain import Json

if TYPE_CHECKING:
    from sparsernn.runs.evaluation import Mode
    from sparsernn.runs.run import Run
    from sparsernn.tasks.cache_pointer import NeuralCache

CACHE, LEARNING = "Neural cache", "Dynamic evaluation"

Pointer = Annotated[
    bool, typer.Option("--pointer", help="With a cache of recent words.", rich_help_panel=CACHE)
]
Preset = Annotated[
    str | None,
    typer.Option("--preset", help="Published settings: ptb or wikitext-2.", rich_help_panel=CACHE),
]
Window = Annotated[int | None, typer.Option("--window", help="Words remembered; 500.", rich_help_panel=CACHE)]
Theta = Annotated[
    float | None, typer.Option("--theta", help="Sharpness of the match; 1.", rich_help_panel=CACHE)
]
Mixing = Annotated[
    float | None, typer.Option("--lambda", help="Share of the cache; 0.1.", rich_help_panel=CACHE)
]
FullOnly = Annotated[
    bool,
    typer.Option(
        "--full-window", help="Only where the window is full, as the original.", rich_help_panel=CACHE
    ),
]
Tune = Annotated[
    bool,
    typer.Option("--tune", help="Choose theta and lambda on the validation split.", rich_help_panel=CACHE),
]
Dynamic = Annotated[
    bool,
    typer.Option("--dynamic", help="Learn from what has just been scored.", rich_help_panel=LEARNING),
]
Lamb = Annotated[
    float | None,
    typer.Option("--lamb", help="Pull back to the trained weights; 0.02.", rich_help_panel=LEARNING),
]
Lr = Annotated[float | None, typer.Option("--lr", help="Learning rate; 0.002.", rich_help_panel=LEARNING)]
Epsilon = Annotated[
    float | None,
    typer.Option("--epsilon", help="Damps rarely moved weights; 0.001.", rich_help_panel=LEARNING),
]
Segment = Annotated[
    int | None, typer.Option("--segment", help="Tokens between two updates; 5.", rich_help_panel=LEARNING)
]
StatisticsBatch = Annotated[
    int | None,
    typer.Option("--statistics-batch", help="Streams for the statistics; 100.", rich_help_panel=LEARNING),
]
MaxBatches = Annotated[
    int | None,
    typer.Option("--max-batches", help="Batches of statistics; all.", rich_help_panel=LEARNING),
]
MeanSquares = Annotated[
    bool,
    typer.Option("--ms", help="Statistics are means over batches, not sums.", rich_help_panel=LEARNING),
]

# setting of the mode -> the option that gives it
OPTIONS = {
    "pointer": {
        "preset": "--preset",
        "window": "--window",
        "theta": "--theta",
        "mixing": "--lambda",
        "partly_filled": "--full-window",
        "tune": "--tune",
    },
    "dynamic": {
        "lamb": "--lamb",
        "lr": "--lr",
        "epsilon": "--epsilon",
        "segment": "--segment",
        "statistics_batch": "--statistics-batch",
        "max_batches": "--max-batches",
        "statistics": "--ms",
    },
}


def chosen_mode(wanted: Mapping[str, bool], given: Mapping[str, Json]) -> Mode | None:
    """The mode that the options describe; None for the task's own evaluation.

    Args:
        wanted: "pointer" and "dynamic": whether they were asked for.
        given: setting -> value; None where the option was not given.

    Raises:
        InputError: both modes at once, an option without its mode, or a value out of range.
    """
    settings = {name: value for name, value in given.items() if value is not None}
    chosen = [name for name, asked in wanted.items() if asked]
    if len(chosen) > 1:
        raise InputError("--pointer and --dynamic exclude each other; evaluate once with each.")
    if "tune" in settings and {"theta", "mixing"} & settings.keys():
        raise InputError("--tune chooses --theta and --lambda itself; give either --tune or the two.")
    for mode, options in OPTIONS.items():
        foreign = [options[name] for name in settings if name in options and mode not in chosen]
        if foreign:
            raise InputError(f"{foreign[0]} is an option of --{mode}; give --{mode} with it.")
    return _make(chosen[0], settings) if chosen else None


def _make(name: str, settings: dict[str, Json]) -> Mode:
    from sparsernn.tasks.cache_pointer import PRESETS
    from sparsernn.tasks.evaluation_modes import MODES

    forms = forms_of(MODES[name])
    for setting, value in _without_tune(settings).items():
        if setting in forms:
            forms[setting].refuse(OPTIONS[name][setting], value)
    if (preset := settings.pop("preset", None)) is None:
        made: Mode = MODES[name](**_without_tune(settings))
        return made
    check_value("--preset", preset, Annotated[str, OneOf(PRESETS)])
    return replace(PRESETS[preset], **_without_tune(settings))


def _without_tune(settings: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in settings.items() if name != "tune"}


def tuned(run: Run, mode: NeuralCache, batch_size: int | None, tick: Callable[[float], None]) -> NeuralCache:
    """The cache with the theta and mixing that are best for a run's best weights on its validation split."""
    run.require_data("tuning")
    run.load_best()
    return mode.tuned(run.task, run.model, batch_size=batch_size, tick=tick)


def described(mode: Mode) -> str:
    """The settings of a mode in one line.

    >>> from sparsernn.tasks.cache_pointer import NeuralCache
    >>> described(NeuralCache(window=9))
    'window 9, theta 1.0, mixing 0.1, partly_filled True'
    """
    values = ((field.name, getattr(mode, field.name)) for field in fields(mode))
    return ", ".join(f"{name} {value}" for name, value in values if value is not None)
