"""Data: corpora and their vocabularies, and the windows in which they are read."""

from collections.abc import Callable

from sparsernn.data.conll import TREEBANKS
from sparsernn.data.corpora import CORPORA as TEXTS
from sparsernn.data.embedded_questions import python_questions
from sparsernn.data.embedded_tags import python_roles
from sparsernn.data.series_corpus import Series, SeriesCorpus
from sparsernn.data.series_files import table, vowels
from sparsernn.data.squad import squad, squad_articles
from sparsernn.data.tagged_sentences import Sentence, TaggedCorpus
from sparsernn.data.text_corpus import Corpus
from sparsernn.data.text_styles import Style, style_of
from sparsernn.data.vocabulary import Vocabulary, check_vocabulary
from sparsernn.data.windows import (
    RandomWindows,
    check_rows,
    random_windows,
    streams,
    window_bounds,
    window_of,
)

# A text to model, sentences with tags, paragraphs with questions or series: a task says which of them it takes.
CORPORA: dict[str, Callable[..., object]] = {
    **TEXTS,
    **TREEBANKS,
    "python-questions": python_questions,
    "python-roles": python_roles,
    "squad": squad,
    "squad-articles": squad_articles,
    "table": table,
    "vowels": vowels,
}

__all__ = [
    "CORPORA",
    "Corpus",
    "RandomWindows",
    "Sentence",
    "Series",
    "SeriesCorpus",
    "Style",
    "TaggedCorpus",
    "Vocabulary",
    "check_rows",
    "check_vocabulary",
    "random_windows",
    "streams",
    "style_of",
    "window_bounds",
    "window_of",
]
