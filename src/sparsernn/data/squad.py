"""Files in the format of SQuAD 1.1, with the splits that are published, or split by article."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsernn.core.errors import InputError
from sparsernn.data.content_split import SPLITS, position
from sparsernn.data.corpora import DATA_VARIABLE
from sparsernn.data.questions import Answer, Paragraph, Question, QuestionCorpus, digest
from sparsernn.data.text_files import decode_text, read_bytes

TRAIN, DEV = "train-v1.1.json", "dev-v1.1.json"


def squad(
    path: str | Path | None = None,
    train: str = TRAIN,
    dev: str = DEV,
    *,
    data_dir: str | Path | None = None,
) -> QuestionCorpus:
    """The Stanford Question Answering Dataset 1.1: trained on one file, validated and tested on the other.

    Nobody but its keepers has the test part, so valid and test are the same questions, as in the published results.
    Looked for in `data_dir` or `path` (the folder, or one that has it as `squad`), then in $SPARSERNN_DATA/squad.

    Args:
        path: the folder.
        train: the file that is trained on.
        dev: the one that is validated and tested on.
        data_dir: takes the place of `path`.

    Raises:
        InputError: no folder, a missing file, or one that is not in this format.

    Source: P. Rajpurkar, J. Zhang, K. Lopyrev and P. Liang, "SQuAD: 100,000+ Questions for Machine Comprehension of
    Text", 2016, arXiv:1606.05250; under CC BY-SA 4.0.
    """
    place = _folder(data_dir if data_dir is not None else path)
    learnt, asked = (read_squad(place / name) for name in (train, dev))
    note = "valid and test are the same questions"
    return _corpus({"train": learnt, "valid": asked, "test": asked}, "squad", place / train, note)


def squad_articles(
    path: str | Path | None = None,
    file: str = DEV,
    held_out: Sequence[int] = (5, 5),
    articles: int | None = None,
    *,
    data_dir: str | Path | None = None,
) -> QuestionCorpus:
    """One file in the format of SQuAD, split by article: no paragraph of a tested article was trained on.

    The sha256 of its title decides an article's place in the order; the first ones test, the next ones validate.
    Results are not to be compared with published ones.

    Args:
        path: the folder.
        file: the file in it.
        held_out: how many articles are validated on and tested on; [0, 0]: all three splits are the same articles
            (to see whether a model can learn them by heart), and the note says so.
        articles: only so many of the articles, the last ones in the order; None: all.
        data_dir: takes the place of `path`.

    Raises:
        InputError: as in `squad`, or not enough articles.
    """
    place = _folder(data_dir if data_dir is not None else path)
    groups: dict[str, list[Paragraph]] = {}
    for paragraph in read_squad(place / file):
        groups.setdefault(paragraph.title, []).append(paragraph)
    titles = sorted(groups, key=position)[-articles if articles else None :]
    places = _places(titles, held_out)
    splits = {split: [p for title in chosen for p in groups[title]] for split, chosen in places.items()}
    same = sum(held_out) == 0
    note = "train, valid and test are the same questions" if same else "split by article"
    counts = {"articles": {split: len(chosen) for split, chosen in places.items()}}
    corpus = _corpus(splits, "squad-articles", place / file, f"{note}; not comparable with published results")
    return QuestionCorpus(corpus.splits, corpus.info | counts)


def read_squad(path: str | Path) -> list[Paragraph]:
    """The paragraphs of a file, in its order, white space around questions and answers removed.

    An answer that does not stand where the file says is kept as a right answer without a place.

    Raises:
        InputError: missing, no JSON, or not in the format of SQuAD 1.1; the sentence says what is missing where.
    """
    text = decode_text(read_bytes(path), path)
    try:
        data = json.loads(text)["data"]
        found = [_paragraph(article["title"], p) for article in data for p in article["paragraphs"]]
    except json.JSONDecodeError as error:
        raise InputError(f"'{path}' is not JSON ({error}).") from None
    except (KeyError, TypeError, AttributeError) as error:
        what = f"the key {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"'{path}' is not in the format of SQuAD 1.1 (at fault: {what}).") from None
    if not any(paragraph.questions for paragraph in found):
        raise InputError(f"'{path}' has no question with an answer; SQuAD 1.1 has at least one for each.")
    return found


def _paragraph(title: str, entry: Any) -> Paragraph:
    text = entry["context"]
    questions = (
        Question(q["id"], q["question"].strip(), tuple(_answer(a, text) for a in q["answers"]))
        for q in entry["qas"]
    )
    return Paragraph(title, text, tuple(question for question in questions if question.answers))


def _answer(entry: Any, text: str) -> Answer:
    given, start = entry["text"], entry["answer_start"]
    stripped = given.strip()
    start += len(given) - len(given.lstrip())
    return Answer(start if text[start : start + len(stripped)] == stripped else -1, stripped)


def _places(titles: Sequence[str], held_out: Sequence[int]) -> dict[str, Sequence[str]]:
    if len(held_out) != 2 or not all(type(n) is int and n >= 0 for n in held_out):
        raise InputError(f"held_out is {held_out!r}; it must be two whole numbers, such as [5, 5].")
    if not any(held_out):
        return dict.fromkeys(SPLITS, titles)
    valid, test = held_out
    if not all(held_out) or valid + test >= len(titles):
        raise InputError(
            f"held_out is {list(held_out)} of {len(titles)} articles; each split needs at least one, "
            "and [0, 0] makes all three the same."
        )
    return {"train": titles[valid + test :], "valid": titles[test : valid + test], "test": titles[:test]}


def _corpus(splits: dict[str, list[Paragraph]], name: str, source: Path, note: str) -> QuestionCorpus:
    known = {split: digest(paragraphs) for split, paragraphs in splits.items()}
    info = {"name": name, "source": str(source), "sha256": known, "note": note}
    return QuestionCorpus(splits, info)


def _folder(given: str | Path | None) -> Path:
    variable = os.environ.get(DATA_VARIABLE)
    if given is None and variable is None:
        raise InputError(
            f"SQuAD is not here: put {TRAIN} and {DEV} of https://rajpurkar.github.io/SQuAD-explorer into a folder "
            f"and give it with --data, or as squad in ${DATA_VARIABLE}."
        )
    place = Path(given if given is not None else Path(str(variable), "squad")).expanduser()
    return place / "squad" if (place / "squad").is_dir() else place
