"""Tasks: batches, loss, evaluation; `TASKS` names the ones that a recipe can ask for."""

from sparsernn.tasks.adding import Adding
from sparsernn.tasks.copying import Copying, Denoising
from sparsernn.tasks.language import LanguageModelling
from sparsernn.tasks.pixels import Pixels
from sparsernn.tasks.question_answering import QuestionAnswering
from sparsernn.tasks.recall import Recall
from sparsernn.tasks.recite import Recitation
from sparsernn.tasks.series import NumericSeries
from sparsernn.tasks.tagging import Tagging
from sparsernn.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    "adding": Adding,
    "copying": Copying,
    "denoising": Denoising,
    "language_modelling": LanguageModelling,
    "pixels": Pixels,
    "question_answering": QuestionAnswering,
    "recall": Recall,
    "recitation": Recitation,
    "series": NumericSeries,
    "tagging": Tagging,
}

__all__ = [
    "TASKS",
    "Adding",
    "Copying",
    "Denoising",
    "LanguageModelling",
    "NumericSeries",
    "Pixels",
    "QuestionAnswering",
    "Recall",
    "Recitation",
    "Tagging",
    "Task",
]
