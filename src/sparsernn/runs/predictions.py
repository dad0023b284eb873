"""What a run's model says of a file of series, as CSV."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from sparsernn.core.errors import InputError
from sparsernn.data import Series
from sparsernn.data.series_corpus import series_of
from sparsernn.data.table_files import read_table
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.runs.run import Run
from sparsernn.tasks import NumericSeries

PROBABILITY = "probability"


def predicts_series(run: Run) -> bool:
    """Whether the run's task is one of numeric series."""
    return isinstance(run.task, NumericSeries)


def predict_file(run: Run, file: str | Path) -> str:
    """Predictions of the weights that are in the run's model for a file of series, as CSV.

    The file is read as that of training: the same columns, ids, times and separator, and the run's own scaling. It
    needs no target.

    Args:
        run: of the task series; see `assembly.open_weights`.
        file: .csv, .tsv, .npz, .parquet or .ts.

    Returns:
        A line of names, then for each series its id, and its label with the label's probability, or its number; or
        for each row its id, its time (its line where there is no column of times), and its number. What is forecast
        is called TARGET+HORIZON and stands at the row from which it is forecast.

    Raises:
        InputError: another task, or a file that lacks a column or a number.
    """
    task: object = run.task
    if not isinstance(task, NumericSeries):
        raise InputError(
            f"{run.home} trains for {type(task).__name__}; predictions are made by a run of series."
        )
    series = series_of(read_table(file, task.reading.separator), task.reading, with_targets=False)
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(_names(task))
    writer.writerows(_rows(cast(SequenceModel, run.model), task, series))
    return made.getvalue()


def _names(task: NumericSeries) -> list[str]:
    reading = task.reading
    name = f"{reading.target}+{task.horizon}" if task.horizon else reading.target
    group = reading.group or "series"
    if task.per_series:
        return [group, name, *([PROBABILITY] if task.labels else [])]
    return [group, reading.time or "row", name]


def _rows(model: SequenceModel, task: NumericSeries, series: Sequence[Series]) -> Iterator[list[str]]:
    for one, said in zip(series, task.predict(model, series), strict=True):
        if task.labels:
            best = int(said.argmax())
            yield [one.name, task.labels[best], f"{said[best].item():.6f}"]
        elif task.per_series:
            yield [one.name, f"{said.item():.9g}"]
        else:
            yield from ([one.name, t, f"{n:.9g}"] for t, n in zip(one.times, said.tolist(), strict=True))
