"""Ways to evaluate a language model beyond reading a text once; `MODES` names them.

A mode has `evaluate(task, model, split, *, batch_size, masks, tick) -> scores`; its settings are its constructor's
arguments.
"""

from collections.abc import Callable

from sparsernn.tasks.cache_pointer import NeuralCache
from sparsernn.tasks.dynamic_evaluation import DynamicEvaluation

MODES: dict[str, Callable[..., NeuralCache | DynamicEvaluation]] = {
    "pointer": NeuralCache,
    "dynamic": DynamicEvaluation,
}
