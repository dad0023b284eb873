"""Tasks: batches, loss, evaluation; `TASKS` names the ones that a recipe can ask for."""

from collections.abc import Callable

from sparsernn.tasks.language import LanguageModelling
from sparsernn.tasks.task import Task

TASKS: dict[str, Callable[..., Task]] = {"language_modelling": LanguageModelling}

__all__ = ["TASKS", "LanguageModelling", "Task"]
