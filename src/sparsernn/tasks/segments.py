"""What the evaluation modes of language models share: the text to read, and dropouts off."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from sparsernn.contracts import Model, Task
from sparsernn.core.devices import device_of, moved
from sparsernn.core.errors import InputError
from sparsernn.data.windows import streams


def text_of(task: Task, model: nn.Module, split: str, batch_size: int, mode: str) -> Tensor:
    """A split of a language-modelling task as `batch_size` parallel streams, (N, B) int64, on the model's device.

    Args:
        task: with a `corpus`.
        model: a `LanguageModel`, whatever its layers and head.
        split: "train", "valid" or "test".
        batch_size: B, at least 1.
        mode: what is going to be done, for the message.

    Raises:
        InputError: not a language model, or a split that is too short.
    """
    if not isinstance(model, Model) or model.reads != "words" or task.corpus is None:
        raise InputError(
            f"{mode} needs a language model that reads a text, but this is a {type(model).__name__} "
            f"for {type(task).__name__}."
        )
    rows: Tensor = moved(streams(task.corpus.splits[split], batch_size, split), device_of(model))
    return rows


@contextmanager
def dropouts_off(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, weight drop and every other dropout off; afterwards the mode as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
