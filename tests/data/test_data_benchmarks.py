"""PTB and WikiText-2: published counts (where the files are at hand), search order, and downloading.

Nothing here uses the network: the one function that does is replaced.
"""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest
import requests

from sparsernn.core.errors import InputError
from sparsernn.data import CORPORA, download, streams, window_bounds
from sparsernn.data.download import DATASETS, Remote, cache_folder, fetch, status

TEXTS = {"train": "a b\nb a\n", "valid": "a\n", "test": "b c\n"}


def needed(*names: str) -> Path:
    """The data folder, or skip and say which file is missing."""
    place = os.environ.get("SPARSERNN_DATA")
    if not place:
        pytest.skip(f"SPARSERNN_DATA is not set, so {names[0]} is missing")
    for name in names:
        if not Path(place, name).is_file():
            pytest.skip(f"{Path(place, name)} is missing")
    return Path(place)


PTB_FILES = ("ptb/train.txt", "ptb/valid.txt", "ptb/test.txt")


def test_penn_treebank_words():
    needed(*PTB_FILES)
    corpus = CORPORA["ptb"]()
    assert corpus.info["tokens"] == {"train": 929_589, "valid": 73_760, "test": 82_430}
    assert len(corpus.vocabulary) == 10_000
    assert corpus.vocabulary.index["<eos>"] == 24
    assert corpus.vocabulary.unknown == 26
    assert corpus.info["sha256"]["train"].startswith("fcea919f6cf83f35")
    assert corpus.info["note"] == ""
    stream = streams(corpus.splits["train"], 20)
    assert stream.shape == (46_479, 20)
    assert len(window_bounds(len(stream), 35)) == 1328


def test_penn_treebank_characters():
    needed(*PTB_FILES)
    corpus = CORPORA["ptb"](level="char")
    assert corpus.info["tokens"] == {"train": 5_017_482, "valid": 393_042, "test": 442_423}
    assert sorted(set(corpus.vocabulary.tokens) - {"<eos>"}) == sorted(
        "#$&'*-./0123456789<>N\\_abcdefghijklmnopqrstuvwxyz"
    )
    assert corpus.vocabulary.tokens[:4] == ("a", "e", "r", "_")
    assert len(corpus.splits["train"]) // 128 == 39_199


def test_the_penn_treebank_as_a_plain_folder_is_the_same():
    place = needed(*PTB_FILES)
    by_folder = CORPORA["folder"](place / "ptb", vocabulary_from="all")
    assert by_folder.info["vocabulary_sha256"] == CORPORA["ptb"]().info["vocabulary_sha256"]


def test_wikitext_2():
    place = needed("wikitext-2/valid.txt", "wikitext-2/test.txt")
    corpus = CORPORA["wikitext-2"](splits={"train": "valid", "valid": "test"})
    assert corpus.info["tokens"] == {"train": 217_646, "valid": 245_569, "test": 245_569}
    assert "standard" not in corpus.info["note"]
    if (place / "wikitext-2" / "train.txt").is_file():
        corpus = CORPORA["wikitext-2"]()
        assert corpus.info["tokens"]["train"] == 2_088_628
        assert len(corpus.vocabulary) == 33_278
    else:
        with pytest.raises(InputError, match="has no train file"):
            CORPORA["wikitext-2"]()


def test_hashes_of_the_files_at_hand():
    place = needed(*PTB_FILES)
    for name in DATASETS:
        assert "different" not in status(name, place / name).values()


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A dataset "ptb" of three tiny files, an empty cache, and a record of what was downloaded."""
    monkeypatch.delenv("SPARSERNN_DATA", raising=False)
    monkeypatch.setenv("SPARSERNN_CACHE", str(tmp_path / "cache"))
    remotes = tuple(
        Remote(
            f"{split}.txt",
            "md5:" + hashlib.md5(text.encode()).hexdigest(),
            ("https://one/x", f"https://two/{split}"),
        )
        for split, text in TEXTS.items()
    )
    monkeypatch.setitem(DATASETS, "ptb", remotes)
    served: dict[str, object] = {}
    asked: list[str] = []

    def http(url, target):
        asked.append(url)
        answer = served.get(url, requests.exceptions.ConnectionError("long story"))
        if isinstance(answer, Exception):
            raise answer
        Path(target).write_bytes(answer)

    monkeypatch.setattr(download, "_http", http)
    return served, asked


def write(folder, texts=TEXTS):
    folder.mkdir(parents=True)
    for split, text in texts.items():
        (folder / f"{split}.txt").write_bytes(text.encode())
    return folder


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSERNN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("SPARSERNN_CACHE")
    assert "sparsernn" in str(cache_folder())


def test_without_network_one_sentence_names_file_and_folder(toy, tmp_path):
    with pytest.raises(InputError) as caught:
        CORPORA["ptb"]()
    message = str(caught.value)
    assert "train.txt could not be had (one: no connection; two: no connection)" in message
    assert str(tmp_path / "cache" / "ptb") in message
    assert "\n" not in message
    assert list((tmp_path / "cache" / "ptb").iterdir()) == []


def test_the_second_server_helps_and_the_cache_is_used_afterwards(toy):
    served, asked = toy
    served |= {f"https://two/{split}": text.encode() for split, text in TEXTS.items()}
    assert status("ptb") == dict.fromkeys(("train.txt", "valid.txt", "test.txt"), "missing")
    corpus = CORPORA["ptb"]()
    assert corpus.info["tokens"] == {"train": 6, "valid": 2, "test": 3}
    assert set(status("ptb").values()) == {"standard"}
    count = len(asked)
    CORPORA["ptb"]()
    assert len(asked) == count


def test_a_wrong_file_is_removed(toy):
    served, _ = toy
    served |= {"https://one/x": b"<html>sign in</html>"}
    with pytest.raises(InputError, match="its hash differs"):
        fetch("ptb")
    assert list((cache_folder() / "ptb").iterdir()) == []


def test_a_damaged_file_in_the_cache_is_had_again(toy):
    served, asked = toy
    place = write(cache_folder() / "ptb", TEXTS | {"valid": "tr"})
    assert status("ptb")["valid.txt"] == "different"
    with pytest.raises(InputError, match="the one in the cache is not the standard file"):
        fetch("ptb")
    served["https://two/valid"] = TEXTS["valid"].encode()
    fetch("ptb")
    assert (place / "valid.txt").read_text() == TEXTS["valid"]
    assert set(asked) == {"https://one/x", "https://two/valid"}


def test_a_file_inside_an_archive(toy, monkeypatch, tmp_path):
    served, _ = toy
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("inside/wiki.test.tokens", TEXTS["test"])
    served["https://three/a.zip"] = (tmp_path / "a.zip").read_bytes()
    digest = DATASETS["ptb"][2].digest
    remote = Remote("test.txt", digest, ("https://three/a.zip#inside/wiki.test.tokens",))
    monkeypatch.setitem(DATASETS, "ptb", (remote,))
    assert (fetch("ptb") / "test.txt").read_text() == TEXTS["test"]


def test_the_answer_of_a_server_is_reported(toy):
    served, _ = toy
    answer = requests.Response()
    answer.status_code = 404
    served["https://one/x"] = requests.HTTPError("404 ...", response=answer)
    served["https://two/train"] = requests.exceptions.ReadTimeout("...")
    with pytest.raises(InputError, match="one: the server answers 404; two: no answer in time"):
        fetch("ptb")


def test_a_cache_that_cannot_be_written_is_one_sentence(toy, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPARSERNN_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"train\.txt could not be had"):
        fetch("ptb")


def test_where_the_files_are_looked_for(toy, monkeypatch, tmp_path):
    _, asked = toy
    given = write(tmp_path / "given" / "ptb")
    for data_dir in (given, given.parent):
        assert CORPORA["ptb"](data_dir=data_dir).info["source"] == str(given)
    assert CORPORA["ptb"](path=given).info["source"] == str(given)
    environment = write(tmp_path / "environment" / "ptb")
    monkeypatch.setenv("SPARSERNN_DATA", str(environment.parent))
    assert CORPORA["ptb"]().info["source"] == str(environment)
    monkeypatch.setenv("SPARSERNN_DATA", str(tmp_path / "nothing"))
    cached = write(cache_folder() / "ptb")
    assert CORPORA["ptb"]().info["source"] == str(cached)
    assert asked == []


def test_a_folder_that_lacks_a_file_is_not_filled_from_the_network(toy, tmp_path):
    _, asked = toy
    place = write(tmp_path / "ptb", {"valid": "a", "test": "b"})
    with pytest.raises(InputError, match="has no train file"):
        CORPORA["ptb"](data_dir=place)
    assert asked == []


def test_a_file_that_is_not_the_standard_one_is_noted(toy, tmp_path):
    place = write(tmp_path / "ptb", TEXTS | {"train": "other words\n"})
    assert CORPORA["ptb"](path=place).info["note"] == "train.txt is not the standard ptb file"


def test_unknown_datasets_are_answered_with_the_known_ones():
    with pytest.raises(InputError, match="ptb, wikitext-2"):
        fetch("enwik8")
