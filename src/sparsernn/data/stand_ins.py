"""What stands in for data that are not at hand: the same vocabularies and facts, random content of the same form.

A trained model is its user's without its corpus. To put it together again, a task asks its data for little: sizes,
vocabularies, and something to read where two models are to be compared. Nothing that is made here says anything about
how good a model is, so nothing is trained on it or scored by it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sparsernn.core.streams import draws, stream
from sparsernn.data.digit_images import CLASSES, Images
from sparsernn.data.questions import Answer, Paragraph, Question, QuestionCorpus
from sparsernn.data.tagged_sentences import PAD, Sentence, TaggedCorpus
from sparsernn.data.text_corpus import SPLITS, Corpus
from sparsernn.data.vocabulary import Vocabulary

MOST_TOKENS = 1_000_000
"""Enough for the streams of any batch that fits into memory, drawn in milliseconds."""

SENTENCES, LONGEST = 400, 12
"""Sentences, or paragraphs with questions, and tokens of the longest."""

PIXELS, PICTURES = 64, 1000


def text(info: Mapping[str, Any], vocabulary: Vocabulary) -> Corpus:
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


def sentences(info: Mapping[str, Any], words: Vocabulary, tags: Vocabulary) -> TaggedCorpus:
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


def paragraphs(info: Mapping[str, Any], words: Sequence[str]) -> QuestionCorpus:
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


def pictures(info: Mapping[str, Any]) -> Images:
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
