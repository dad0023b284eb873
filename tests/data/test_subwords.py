"""Pieces of words: learnt, read from a file, numbered in memory and into the cache, kept in a run."""

import json

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.data import CORPORA, long_text, numbered_cache, style_of
from sparsernn.data.content_split import SPLITS
from sparsernn.data.text_styles import Style
from sparsernn.numbering import crew, pieces
from sparsernn.numbering.piece_numbers import numbered
from sparsernn.tasks import LanguageModelling

pytest.importorskip("tokenizers", reason="the package tokenizers (extra: subword) is not installed")

TEXT = "".join(f"the walker walked, walking {k % 7} naïve miles — 日本\n\n" for k in range(60))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three files, and a cache of the test's own."""
    monkeypatch.setenv("SPARSERNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(crew, "cores", lambda: 0)
    place = tmp_path / "texts"
    place.mkdir()
    for split in SPLITS:
        (place / f"{split}.txt").write_text(
            TEXT if split == "train" else TEXT[:600] + "unseen ☃", encoding="utf-8"
        )
    return place


def subwords(folder, **settings):
    return CORPORA["folder"](data_dir=folder, level="subword", **settings)


def test_every_text_is_cut_and_put_together_again(folder):
    made = subwords(folder, max_vocabulary=300)
    assert 257 <= len(made.vocabulary) <= 300
    style = style_of(made.info)
    for split in SPLITS:
        text = (folder / f"{split}.txt").read_text(encoding="utf-8")
        assert style.text(made.vocabulary.decode(made.splits[split])) == text
        assert made.info["words"][split] == len(text.split()) + text.count("\n")
        assert made.info["unknown_rate"][split] == 0.0
    assert len(made.splits["train"]) < len(TEXT.encode()) / 2
    assert made.vocabulary.sha256() == subwords(folder, max_vocabulary=300).vocabulary.sha256()


@pytest.mark.parametrize("piece", [1, 50, 1 << 20])
def test_the_cache_holds_what_memory_would(folder, monkeypatch, piece):
    plain = subwords(folder, max_vocabulary=300)
    monkeypatch.setattr(long_text, "LONG", 0)
    monkeypatch.setattr(pieces, "PIECE", piece)
    for mapped in (subwords(folder, max_vocabulary=300), subwords(folder, vocabulary=plain.vocabulary)):
        assert mapped.info == plain.info
        assert mapped.vocabulary.tokens == plain.vocabulary.tokens
        assert all(mapped.splits[s].tolist() == plain.splits[s].tolist() for s in SPLITS)
    monkeypatch.setattr("sparsernn.data.subword_corpus.trained", lambda *_: pytest.fail("learnt again"))
    subwords(folder, max_vocabulary=300)
    (kept,) = (numbered_cache.numbered_folder() / "tokenizers").iterdir()
    kept.write_text("{")
    with pytest.raises(pytest.fail.Exception, match="learnt again"):
        subwords(folder, max_vocabulary=300)


def test_another_process_cuts_alike(folder):
    tokenizer = subwords(folder, max_vocabulary=300).vocabulary.tokenizer
    style = {"style": "subword", "tokenizer": tokenizer}
    (found,) = crew.numbered_in_order([TEXT.encode()], style, 1)
    assert found.tokens == numbered(TEXT.encode(), **style).tokens
    assert [found.tokens[k] for k in found.ids] == Style("subword", tokenizer=tokenizer).tokens(TEXT)


def test_a_tokenizer_of_a_file(folder, tmp_path):
    learnt = subwords(folder, max_vocabulary=290)
    path = tmp_path / "tokenizer.json"
    path.write_text(learnt.vocabulary.tokenizer, encoding="utf-8")
    read = subwords(folder, tokenizer=path)
    assert read.vocabulary.tokens == learnt.vocabulary.tokens
    assert torch.equal(read.splits["test"], learnt.splits["test"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_vocabulary": 256}, "max_vocabulary is 256; with subwords it must be at least 257"),
        ({"min_count": 2}, "min_count has no meaning for subwords"),
        ({"order": "up"}, "order has no meaning for subwords"),
        ({"tokenizer": "nowhere.json"}, "'nowhere.json' does not exist"),
        ({"tokenizer": "nowhere.json", "max_vocabulary": 300}, "has its own size; give one of them"),
        ({"level": "word", "tokenizer": "x.json"}, "only 'subword' takes one"),
    ],
)
def test_bad_settings_are_one_sentence(folder, settings, said):
    with pytest.raises(InputError, match=said):
        CORPORA["folder"](data_dir=folder, **{"level": "subword", **settings})


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"model": {}})])
def test_a_file_that_is_no_tokenizer_is_one_sentence(folder, tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InputError, match=r"is no tokenizer\.json of the package tokenizers"):
        subwords(folder, tokenizer=tmp_path / "t.json")


def test_without_the_package_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"pip install 'sparsernn\[subword\]'"):
        subwords(folder, max_vocabulary=299)


def test_scores_are_per_subword_and_per_word(folder):
    import math

    from sparsernn.models import LanguageModel

    corpus = subwords(folder, max_vocabulary=300)
    task = LanguageModelling(corpus, batch_size=2, eval_batch_size=1, window=20)
    torch.manual_seed(0)
    found = task.evaluate(LanguageModel(len(corpus.vocabulary), 4, [4]), "valid")
    per_word = len(corpus.splits["valid"]) / corpus.info["words"]["valid"]
    assert found["word_perplexity"] == pytest.approx(math.exp(found["loss"] * per_word))


def test_a_run_writes_without_its_text(folder, tmp_path):
    import shutil

    import sparsernn as sr
    from sparsernn.runs.artifacts import generate
    from sparsernn.runs.assembly import open_run, open_weights

    settings = {
        "task.corpus": {"name": "folder", "level": "subword", "max_vocabulary": 300},
        "task.batch_size": 2,
        "task.eval_batch_size": 1,
        "model.embedding_size": 8,
        "model.hidden_sizes": [8],
        "epochs": 1,
        "threads": 1,
    }
    made = sr.train("demo/dense", settings, data=folder, out=tmp_path / "run")
    home = tmp_path / "run"
    again = open_run(home)
    assert again.task.corpus.vocabulary.tokenizer
    written = generate(again, "the walker", tokens=20)
    assert written.startswith("the walker")
    shutil.rmtree(folder)
    assert generate(open_weights(home), "the walker", tokens=20) == written
    assert made.scores["word_perplexity"] > 0
