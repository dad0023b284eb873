"""Files in the format of SQuAD 1.1, with the splits that are published, or split by article."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Count, Entries
from sparsernn.data.content_split import SPLITS, position
from sparsernn.data.questions import Paragraph, QuestionCorpus, digest
from sparsernn.data.split_files import DATA_VARIABLE
from sparsernn.data.squad_format import Oddities, read_questions

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
    (learnt, in_train), (asked, in_dev) = (read_questions(place / name) for name in (train, dev))
    note = "valid and test are the same questions"
    splits = {"train": learnt, "valid": asked, "test": asked}
    return _corpus(splits, "squad", place / train, note, {train: in_train, dev: in_dev})


@checked
def squad_articles(
    path: str | Path | None = None,
    file: str = DEV,
    held_out: Annotated[Sequence[Count], Entries(2, 2)] = (5, 5),
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
    paragraphs, odd = read_questions(place / file)
    for paragraph in paragraphs:
        groups.setdefault(paragraph.title, []).append(paragraph)
    titles = sorted(groups, key=position)[-articles if articles else None :]
    places = _places(titles, held_out)
    splits = {split: [p for title in chosen for p in groups[title]] for split, chosen in places.items()}
    same = sum(held_out) == 0
    note = "train, valid and test are the same questions" if same else "split by article"
    counts = {"articles": {split: len(chosen) for split, chosen in places.items()}}
    note = f"{note}; not comparable with published results"
    corpus = _corpus(splits, "squad-articles", place / file, note, {file: odd})
    return QuestionCorpus(corpus.splits, corpus.info | counts)


def _places(titles: Sequence[str], held_out: Sequence[int]) -> dict[str, Sequence[str]]:
    if not any(held_out):
        return dict.fromkeys(SPLITS, titles)
    valid, test = held_out
    if not all(held_out) or valid + test >= len(titles):
        raise InputError(
            f"held_out is {list(held_out)} of {len(titles)} articles; each split needs at least one, "
            "and [0, 0] makes all three the same."
        )
    return {"train": titles[valid + test :], "valid": titles[test : valid + test], "test": titles[:test]}


def _corpus(
    splits: dict[str, list[Paragraph]], name: str, source: Path, note: str, odd: Mapping[str, Oddities]
) -> QuestionCorpus:
    known = {split: digest(paragraphs) for split, paragraphs in splits.items()}
    notes = [note, *(f"{file}: {found.sentence()}" for file, found in odd.items() if found.sentence())]
    info = {"name": name, "source": str(source), "sha256": known, "note": "; ".join(notes)}
    return QuestionCorpus(splits, info | {"oddities": {file: asdict(found) for file, found in odd.items()}})


def _folder(given: str | Path | None) -> Path:
    variable = os.environ.get(DATA_VARIABLE)
    if given is None and variable is None:
        raise InputError(
            f"SQuAD is not here: put {TRAIN} and {DEV} of https://rajpurkar.github.io/SQuAD-explorer into a folder "
            f"and give it with --data, or as squad in ${DATA_VARIABLE}."
        )
    place = Path(given if given is not None else Path(str(variable), "squad")).expanduser()
    return place / "squad" if (place / "squad").is_dir() else place
