"""Folders and files of a user: names, vocabularies, notes, and every way in which files can be wrong."""

import json
from pathlib import Path

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.core.registry import make
from sparsernn.data import CORPORA, Vocabulary
from sparsernn.data.content_split import SPLITS
from sparsernn.data.text_files import sha256

TEXTS = {"train": "the cat sat\nthe cat ran\nrare\n", "valid": "the dog sat\n", "test": "the cat\n"}
PATTERNS = ("{}.txt", "ptb.{}.txt", "wiki.{}.tokens", "wiki.{}.raw")


def write(folder: Path, texts=TEXTS, pattern="{}.txt") -> Path:
    folder.mkdir(exist_ok=True)
    for split, text in texts.items():
        (folder / pattern.format(split)).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.mark.parametrize("pattern", PATTERNS)
def test_file_names_of_a_folder(tmp_path, pattern):
    corpus = CORPORA["folder"](write(tmp_path / "corpus", pattern=pattern))
    assert corpus.info["files"]["valid"] == pattern.format("valid")
    assert corpus.info["tokens"] == {"train": 10, "valid": 4, "test": 3}


@pytest.mark.parametrize("name", ["val", "validation", "dev"])
def test_other_names_of_the_validation_file(tmp_path, name):
    texts = {"train": TEXTS["train"], name: TEXTS["valid"], "test": TEXTS["test"]}
    assert CORPORA["folder"](write(tmp_path / "corpus", texts)).info["tokens"]["valid"] == 4


def test_a_users_vocabulary_comes_from_the_training_split(tmp_path):
    corpus = CORPORA["folder"](write(tmp_path / "corpus"), min_count=1)
    assert corpus.vocabulary.tokens == ("the", "cat", "sat", "<eos>", "ran", "rare", "<unk>")
    assert corpus.vocabulary.decode(corpus.splits["valid"]) == ["the", "<unk>", "sat", "<eos>"]
    assert corpus.info["unknown_rate"] == {"train": 0.0, "valid": 0.25, "test": 0.0}


def test_rare_words_become_unknown_by_default(tmp_path):
    corpus = CORPORA["folder"](write(tmp_path / "corpus"))
    assert corpus.vocabulary.tokens == ("the", "cat", "<eos>", "<unk>")
    assert corpus.info["unknown_rate"]["train"] == pytest.approx(0.3)


def test_the_vocabulary_of_a_benchmark_comes_from_all_splits(tmp_path):
    corpus = CORPORA["folder"](write(tmp_path / "corpus"), vocabulary_from="all")
    assert corpus.vocabulary.tokens == ("the", "cat", "sat", "<eos>", "ran", "rare", "dog")


def test_a_limit_on_the_vocabulary(tmp_path):
    corpus = CORPORA["folder"](write(tmp_path / "corpus"), max_vocabulary=3, min_count=1)
    assert corpus.vocabulary.tokens == ("the", "<eos>", "<unk>")


def test_a_given_vocabulary_is_used(tmp_path):
    vocabulary = Vocabulary(["<eos>", "sat", "<unk>"])
    corpus = CORPORA["folder"](write(tmp_path / "corpus"), vocabulary=vocabulary)
    assert corpus.vocabulary is vocabulary
    assert corpus.splits["test"].tolist() == [2, 2, 0]
    with pytest.raises(InputError, match="token 'the' is not among"):
        CORPORA["folder"](tmp_path / "corpus", vocabulary=Vocabulary(["<eos>"]))


def test_words_are_numbered_by_their_count_in_the_training_split(tmp_path):
    place = write(tmp_path / "corpus")
    settings = {"vocabulary_from": "all", "order": "up"}
    corpus = CORPORA["folder"](place, **settings)
    assert corpus.vocabulary.tokens == ("dog", "sat", "ran", "rare", "the", "cat", "<eos>")
    counts = torch.bincount(corpus.splits["train"], minlength=7)
    assert counts.tolist() == [0, 1, 1, 1, 2, 2, 3]
    assert corpus.info["order"] == "up"
    down = CORPORA["folder"](place, **settings | {"order": "down"})
    assert down.vocabulary.tokens == ("<eos>", "the", "cat", "sat", "ran", "rare", "dog")
    again = CORPORA["folder"](place, **settings, vocabulary=down.vocabulary)
    assert again.vocabulary is down.vocabulary


def test_one_file_and_embedded_text_can_be_ordered_too(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(f"the old cat saw the number {k}" for k in range(30)))
    for corpus in (CORPORA["file"](tmp_path / "text.txt", order="up"), CORPORA["embedded"](order="up")):
        counts = torch.bincount(corpus.splits["train"], minlength=len(corpus.vocabulary))
        assert bool((counts.diff() >= 0).all())
        assert counts[-1] > counts[0]


@pytest.mark.parametrize(("level", "kind"), [("word", "word"), ("prose", "word"), ("char", "char")])
def test_facts_are_plain_data(tmp_path, level, kind):
    corpus = CORPORA["folder"](write(tmp_path / "corpus"), level=level)
    assert json.loads(json.dumps(corpus.info)) == corpus.info
    assert corpus.level == kind
    assert corpus.info["sha256"] == {split: sha256(TEXTS[split]) for split in SPLITS}
    assert corpus.info["vocabulary"] == len(corpus.vocabulary)
    assert all(ids.dtype == torch.int64 and ids.ndim == 1 for ids in corpus.splits.values())


def test_characters_are_lossless(tmp_path):
    corpus = CORPORA["folder"](write(tmp_path / "corpus"), level="char", min_count=1)
    assert "".join(corpus.vocabulary.decode(corpus.splits["train"])) == TEXTS["train"]


def test_splits_can_be_read_from_other_files_and_the_note_says_so(tmp_path):
    place = write(tmp_path / "corpus", {"valid": TEXTS["valid"], "test": TEXTS["test"]})
    with pytest.raises(InputError, match="has no train file"):
        CORPORA["folder"](place)
    corpus = CORPORA["folder"](place, splits={"train": "valid", "valid": "test"}, min_count=1)
    assert corpus.info["tokens"] == {"train": 4, "valid": 3, "test": 3}
    note = corpus.info["note"]
    assert "train is read from the valid file" in note
    assert "valid and test are the same text" in note
    assert "train and" not in note
    assert "not comparable" in note


@pytest.mark.parametrize("splits", [{"train": "dev"}, {"training": "train"}])
def test_wrong_splits_are_refused(tmp_path, splits):
    with pytest.raises(InputError, match=r"^splits.* train, valid, test"):
        CORPORA["folder"](write(tmp_path / "corpus"), splits=splits)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n \n", "is empty"),
        (b"caf\xe9 au lait", "is not UTF-8 text (byte 0xe9 at offset 3, line 1)"),
        (b"\x89PNG\r\n\x00\x01", "zero byte at offset 6"),
    ],
)
def test_unreadable_files_are_one_sentence(tmp_path, content, words):
    place = write(tmp_path / "corpus", TEXTS | {"valid": content})
    with pytest.raises(InputError) as caught:
        CORPORA["folder"](place)
    assert words in str(caught.value)
    assert "valid.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_line_ends_and_byte_order_marks_of_other_systems(tmp_path):
    windows = {split: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() for split, text in TEXTS.items()}
    ours = CORPORA["folder"](write(tmp_path / "ours"), level="char")
    theirs = CORPORA["folder"](write(tmp_path / "theirs", windows), level="char")
    assert ours.vocabulary == theirs.vocabulary
    assert torch.equal(ours.splits["train"], theirs.splits["train"])


@pytest.mark.parametrize("name", ["folder", "file"])
def test_a_missing_place_is_named(tmp_path, name):
    with pytest.raises(InputError, match="has no path"):
        CORPORA[name]()
    with pytest.raises(InputError, match="nowhere"):
        CORPORA[name](tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("folder", {"level": "line"}, "one of word, prose, char"),
        ("folder", {"vocabulary_from": "valid"}, "train or all"),
        ("folder", {"max_vocabulary": 1}, "at least 3"),
        ("folder", {"order": "rare"}, "order is 'rare'; it must be one of first, up, down, random"),
        ("file", {"unit": "page"}, "one of auto, paragraph, line, contiguous"),
        ("embedded", {"variant": "manual"}, "topics, docstrings, both"),
        ("embedded", {"level": "prose"}, "word or char"),
        ("ptb", {"level": "prose"}, "word or char"),
    ],
)
def test_bad_settings_say_what_is_allowed(tmp_path, name, settings, words):
    place = {
        "folder": {"path": write(tmp_path / "corpus")},
        "file": {"path": tmp_path / "corpus" / "train.txt"},
    }
    write(tmp_path / "corpus")
    with pytest.raises(InputError, match=words):
        CORPORA[name](**place.get(name, {}), **settings)


def test_corpora_are_made_by_name_and_typos_are_answered(tmp_path):
    place = write(tmp_path / "corpus")
    spec = {"name": "folder", "path": str(place), "level": "char"}
    assert make("corpus", CORPORA, spec, data_dir=None, vocabulary=None).level == "char"
    with pytest.raises(InputError, match="max_vocabulary"):
        make("corpus", CORPORA, spec | {"max_vocab": 5}, data_dir=None, vocabulary=None)


def book(count=400):
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    spell = lambda number: " ".join(words[int(digit)] for digit in str(number))  # noqa: E731
    return [f"Chapter {spell(i)}, in which\nnothing happens." for i in range(count)]


def test_one_file_is_split_without_leak(tmp_path):
    path = tmp_path / "book.txt"
    paragraphs = book()
    path.write_text("\n\n".join(paragraphs + paragraphs[:100]), encoding="utf-8")
    corpus = CORPORA["file"](path, min_count=1)
    assert corpus.info["duplicates_removed"] == 100
    assert corpus.info["unit"] == "paragraph"
    parts = paragraphs_by_split(path)
    assert sum(len(part) for part in parts.values()) == 400
    assert not parts["train"] & parts["valid"]
    assert not parts["train"] & parts["test"]
    assert not parts["valid"] & parts["test"]


def paragraphs_by_split(path):
    corpus = CORPORA["file"](path, level="char", min_count=1)
    text = {split: "".join(corpus.vocabulary.decode(ids)) for split, ids in corpus.splits.items()}
    return {split: set(text[split].strip("\n").split("\n\n")) for split in SPLITS}


def test_prose_that_differs_only_in_case_or_numbers_does_not_leak(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(book(60) + [p.upper() for p in book(60)]), encoding="utf-8")
    assert CORPORA["file"](path, level="prose").info["duplicates_removed"] == 60
    assert CORPORA["file"](path, lowercase=True).info["duplicates_removed"] == 60
    assert CORPORA["file"](path).info["duplicates_removed"] == 0


def test_a_data_folder_takes_the_place_of_the_path(tmp_path):
    (tmp_path / "book.txt").write_text("\n".join(book(50)), encoding="utf-8")
    by_folder = CORPORA["file"]("elsewhere/book.txt", data_dir=tmp_path)
    by_file = CORPORA["file"]("elsewhere/book.txt", data_dir=tmp_path / "book.txt")
    assert by_folder.info == by_file.info
    assert CORPORA["folder"]("elsewhere", data_dir=write(tmp_path / "corpus")).info["tokens"]["test"] == 3


def test_a_tiny_file_works_and_two_lines_do_not(tmp_path):
    path = tmp_path / "tiny.txt"
    path.write_text("one\ntwo\nthree\n", encoding="utf-8")
    assert CORPORA["file"](path).info["tokens"] == {"train": 2, "valid": 2, "test": 2}
    path.write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(InputError, match="at least 3"):
        CORPORA["file"](path)
