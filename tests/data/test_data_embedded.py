"""Embedded text: there on every machine, no leak, and the same text gives the same corpus."""

import json
import platform

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.data import CORPORA, streams, style_of
from sparsernn.data.embedded_text import VARIANTS, docstrings, topics
from sparsernn.data.text_files import sha256


@pytest.fixture(scope="module")
def corpus():
    return CORPORA["embedded"]("topics")


def parts(corpus):
    """The paragraphs of each split, as sets of tuples of ids."""
    eos = corpus.vocabulary.index["<eos>"]
    found = {}
    for split, ids in corpus.splits.items():
        pieces = torch.tensor_split(ids, ((ids == eos).nonzero().flatten() + 1).tolist())
        found[split] = {tuple(piece.tolist()) for piece in pieces if len(piece)}
    return found


def test_topics_are_large_enough_to_learn_from(corpus):
    assert len(topics()) > 300_000
    assert corpus.info["tokens"]["train"] > 40_000
    assert 1_000 < len(corpus.vocabulary) <= 10_000
    for split in ("train", "valid", "test"):
        assert len(streams(corpus.splits[split], 20, split)) > 35
    assert max(corpus.info["unknown_rate"].values()) < 0.1


def test_facts_name_the_text(corpus):
    info = corpus.info
    assert info["python"] == platform.python_version()
    assert info["text_sha256"] == sha256(topics())
    assert info["duplicates_removed"] > 100
    assert json.loads(json.dumps(info)) == info


def test_no_paragraph_is_in_two_splits():
    found = parts(CORPORA["embedded"]("topics", max_vocabulary=None, min_count=1))
    # With every training word kept, the training split has no <unk>: equal ids are equal text.
    assert not found["train"] & found["valid"]
    assert not found["train"] & found["test"]


def test_the_same_text_gives_the_same_corpus(corpus):
    again = CORPORA["embedded"]("topics")
    assert again.info == corpus.info
    assert all(torch.equal(again.splits[split], ids) for split, ids in corpus.splits.items())


def test_settings(corpus):
    small = CORPORA["embedded"]("topics", max_vocabulary=500)
    assert len(small.vocabulary) == 500
    assert small.info["unknown_rate"]["train"] > corpus.info["unknown_rate"]["train"]
    assert any(token.isupper() for token in CORPORA["embedded"]("topics", lowercase=False).vocabulary.tokens)
    letters = CORPORA["embedded"]("topics", level="char")
    assert letters.level == "char"
    assert 50 < len(letters.vocabulary) < 300
    text = style_of(letters.info).text(letters.vocabulary.decode(letters.splits["valid"]))
    assert text.count("\n\n") > 50


def test_a_sample_reads_like_the_text(corpus):
    ids = corpus.splits["test"][:200]
    assert style_of(corpus.info).text(corpus.vocabulary.decode(ids)).strip()


def test_docstrings_are_read_without_importing(tmp_path):
    (tmp_path / "a.py").write_text('"""Module.\n\n  More."""\nraise SystemExit\n')
    (tmp_path / "b.py").write_text('class C:\n    "Class."\n    async def f(self):\n        "Method."\n')
    (tmp_path / "broken.py").write_text('"""Lost.""" def\n')
    (tmp_path / "latin.py").write_bytes(b'# coding: latin-1\n"""caf\xe9"""\n')
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "t.py").write_text('"""Left out."""')
    assert docstrings(tmp_path) == "Module.\n\nMore.\n\nClass.\n\nMethod.\n\ncafé"


def test_a_python_without_sources_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="take the corpus variant 'topics'"):
        docstrings(tmp_path)


@pytest.mark.slow
def test_docstrings_of_the_standard_library():
    corpus = CORPORA["embedded"]("docstrings")
    assert corpus.info["tokens"]["train"] > 150_000
    found = parts(CORPORA["embedded"]("both", max_vocabulary=None, min_count=1))
    assert not found["train"] & found["valid"]
    assert not found["train"] & found["test"]


def test_every_variant_is_registered():
    assert list(VARIANTS) == ["topics", "docstrings", "both"]
