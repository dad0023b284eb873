"""Corpora of subwords: their tokenizer is an earlier run's, read from a file, or learnt from the training text."""

from collections.abc import Mapping
from pathlib import Path

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.safe_files import replacing
from sparsernn.data.long_text import Parts, is_long
from sparsernn.data.numbered_cache import digest_of, key, numbered_folder
from sparsernn.data.split_texts import parts_corpus
from sparsernn.data.subwords import SIZE, Subwords, read_subwords, text_lines, trained
from sparsernn.data.text_corpus import Corpus, VocabularyRules
from sparsernn.data.text_parts import Part, digest
from sparsernn.data.text_styles import Style
from sparsernn.data.vocabulary import Vocabulary, check_vocabulary
from sparsernn.numbering.pieces import pieces_of


def refuse_for_subwords(**given: bool) -> None:
    """Raise InputError where a setting is given that has no meaning for subwords."""
    wrong = [name for name, is_given in given.items() if is_given]
    if wrong:
        raise InputError(
            f"{wrong[0]} has no meaning for subwords; level 'subword' takes max_vocabulary or tokenizer."
        )


def subword_corpus(
    parts: Parts,
    info: Mapping[str, Json],
    size: int | None,
    tokenizer: str | Path | None,
    vocabulary: Vocabulary | None,
) -> Corpus:
    """The corpus of texts cut into subwords.

    Args:
        parts: "train", "valid", "test" -> where the text is.
        info: what the caller knows already.
        size: of the vocabulary that is learnt; None: `subwords.SIZE`.
        tokenizer: the file of one, instead.
        vocabulary: of an earlier run, instead; where it knows its tokenizer nothing else is asked.

    Raises:
        InputError: size and tokenizer at once, no tokenizer, a vocabulary that is not its; see also `parts_corpus`.
    """
    if size is not None and tokenizer is not None:
        raise InputError(
            f"max_vocabulary is {size}, but the tokenizer '{tokenizer}' has its own size; give one of them."
        )
    known = vocabulary if isinstance(vocabulary, Subwords) else _tokenizer(parts, size or SIZE, tokenizer)
    if vocabulary is not None:
        check_vocabulary(vocabulary, known)
    style = Style("subword", tokenizer=known.tokenizer)
    return parts_corpus(parts, style, {**info, "level": "subword"}, VocabularyRules(), known)


def _tokenizer(parts: Parts, size: int, tokenizer: str | Path | None) -> Subwords:
    if tokenizer is not None:
        return read_subwords(tokenizer)
    train = parts["train"]
    if not is_long(parts):
        digest(train)  # says what is wrong with a file that is no text
        return _learnt(train, size)
    place = numbered_folder() / "tokenizers" / f"{key(digest_of(train), size)}.json"
    try:
        return read_subwords(place)
    except InputError:
        made = _learnt(train, size)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as beside:
            beside.write_text(made.tokenizer, encoding="utf-8")
    except OSError:
        pass  # the text will be refused with the reason, or has been numbered already
    return made


def _learnt(train: Part, size: int) -> Subwords:
    return trained(text_lines(pieces_of(train.blocks(), "subword", False)), size)
