"""Data: corpora and their vocabularies, and the windows in which they are read."""

from sparsernn.data.corpora import CORPORA
from sparsernn.data.styles import Style, style_of
from sparsernn.data.text import Corpus
from sparsernn.data.vocabulary import Vocabulary, check_vocabulary
from sparsernn.data.windows import (
    RandomWindows,
    check_rows,
    random_windows,
    streams,
    window_bounds,
    window_of,
)

__all__ = [
    "CORPORA",
    "Corpus",
    "RandomWindows",
    "Style",
    "Vocabulary",
    "check_rows",
    "check_vocabulary",
    "random_windows",
    "streams",
    "style_of",
    "window_bounds",
    "window_of",
]
