"""A run folder as plain data: its recipe, its environment and the events of its life.

Runs are killed and still being written while somebody asks for a report, so a line that cannot be read is
skipped. A run that is resumed cuts its records back to its checkpoint first: none counts twice.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json

Event = dict[str, Json]


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says. Missing files are empty, never an error.

    Attributes:
        folder: the run folder.
        recipe: the resolved recipe, as in recipe.yaml.
        environment: as in environment.json.
        events: metrics.jsonl in order, without torn lines.
        recipe_text: recipe.yaml as it was written.
    """

    folder: Path
    recipe: Mapping[str, Json]
    environment: Mapping[str, Json]
    events: tuple[Event, ...]
    recipe_text: str = ""

    @property
    def name(self) -> str:
        """The recipe's name, else the folder's."""
        return str(self.recipe.get("name") or self.folder.resolve().name)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do: it is trained, tested and measured, and its report is written."""
        return bool(self.of("complete"))

    def of(self, kind: str) -> list[Event]:
        """All events of one kind, oldest first."""
        return [event for event in self.events if event["event"] == kind]

    def last(self, kind: str) -> Event:
        """The newest event of one kind, or an empty mapping."""
        found = self.of(kind)
        return found[-1] if found else {}


def mask_events(run: RunRecord) -> list[Event]:
    """What happened to the masks: their updates, or where there are none, how many zeros each epoch ended with."""
    return run.of("rewire") or run.of("zeros")


def tensors_now(run: RunRecord) -> Mapping[str, Json]:
    """name -> active, numel and density of masked tensors, or of those that a penalty brings zeros into; newest."""
    found = [run.last(kind).get("tensors") for kind in ("rewire", "sizes", "zeros")]
    return next((tensors for tensors in found if tensors), {})


def load_run(folder: Path | str) -> RunRecord:
    """Read a run folder.

    Args:
        folder: a folder that holds at least recipe.yaml or metrics.jsonl.

    Raises:
        InputError: there is no such folder, it is not a run folder, or its recipe is not readable YAML.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder; give the folder of a run.")
    if not any((folder / name).is_file() for name in ("recipe.yaml", "metrics.jsonl")):
        raise InputError(f"'{folder}' is not a run folder; it has neither recipe.yaml nor metrics.jsonl.")
    return RunRecord(
        folder=folder,
        recipe=_read_recipe(folder / "recipe.yaml"),
        environment=_read_environment(folder / "environment.json"),
        events=read_events(folder / "metrics.jsonl"),
        recipe_text=_read_text(folder / "recipe.yaml"),
    )


def read_events(path: Path) -> tuple[Event, ...]:
    """The events of a metrics.jsonl without torn or foreign lines; () where there is no file."""
    events = (_parse(line) for line in _read_text(path).splitlines())
    return tuple(event for event in events if event is not None)


def number(value: object) -> float:
    """`value` as a float; NaN for what is missing or not a number.

    >>> number(3), number(None), number("x")
    (3.0, nan, nan)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value)


def _parse(line: str) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _read_recipe(path: Path) -> dict[str, Json]:
    try:
        recipe = yaml.safe_load(_read_text(path)) or {}
    except yaml.YAMLError as error:
        raise InputError(f"'{path}' is not readable YAML; restore the recipe that the run wrote.") from error
    if not isinstance(recipe, dict):
        raise InputError(f"'{path}' holds a {type(recipe).__name__}; a recipe is a mapping of settings.")
    return recipe


def _read_environment(path: Path) -> dict[str, Json]:
    try:
        environment = json.loads(_read_text(path) or "{}")
    except ValueError:
        return {}
    return environment if isinstance(environment, dict) else {}
