"""Prints the series of a file as label_series.c reads them: python series_rows.py RUN FILE > series.txt."""

import sys
from pathlib import Path

from sparsernn.data.series_corpus import series_of
from sparsernn.data.table_files import read_table
from sparsernn.runs.assembly import open_weights

run, file = map(Path, sys.argv[1:])
reading = open_weights(run).task.reading
for series in series_of(read_table(file, reading.separator), reading, with_targets=False):
    for row in series.values.tolist():
        print(*(f"{number:.9g}" for number in row))
    print()
