"""What every corpus of the registries keeps to; one that is added is tested here and listed by itself."""

import inspect
import json
import math
import struct

import pytest
import torch

from sparsernn import catalogue
from sparsernn.core.registry import make
from sparsernn.data import CORPORA
from sparsernn.data.content_split import SPLITS
from sparsernn.data.corpus_list import COMES_ALONG, COMES_WITH, FILES_OF, NOT_HERE, READ_AS, listed
from sparsernn.data.digit_images import IMAGES, Images
from sparsernn.data.download import DATASETS
from sparsernn.data.questions import QuestionCorpus
from sparsernn.data.series_corpus import SeriesCorpus
from sparsernn.data.tagged_sentences import TaggedCorpus
from sparsernn.data.text_corpus import Corpus
from sparsernn.numbering import crew

FEW = {
    "file": {"path": "train.txt"},
    "python-questions": {"paragraphs": 40},
    "python-roles": {"sentences": 200},
    "squad-articles": {"held_out": [2, 2]},
    "table": {"target": "kind", "group": "id"},
}
"""Settings that make a corpus small, or that name a file of the folder; a new one needs none of its own."""


def write_files(folder):
    """A folder that has files in every format that a corpus reads: a new format is one more line here."""
    for split, upto in zip(SPLITS, (60, 70, 80), strict=True):
        rows = [(f"word{k % 7}", ("NOUN", "VERB")[k % 2]) for k in range(upto)]
        (folder / f"{split}.txt").write_text("".join(f"the cat sees number {k % 9}\n\n" for k in range(upto)))
        (folder / f"{split}.conll").write_text("".join(f"{word}\t{tag}\n\n" for word, tag in rows))
        steps = "".join(f"{k // 3},{k % 3},{k},{'ab'[k // 3 % 2]}\n" for k in range(30))
        (folder / f"{split}.csv").write_text("id,x,y,kind\n" + steps)
        lines = (f"1\t{word}\t_\t{tag}\t{tag}\t_\t0\t_\t_\t_\n\n" for word, tag in rows)
        (folder / f"en_ewt-ud-{split}.conllu").write_text("".join(lines))
    for part in ("TRAIN", "TEST"):
        spoken = "".join(f"{k},{k + 1},2:1,{k % 3},0:{k % 3}\n" for k in range(9))
        (folder / f"JapaneseVowels_{part}.ts").write_text(f"@problemName JapaneseVowels\n@data\n{spoken}")
    articles = [
        {"title": f"t{k}", "paragraphs": [{"context": f"{k} dogs bark.", "qas": [asked(k)]}]}
        for k in range(8)
    ]
    for part in ("train", "dev"):
        (folder / f"{part}-v1.1.json").write_text(json.dumps({"data": articles, "version": "1.1"}))
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        write_idx(folder / f"{part}-images-idx3-ubyte", (count, 2, 2))
        write_idx(folder / f"{part}-labels-idx1-ubyte", (count,))
    table = torch.randint(10, (50, 65), generator=torch.Generator().manual_seed(0)).tolist()
    (folder / "enwik8").write_bytes(b"<page> bytes </page>" * 20)
    (folder / "digits.csv").write_text("\n".join(",".join(map(str, row)) for row in table))


def asked(number):
    answers = [{"text": str(number), "answer_start": 0}]
    return {"id": str(number), "question": "How many?", "answers": answers}


def write_idx(path, shape):
    numbers = torch.arange(math.prod(shape)) % 10
    head = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    path.write_bytes(head + bytes(numbers.to(torch.uint8).tolist()))


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSERNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(crew, "cores", lambda: 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files in every format."""
    place = tmp_path_factory.mktemp("corpora")
    write_files(place)
    return place


def build(name, folder, vocabulary=None):
    """A corpus of the registries, small."""
    kind, registry = ("corpus", CORPORA) if name in CORPORA else ("images", IMAGES)
    context = {"data_dir": folder, "vocabulary": vocabulary}
    return make(kind, registry, {"name": name, **FEW.get(name, {})}, **context)


def assert_contract(name, folder):
    """What tasks, run folders and resumed runs rely on."""
    corpus, again = build(name, folder), build(name, folder)
    assert json.loads(json.dumps(corpus.info)) == corpus.info, "its facts are plain data"
    assert corpus.info["name"].split("/")[0] == name
    assert corpus.info["source"]
    assert set(corpus.info["sha256"]) == set(SPLITS), "by which a resumed run knows its data again"
    assert corpus.info == again.info, "the same files are the same corpus"
    CHECKS[type(corpus)](corpus, again)
    if isinstance(corpus, Corpus):
        kept = build(name, folder, vocabulary=corpus.vocabulary)
        assert kept.vocabulary == corpus.vocabulary
        assert all(torch.equal(kept.splits[s].long(), corpus.splits[s].long()) for s in SPLITS)


def check_text(corpus, again):
    assert corpus.level in ("word", "char")
    for split in SPLITS:
        assert corpus.splits[split].dtype in (torch.int64, torch.uint16, torch.uint32)
        assert corpus.splits[split].dim() == 1
        ids = corpus.splits[split].long()
        assert len(ids) == corpus.info["tokens"][split] > 0
        assert 0 <= int(ids.min()) <= int(ids.max()) < len(corpus.vocabulary)
        assert torch.equal(ids, again.splits[split].long())


def check_tags(corpus, again):
    assert corpus.splits == again.splits
    for split in SPLITS:
        assert corpus.splits[split]
        assert all(len(words) == len(tags) > 0 for words, tags in corpus.splits[split])


def check_questions(corpus, again):
    assert corpus.splits == again.splits
    for split in SPLITS:
        assert corpus.splits[split]
        for paragraph in corpus.splits[split]:
            for answer in (a for question in paragraph.questions for a in question.answers):
                assert paragraph.text[answer.start :].startswith(answer.text)


def check_series(corpus, again):
    for split in SPLITS:
        ours, theirs = corpus.splits[split], again.splits[split]
        assert len(ours) == len(theirs) == corpus.info["series"][split] > 0
        for one, other in zip(ours, theirs, strict=True):
            assert one.name == other.name
            assert one.values.shape == (len(one), len(corpus.info["read"]["columns"]))
            assert len(one.times) == len(one.targets) == len(one.places) == len(one.order) == len(one)
            assert (one.values == other.values).all()
    names = [{one.name for one in corpus.splits[split]} for split in ("train", "valid")]
    assert corpus.info["name"] == "table" or not names[0] & names[1]


def check_pictures(images, again):
    assert set(images.pixels) == set(images.labels) == set(SPLITS)
    for split in SPLITS:
        pixels, labels = images.pixels[split], images.labels[split]
        assert pixels.dtype == torch.uint8
        assert labels.shape == pixels.shape[:1] != (0,)
        assert int(pixels.max()) <= images.brightest
        assert torch.equal(pixels, again.pixels[split])
        assert torch.equal(labels, again.labels[split])


CHECKS = {
    Corpus: check_text,
    TaggedCorpus: check_tags,
    QuestionCorpus: check_questions,
    Images: check_pictures,
    SeriesCorpus: check_series,
}


@pytest.mark.parametrize("name", [*CORPORA, *IMAGES])
def test_a_corpus_keeps_to_its_contract(name, folder):
    assert_contract(name, folder)


@pytest.mark.parametrize("name", [*CORPORA, *IMAGES])
def test_a_corpus_says_what_it_is(name):
    (row,) = [row for row in listed() if row.name == name]
    assert row.read_as in READ_AS.values()
    assert row.about
    assert "\n" not in row.about


def squares(upto: int = 30, *, vocabulary=None) -> Corpus:
    """The squares, digit by digit. Made for this test."""
    from sparsernn.data.text_corpus import build_corpus
    from sparsernn.data.text_styles import Style

    text = "".join(f"{n * n}\n" for n in range(upto))
    info = {"name": "squares", "level": "char", "source": "arithmetic", "sha256": dict.fromkeys(SPLITS, "0")}
    return build_corpus(dict.fromkeys(SPLITS, text), Style("characters"), info, vocabulary=vocabulary)


def test_a_registered_corpus_is_listed_and_tested(monkeypatch, capsys, folder):
    from sparsernn.cli.data import list_corpora

    monkeypatch.setitem(CORPORA, "squares", squares)
    list_corpora()
    out = " ".join(capsys.readouterr().out.split())
    assert f"squares text {COMES_ALONG} The squares, digit by digit" in out
    assert all(f" {name} " in out for name in (*CORPORA, *IMAGES))
    assert "| `squares` | text | The squares, digit by digit | `upto` |" in catalogue.corpora()
    assert_contract("squares", folder)


@pytest.mark.parametrize("fault", ["another name", "not plain", "ids beyond the vocabulary"])
def test_a_corpus_that_breaks_the_contract_is_found(monkeypatch, folder, fault):
    def broken(*, vocabulary=None) -> Corpus:
        """Not as it should be."""
        made = squares(vocabulary=vocabulary)
        if fault == "another name":
            made.info["name"] = "cubes"
        elif fault == "not plain":
            made.info["sha256"] = set(SPLITS)
        else:
            made.splits["test"][3] = len(made.vocabulary)
        return made

    monkeypatch.setitem(CORPORA, "squares", broken)
    with pytest.raises((AssertionError, TypeError)):
        assert_contract("squares", folder)


def test_places_are_those_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSERNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SPARSERNN_DATA", str(tmp_path))
    places = {row.name: row.place for row in listed()}
    assert {places[name] for name in ("ptb", "wikitext-2", "mnist", "mnist-10k")} == {NOT_HERE}
    assert {places[name] for name in ("embedded", "python-roles", "python-questions")} == {COMES_ALONG}
    assert {places[name] for name in ("folder", "file", "squad", "ud-ewt")} == {"--data PLACE"}
    for name in ("squad", "ud-ewt", "digits"):
        (tmp_path / name).mkdir()
    places = {row.name: row.place for row in listed()}
    assert places["squad"] == places["squad-articles"] == str(tmp_path / "squad")
    assert places["ud-ewt"] == str(tmp_path / "ud-ewt")
    assert places["digits"] == str(tmp_path / "digits")


def test_tables_beside_the_registries_name_what_is_in_them():
    known = {**CORPORA, **IMAGES}
    assert FILES_OF.keys() | COMES_WITH.keys() <= known.keys()
    assert set(FILES_OF.values()) | DATASETS.keys() <= known.keys()


def test_the_command_that_downloads_names_what_can_be_downloaded():
    from sparsernn.cli.data import get

    said = inspect.signature(get).parameters["name"].annotation.__metadata__[0].help
    assert all(name in said for name in DATASETS)
