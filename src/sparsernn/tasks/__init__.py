"""Tasks: batches, loss, evaluation; `TASKS` names the ones that a recipe can ask for."""

from collections.abc import Callable
from typing import Any

from sparsernn.tasks.language import LanguageModelling

TASKS: dict[str, Callable[..., Any]] = {"language_modelling": LanguageModelling}

__all__ = ["TASKS", "LanguageModelling"]
