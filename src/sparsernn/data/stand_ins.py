"""What stands in for data that are not at hand: the same vocabularies and facts, random content of the same form.

A trained model is its user's without its corpus. To put it together again, a task asks its data for little: sizes,
vocabularies, and something to read where two models are to be compared. Nothing that is made here says anything about
how good a model is, so nothing is trained on it or scored by it.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from sparsernn.core.plain import Json
from sparsernn.core.streams import draws, stream
from sparsernn.data.digit_images import CLASSES, Images
from sparsernn.data.questions import Answer, Paragraph, Question, QuestionCorpus
from sparsernn.data.series_corpus import Reading, Series, SeriesCorpus
from sparsernn.data.tagged_sentences import PAD, Sentence, TaggedCorpus
from sparsernn.data.text_corpus import SPLITS, Corpus
from sparsernn.data.vocabulary import Vocabulary

MOST_TOKENS = 1_000_000
"""Enough for the streams of any batch that fits into memory, drawn in milliseconds."""

SENTENCES, LONGEST = 400, 12
"""Sentences, or paragraphs with questions, and tokens of the longest."""

PIXELS, PICTURES = 64, 1000

SERIES = 60
"""In each split; they are long enough for any horizon that is not beyond `LONGEST`."""


def text(info: Mapping[str, Json], vocabulary: Vocabulary) -> Corpus:
    """A text of random tokens, as long as the one that `info` describes or `MOST_TOKENS`.

    >>> made = text({"tokens": {"train": 9}}, Vocabulary(["a", "b"]))
    >>> len(made.splits["train"]), made.vocabulary.tokens
    (9, ('a', 'b'))
    """
    generator = stream("stand-in")
    lengths = info.get("tokens") or {}
    splits = {
        split: torch.randint(
            len(vocabulary), (min(int(lengths.get(split, MOST_TOKENS)), MOST_TOKENS),), generator=generator
        )
        for split in SPLITS
    }
    return Corpus(vocabulary, splits, dict(info))


def sentences(info: Mapping[str, Json], words: Vocabulary, tags: Vocabulary) -> TaggedCorpus:
    """Sentences of random words with random tags.

    >>> made = sentences({}, Vocabulary(["<pad>", "dog"]), Vocabulary(["NOUN"]))
    >>> sorted(made.splits), made.splits["test"][0].tags[0]
    (['test', 'train', 'valid'], 'NOUN')
    """
    draw = draws("stand-in")
    known = [word for word in words.tokens if word != PAD]

    def sentence() -> Sentence:
        length = draw.randint(1, LONGEST)
        return Sentence(tuple(draw.choices(known, k=length)), tuple(draw.choices(tags.tokens, k=length)))

    return TaggedCorpus({split: [sentence() for _ in range(SENTENCES)] for split in SPLITS}, dict(info))


def paragraphs(info: Mapping[str, Json], words: Sequence[str]) -> QuestionCorpus:
    """Paragraphs of random words, each with a question of one to four words; the answer is the first word.

    >>> made = paragraphs({}, ["<pad>", "dog"])
    >>> made.splits["train"][0].questions[0].answers
    (Answer(start=0, text='dog'),)
    """
    draw = draws("stand-in")
    known = [word for word in words if re.fullmatch(r"\w+", word)] or ["word"]

    def paragraph(number: int) -> Paragraph:
        read = draw.choices(known, k=draw.randint(1, LONGEST))
        asked = " ".join(draw.choices(known, k=1 + number % 4))
        return Paragraph("", " ".join(read), (Question(str(number), asked, (Answer(0, read[0]),)),))

    return QuestionCorpus({split: [paragraph(k) for k in range(SENTENCES)] for split in SPLITS}, dict(info))


def pictures(info: Mapping[str, Json]) -> Images:
    """Pictures of random pixels in random classes.

    >>> pictures({}).pixels["test"].shape
    torch.Size([1000, 64])
    """
    generator = stream("stand-in")
    pixels = {
        split: torch.randint(256, (PICTURES, PIXELS), generator=generator, dtype=torch.uint8)
        for split in SPLITS
    }
    labels = {split: torch.randint(CLASSES, (PICTURES,), generator=generator) for split in SPLITS}
    return Images(pixels, labels, 255, dict(info))


def series(info: Mapping[str, Json], labels: Sequence[str] = ()) -> SeriesCorpus:
    """Series of random numbers; each has one of the labels, or random numbers where there are none.

    >>> made = series({}, ["yes", "no"])
    >>> made.splits["test"][0].values.shape[1], made.splits["test"][0].targets[0] in ("yes", "no")
    (2, True)
    """
    draw = draws("stand-in")
    known = dict(info)
    known.setdefault("read", Reading(("a", "b"), "y", "id").plain())
    columns, beyond = len(known["read"]["columns"]), int(known.get("horizon") or 0)

    def one(number: int) -> Series:
        steps = beyond + draw.randint(2, LONGEST)
        values = np.array([[draw.gauss(0.0, 1.0) for _ in range(columns)] for _ in range(steps)])
        label = labels[number % len(labels)] if labels else f"{draw.gauss(0.0, 1.0):.6f}"
        steady = bool(labels) or known.get("per") == "series"
        targets = [label if steady else f"{draw.gauss(0.0, 1.0):.6f}" for _ in range(steps)]
        rows = tuple(str(k) for k in range(steps))
        return Series(str(number), values, rows, tuple(targets), rows, np.arange(steps, dtype=np.float64))

    return SeriesCorpus({split: [one(k) for k in range(SERIES)] for split in SPLITS}, known)
