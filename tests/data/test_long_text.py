"""Texts that are numbered into the cache: the same corpus as in memory, whatever happens to the files meanwhile."""

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.data import CORPORA, long_text, numbered_cache, text_parts
from sparsernn.data.content_split import SPLITS
from sparsernn.data.numbered_file import MAGIC
from sparsernn.data.text_styles import STYLES, Style
from sparsernn.data.vocabulary import Vocabulary
from sparsernn.numbering import crew, pieces
from sparsernn.numbering.crew import numbered_in_order
from sparsernn.tasks import LanguageModelling

# Letters that change beside others in lower case (the last sigma), white space that ends no line, line ends of every
# system, marks, and tokens that look like ours.
WORDS = st.sampled_from(
    [
        "a",
        "b",
        "c",
        "the",
        "ΑΣ",
        "İ",
        "é",
        "日本",
        "😀",
        "<unk>",
        "<eos>",
        "3.14",
        "don't",
        "====",
        "...",
        "\x1c",
        "\xa0",
    ]
)
GAPS = st.sampled_from([" ", "  ", "\n", "\n\n", "\r\n", "\r", "\r\r\n", "\n \n", "\t", "\u2028", ""])
TEXTS = st.lists(st.tuples(WORDS, GAPS), min_size=1, max_size=40).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)
LEVELS = ("word", "prose", "char", "byte")


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSERNN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def alone(monkeypatch):
    """No other processes: they take a second to start."""
    monkeypatch.setattr(crew, "cores", lambda: 0)


@pytest.fixture
def long(monkeypatch, alone):
    """Every text is a long one."""
    monkeypatch.setattr(long_text, "LONG", 0)


def write(folder, **texts):
    """A folder with a file for each split."""
    folder.mkdir(exist_ok=True)
    for split in SPLITS:
        (folder / f"{split}.txt").write_bytes(texts.get(split, "the cat sees the dog\nand b\n").encode())
    return folder


def both(folder, **options):
    """A corpus in memory, and from the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_text, "LONG", 1 << 40)
        plain = CORPORA["folder"](data_dir=folder, **options)
        patch.setattr(long_text, "LONG", 0)
        return plain, CORPORA["folder"](data_dir=folder, **options)


def assert_same(one, other):
    assert one.vocabulary.tokens == other.vocabulary.tokens
    assert {k: v for k, v in one.info.items() if k != "unknown_rate"} == {
        k: v for k, v in other.info.items() if k != "unknown_rate"
    }
    assert one.info["unknown_rate"] == pytest.approx(other.info["unknown_rate"], abs=1e-12)
    for split in SPLITS:
        assert one.splits[split].tolist() == other.splits[split].tolist()


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(TEXTS.filter(str.strip), min_size=3, max_size=3),
    level=st.sampled_from(LEVELS),
    options=st.fixed_dictionaries(
        {},
        optional={
            "max_vocabulary": st.integers(3, 9),
            "min_count": st.integers(1, 3),
            "vocabulary_from": st.sampled_from(["train", "all"]),
            "order": st.sampled_from(["first", "up", "down", "random"]),
        },
    ),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_the_cache_holds_the_corpus_that_memory_would(texts, level, options, sizes):
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSERNN_CACHE", str(Path(place, "cache")))
        patch.setattr(crew, "cores", lambda: 0)
        patch.setattr(pieces, "PIECE", sizes[0])
        patch.setattr(text_parts, "BLOCK", sizes[1])
        folder = write(Path(place, "texts"), **dict(zip(SPLITS, texts, strict=True)))
        plain, mapped = both(folder, level=level, **options)
        assert_same(plain, mapped)
        assert {ids.dtype for ids in mapped.splits.values()} == {torch.uint16}
        again = CORPORA["folder"](data_dir=folder, level=level, vocabulary=plain.vocabulary, **options)
        assert_same(plain, again)


@pytest.mark.parametrize("style", sorted(STYLES.keys() - {"subword"}))  # which has tests of its own
def test_every_style_can_be_cut_into_pieces(style, alone):
    assert style in pieces.CUTS, "say in CUTS where a text of this style may be cut"
    text = "the cat\n\nsat é down\nthere\n\n" * 3
    for size in (1, 7, 1000):
        found = pieces.pieces(pieces.as_text([text.encode()]), pieces.cut_of(style, False), size)
        closed = pieces.closed(found)
        read = [p.tokens[i] for p in numbered_in_order(closed, {"style": style}, 0) for i in p.ids.tolist()]
        assert read == Style(style).tokens(text)


def test_processes_number_as_one_does():
    text = [f"word{k % 97} and word{k % 31}\n".encode() * (k % 5 + 1) for k in range(40)]
    one, two = (list(numbered_in_order(text, {"style": "whitespace"}, count)) for count in (0, 2))
    assert [p.tokens for p in one] == [p.tokens for p in two]
    assert all(
        np.array_equal(a.ids, b.ids) and np.array_equal(a.counts, b.counts)
        for a, b in zip(one, two, strict=True)
    )


def test_a_process_that_dies_is_one_sentence(monkeypatch):
    monkeypatch.setattr(crew, "_START", "raise SystemExit(9)")
    with pytest.raises(InputError, match=r"has ended \(exit code 9\)"):
        list(numbered_in_order([b"a\n"] * 5, {"style": "whitespace"}, 1))


def test_large_vocabularies_take_four_bytes(long, tmp_path):
    text = " ".join(f"w{k}" for k in range(66_000)) + "\n"
    made = CORPORA["folder"](data_dir=write(tmp_path / "t", train=text), min_count=1)
    assert len(made.vocabulary) == 66_002
    assert made.splits["train"].dtype == torch.uint32
    assert made.splits["train"].tolist() == list(range(66_001))


def test_windows_are_the_same_to_the_bit(long, tmp_path):
    text = "".join(f"the cat sees number {k % 13} again\n" for k in range(400))
    tasks = [
        LanguageModelling(corpus, batch_size=4, eval_batch_size=3, window=7, random_windows=True)
        for corpus in both(write(tmp_path / "t", train=text, valid=text, test=text))
    ]
    for task in tasks:
        task.settle(torch.device("cpu"))
    for one, other in zip(*(task.batches(3, 1) for task in tasks), strict=True):
        assert torch.equal(one.words, other.words)
        assert torch.equal(one.targets, other.targets)
        assert other.words.dtype == torch.int64
        assert other.words.is_contiguous()
        assert one.lr_scale == other.lr_scale


def test_opening_again_reads_no_text(long, tmp_path, monkeypatch):
    folder = write(tmp_path / "t")
    monkeypatch.setattr(numbered_cache, "SETTLED", 0)  # these files are younger than their times are fine
    first = CORPORA["folder"](data_dir=folder)
    monkeypatch.setattr(text_parts.Part, "blocks", lambda self: pytest.fail("the text was read"))
    assert_same(first, CORPORA["folder"](data_dir=folder))
    assert_same(first, CORPORA["folder"](data_dir=folder, vocabulary=first.vocabulary))


def test_a_text_that_has_changed_is_numbered_again(long, tmp_path):
    folder = write(tmp_path / "t", train="a b a b\n")
    first = CORPORA["folder"](data_dir=folder)
    times = os.stat(folder / "train.txt")
    (folder / "train.txt").write_text("b a b a\n")
    os.utime(folder / "train.txt", ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size, the same time
    second = CORPORA["folder"](data_dir=folder)
    assert first.vocabulary.tokens[:2] == ("a", "b")
    assert second.vocabulary.tokens[:2] == ("b", "a")
    assert first.info["sha256"] != second.info["sha256"]
    assert first.splits["train"].tolist() == [0, 1, 0, 1, 2], "what is open stays as it was"


def cached(kind="ids"):
    """The files of the cache."""
    return sorted(numbered_cache.numbered_folder().glob(f"*/*.{kind}"))


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "end", "header", "vocabulary", "ids", "nonsense", "gone", "pointer"]
)
def test_a_damaged_cache_is_numbered_again(long, tmp_path, damage):
    folder = write(tmp_path / "t")
    first = CORPORA["folder"](data_dir=folder)
    (path,) = cached()
    good = path.read_bytes()
    path.unlink()  # what is mapped stays as it was; a file that shrinks under a mapping ends the process
    path.write_bytes(good)
    place = good.rindex(MAGIC)
    flipped = {
        "header": place - 20,
        "ids": 0,
        "vocabulary": 2 * sum(first.info["tokens"].values()),
        "end": place,
    }
    if damage in flipped:
        path.write_bytes(good[: flipped[damage]] + b"~" + good[flipped[damage] + 1 :])
    elif damage == "gone":
        path.unlink()
    elif damage == "pointer":
        for pointer in cached("also"):
            pointer.write_text(json.dumps({"file": "../../elsewhere", "stat": []}))
    else:
        path.write_bytes({"cut": good[:-5], "empty": b"", "nonsense": b"x" * 500}[damage])
    assert_same(first, CORPORA["folder"](data_dir=folder))
    (path,) = cached()
    assert path.read_bytes() == good


def test_ids_beyond_the_vocabulary_are_not_believed(long, tmp_path):
    """A header may be right about a file that no version of this program has written."""
    import hashlib

    folder = write(tmp_path / "t")
    first = CORPORA["folder"](data_dir=folder)
    (path,) = cached()
    good = path.read_bytes()
    ids = b"\xff\xff" + good[2 : 2 * sum(first.info["tokens"].values())]
    place = good.rindex(MAGIC)
    length = int.from_bytes(good[place + 16 : place + 32], "little")
    header = json.loads(good[place - length : place]) | {"ids_sha256": hashlib.sha256(ids).hexdigest()}
    data = json.dumps(header).encode()
    end = MAGIC + len(data).to_bytes(16, "little") + hashlib.sha256(data).digest()
    path.unlink()
    path.write_bytes(ids + good[len(ids) : place - length] + data + end)
    assert_same(first, CORPORA["folder"](data_dir=folder))
    assert cached()[0].read_bytes() == good


def test_a_full_disk_leaves_nothing(long, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(long_text, "finish", full)
    with pytest.raises(InputError, match=r"No space left on device.*\$SPARSERNN_CACHE can name a place"):
        CORPORA["folder"](data_dir=write(tmp_path / "t"))
    assert not [path for path in (tmp_path / "cache").glob("numbered/*/*") if path.parent.name != "seen"]
    monkeypatch.undo()


def test_a_cache_that_cannot_be_made_is_one_sentence(long, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPARSERNN_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be written into"):
        CORPORA["folder"](data_dir=write(tmp_path / "t"))


def test_a_numbered_text_opens_where_nothing_can_be_written(long, tmp_path, monkeypatch):
    folder = write(tmp_path / "t")
    first = CORPORA["folder"](data_dir=folder)

    def refused(*_, **__):
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(numbered_cache, "replacing", refused)
    monkeypatch.setattr(long_text, "replacing", refused)
    assert_same(first, CORPORA["folder"](data_dir=folder))
    with pytest.raises(InputError, match=r"Read-only file system"):
        CORPORA["folder"](data_dir=folder, min_count=1)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_the_umask_says_who_reads(long, tmp_path):
    before = os.umask(0o027)
    try:
        CORPORA["folder"](data_dir=write(tmp_path / "t"))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (*cached(), *cached("also"))} == {0o640}


def test_what_a_killed_process_has_left_goes(long, tmp_path):
    folder = write(tmp_path / "t")
    CORPORA["folder"](data_dir=folder)
    (path,) = cached()
    left = path.with_name(f".{path.name}.123-abcd.part")
    left.write_bytes(b"half")
    path.unlink()
    CORPORA["folder"](data_dir=folder)
    assert not left.exists()
    assert cached() == [path]


SCRIPT = """
import sys
from sparsernn.data import CORPORA, long_text
from sparsernn.numbering import crew, pieces
long_text.LONG, pieces.PIECE = 0, 2000
crew.cores = lambda: 1
made = CORPORA["folder"](data_dir=sys.argv[1])
print(made.info["vocabulary_sha256"], sum(made.splits["train"].tolist()))
"""


@pytest.mark.slow
def test_a_killed_process_leaves_no_workers_and_its_work_is_taken_up(tmp_path):
    text = "".join(f"word{k % 997} and word{k % 313}\n" for k in range(200_000))
    folder = write(tmp_path / "t", train=text)
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    until = time.time() + 120
    while not list((tmp_path / "cache").glob("numbered/*/.*.ids.*")) and time.time() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not cached()
    two = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in two]
    assert said[0] == said[1] != ""
    assert len(cached()) == 1
    assert not list((tmp_path / "cache").glob("numbered/*/.*.part"))


def test_two_at_once_number_once(long, tmp_path, monkeypatch):
    folder, written = write(tmp_path / "t"), []
    finish = long_text.finish

    def slowly(*args):
        time.sleep(0.2)
        written.append(1)
        return finish(*args)

    monkeypatch.setattr(long_text, "finish", slowly)
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(CORPORA["folder"](data_dir=folder))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 1
    assert_same(made[0], made[1])
    assert_same(made[0], made[2])


def test_a_text_that_changes_meanwhile_is_refused(long, tmp_path, monkeypatch):
    folder = write(tmp_path / "t")

    def numbered(*given):
        (folder / "valid.txt").write_text("something else altogether\n")
        return numbered_in_order(*given)

    monkeypatch.setattr(long_text, "numbered_in_order", numbered)
    with pytest.raises(InputError, match=r"valid\.txt' was changed while its text was being numbered"):
        CORPORA["folder"](data_dir=folder)
    assert not cached()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"fine\nso far \xff\n", r"byte 0xff at offset 12, line 2"),
        (b"cut short \xc3", r"byte 0xc3 at offset 10, line 1"),
        (b"a\0b", "zero byte at offset 1"),
        (b"\xff\xfea\0", "is UTF-16 text"),
        (gzip.compress(b"packed " * 50, mtime=0)[:-9], "is damaged"),
    ],
)
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_what_is_no_text_is_refused_as_in_memory(long, tmp_path, monkeypatch, data, said, block):
    monkeypatch.setattr(text_parts, "BLOCK", max(block, 2) if data.startswith(b"\xff") else block)
    folder = write(tmp_path / "t")
    (folder / "test.txt").write_bytes(data)
    with pytest.raises(InputError, match=said):
        CORPORA["folder"](data_dir=folder)
    monkeypatch.setattr(long_text, "LONG", 1 << 40)
    with pytest.raises(InputError, match=said):
        CORPORA["folder"](data_dir=folder)


def test_packed_files_are_read_too(long, tmp_path):
    folder = write(tmp_path / "t")
    plain = CORPORA["folder"](data_dir=folder)
    for split in SPLITS:
        path = folder / f"{split}.txt"
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = CORPORA["folder"](data_dir=folder)
    assert packed.info["sha256"] == plain.info["sha256"]
    assert all(torch.equal(packed.splits[s].long(), plain.splits[s].long()) for s in SPLITS)
    assert len(cached()) == 1, "the same text is numbered once, wherever it lies"


def test_a_vocabulary_without_the_word_is_refused(long, tmp_path):
    with pytest.raises(InputError, match=r"token 'cat' is not among the 1 of the vocabulary"):
        CORPORA["folder"](data_dir=write(tmp_path / "t"), vocabulary=Vocabulary(["the"]))
    assert not cached()


def test_wikitext103_numbers_words_by_falling_frequency(alone, tmp_path):
    folder = tmp_path / "wikitext-103"
    folder.mkdir()
    for split in SPLITS:
        (folder / f"wiki.{split}.tokens").write_text(" \n = A = \n \n the cat the @-@ the <unk> \n")
    made = CORPORA["wikitext-103"](data_dir=tmp_path)
    assert made.vocabulary.tokens[:2] == ("<eos>", "the")
    assert made.info["name"] == "wikitext-103"


def test_enwik8_is_bytes(alone, tmp_path):
    (tmp_path / "enwik8").write_bytes(bytes(range(256)) * 2 + b"<page>" * 30)
    made = CORPORA["enwik8"](data_dir=tmp_path)
    assert list(made.info["tokens"].values()) == [622, 35, 35]
    assert made.vocabulary.tokens == tuple(map(chr, range(256)))
    assert "is not the standard enwik8" in made.info["note"]
    assert made.info["level"] == "char"


def test_bytes_are_read_as_text_again():
    style = Style("bytes")
    assert style.text(style.tokens("naïve 日本")) == "naïve 日本"
    assert style.text(["Ã"]) == "\ufffd"


def test_the_cache_is_listed_and_cleared(long, tmp_path, capsys):
    from sparsernn.cli.data import clear, list_numbered

    CORPORA["folder"](data_dir=write(tmp_path / "t"))
    list_numbered()
    out = capsys.readouterr().out
    assert " 27 " in out
    (path,) = cached()
    path.write_bytes(b"half")
    list_numbered()
    assert "not whole" in capsys.readouterr().out
    clear()
    assert not numbered_cache.numbered_folder().exists()
    clear()
    list_numbered()
    assert "nothing" in capsys.readouterr().out


def test_a_run_loses_the_same_on_either(monkeypatch, alone, tmp_path):
    import sparsernn as sr

    text = "".join(f"the cat sees number {k % 13} again\n" for k in range(300))
    folder = write(tmp_path / "t", train=text, valid=text, test=text)
    settings = {
        "task.corpus": {"name": "folder"},
        "task.batch_size": 3,
        "task.eval_batch_size": 2,
        "model.embedding_size": 8,
        "model.hidden_sizes": [8],
        "epochs": 2,
        "threads": 1,
    }
    runs = []
    for name, least in (("memory", 1 << 40), ("cache", 0)):
        monkeypatch.setattr(long_text, "LONG", least)
        runs.append(sr.train("demo/selfish", settings, data=folder, out=tmp_path / name))
    one, other = runs
    assert len(cached()) == 1
    assert one.history["valid_loss"] == other.history["valid_loss"]
    assert one.history["train_loss"] == other.history["train_loss"]
    assert one.scores["loss"] == other.scores["loss"]
