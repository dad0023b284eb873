"""Tagged sentences: the two file formats, splits, and the names of Python's own library."""

import ast
import os
import textwrap
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.data import CORPORA, Sentence
from sparsernn.data.embedded_tags import python_roles, roles
from sparsernn.data.tag_columns import read_columns
from sparsernn.data.tagged_sentences import digest, two_columns

TEXT = "The\tDT\ncat\tNN\n\n\n\nIt\tPRP\nsleeps\tVBZ\n.\t."
FOUND = [Sentence(("The", "cat"), ("DT", "NN")), Sentence(("It", "sleeps", "."), ("PRP", "VBZ", "."))]

UNIVERSAL = """# sent_id = 1
# text = We don't.
1\tWe\twe\tPRON\tPRP\t_\t2\tnsubj\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVBP\t_\t0\troot\t_\t_
3\tn't\tnot\tPART\tRB\t_\t2\tadvmod\t_\t_
3.1\tgo\tgo\tVERB\tVB\t_\t_\t_\t_\t_
4\t#\t#\tSYM\t#\t_\t2\tpunct\t_\t_

# newpar

1\tYes\tyes\tINTJ\tUH\t_\t0\troot\t_\t_"""


# --- the formats


@pytest.mark.parametrize("text", [TEXT, TEXT + "\n", TEXT + "\n\n", "\n\n" + TEXT, TEXT.replace("\t", "  ")])
def test_empty_sentences_and_a_missing_last_line_change_nothing(text):
    assert read_columns(text) == FOUND


@pytest.mark.parametrize(("tag", "tags"), [("upos", "PRON AUX PART SYM"), ("xpos", "PRP VBP RB #")])
def test_multiword_tokens_empty_nodes_and_comments_are_left_out(tag, tags):
    first, second = read_columns(UNIVERSAL, tag=tag)
    assert first == Sentence(("We", "do", "n't", "#"), tuple(tags.split()))
    assert second.words == ("Yes",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b\nc", "line 2 is 'c' with 1 column, and the first line has 2"),
        ("a b\nc d e", "line 2 is 'c d e' with 3 columns, and the first line has 2"),
        ("a\t", "line 1 is"),
    ],
)
def test_a_line_without_two_columns_is_named(text, message):
    with pytest.raises(InputError, match=message):
        read_columns(text)


def test_a_line_without_ten_columns_and_an_unknown_column_are_named():
    with pytest.raises(InputError, match="line 4 has 3 columns; CoNLL-U has ten"):
        read_columns(UNIVERSAL.replace("2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_", "2-3\tdon't\t_"))
    with pytest.raises(InputError, match="tag is 'pos'; it must be upos or xpos"):
        read_columns(UNIVERSAL, tag="pos")


words = st.text("ab#1.", min_size=1, max_size=3)
sentences = st.lists(
    st.lists(st.tuples(words, words), min_size=1, max_size=4).map(
        lambda pairs: Sentence(*map(tuple, zip(*pairs, strict=True)))
    ),
    max_size=4,
)


@given(sentences)
def test_what_is_written_in_two_columns_is_read_back(found):
    assert read_columns(two_columns(found)) == found


# --- folders


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "wsj_train.conll").write_text(TEXT)
    (tmp_path / "wsj_valid.conll").write_text("a\t-NONE-\n\nb\tX\nc\t-NONE-\n")
    (tmp_path / "en-test.conllu").write_text(UNIVERSAL)
    return tmp_path


def test_files_of_both_formats_are_found_by_the_ends_of_their_names(folder):
    corpus = CORPORA["conll"](folder, tag="xpos")
    assert corpus.splits["train"] == FOUND
    assert corpus.splits["test"][0].tags[0] == "PRP"
    assert corpus.info["files"]["valid"] == "wsj_valid.conll"
    assert corpus.info["sha256"]["train"] == digest(FOUND)
    assert corpus.info["note"] == ""


def test_words_with_unwanted_tags_go_and_sentences_of_nothing_else_with_them(folder):
    corpus = CORPORA["conll"](folder, drop_tags=["-NONE-"])
    assert corpus.splits["valid"] == [Sentence(("b",), ("X",))]


def test_a_part_held_out_depends_on_each_sentence_alone(tmp_path):
    found = [Sentence((f"w{k % 40}",), ("X",)) for k in range(80)]
    for split in ("dev", "test"):
        (tmp_path / f"{split}.txt").write_text(two_columns(found))
    settings = {"splits": {"train": "valid"}, "held_out": 0.25}
    corpus = CORPORA["conll"](tmp_path, **settings)
    train, valid = corpus.splits["train"], corpus.splits["valid"]
    assert sorted(train + valid) == sorted(found)
    assert not set(train) & set(valid)
    assert 0 < len(valid) < len(train)
    assert "train is read from the valid file; valid is 25% of the training" in corpus.info["note"]
    (tmp_path / "dev.txt").write_text(two_columns(found[20:60]))
    again = CORPORA["conll"](tmp_path, **settings)
    assert set(again.splits["valid"]) == set(valid)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"held_out": 0.6}, "held_out is 0.6"),
        ({"splits": {"train": "dev"}}, "splits.train is .dev.; it must be one of train, valid, test"),
        ({"drop_tags": ["X", "-NONE-"]}, "leaves the valid split without a sentence"),
        ({"path": "nowhere"}, "'nowhere' is not a folder"),
        ({"path": None}, "has no path"),
    ],
)
def test_a_fault_is_one_sentence(folder, settings, message):
    with pytest.raises(InputError, match=message):
        CORPORA["conll"](**{"path": folder, **settings})


def test_a_missing_file_is_named_with_what_would_be_found(tmp_path, monkeypatch):
    with pytest.raises(
        InputError,
        match=r"no train file; its name must have the word train or training and end in \.conllu, ",
    ):
        CORPORA["conll"](tmp_path)
    monkeypatch.delenv("SPARSERNN_DATA", raising=False)
    with pytest.raises(InputError, match=r"UD English-EWT is not here; .*pos/embedded"):
        CORPORA["ud-ewt"]()


def test_english_web_treebank():
    place = Path(os.environ.get("SPARSERNN_DATA", "nowhere"), "ud-ewt/en_ewt-ud-dev.conllu")
    if not place.is_file():
        pytest.skip(f"{place} is missing (SPARSERNN_DATA says where to look)")
    corpus = CORPORA["ud-ewt"](splits={"train": "valid"}, held_out=0.1)
    counts = {split: sum(len(s.words) for s in found) for split, found in corpus.splits.items()}
    assert counts["train"] + counts["valid"] == 25_147
    assert (len(corpus.splits["test"]), counts["test"]) == (2_077, 25_094)
    assert len({tag for s in corpus.splits["test"] for tag in s.tags}) == 17


# --- names of Python's library

SOURCE = '''
import os.path as where

class Shelf(Base, metaclass=Meta):
    """Books."""

    @cached
    async def count(self, key, *rest, wanted=None, **more):
        for self.item in rest:
            del more[key]
            yield self.item.size(key, wanted=other(wanted).value)
        return 1
'''
EXPECTED = """
Shelf/class Base/load metaclass/keyword Meta/load
cached/load count/function self/parameter key/parameter rest/parameter wanted/parameter more/parameter
self/load item/attribute rest/load
more/load key/load
self/load item/attribute size/method key/load wanted/keyword other/call wanted/load value/attribute
"""


def test_roles_of_names():
    found = {" ".join(map("/".join, zip(*s, strict=True))) for s in roles(ast.parse(textwrap.dedent(SOURCE)))}
    assert found == set(EXPECTED.strip().split("\n"))


def test_roles_are_those_that_a_plain_walk_counts():
    tree = ast.parse(textwrap.dedent(SOURCE))
    names = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    found = Counter(
        word
        for sentence in roles(tree)
        for word, role in zip(*sentence, strict=True)
        if role in ("load", "store", "call", "delete")
    )
    assert found == names


def test_the_librarys_sentences_are_split_without_repetitions_and_need_their_context():
    corpus = python_roles(sentences=600)
    keys = [s.words for found in corpus.splits.values() for s in found]
    assert len(keys) == len(set(keys)) == 600
    assert python_roles(sentences=600).info == corpus.info
    assert 0.1 < most_frequent_tag(corpus.splits) < 0.9


def most_frequent_tag(splits):
    """Accuracy on test of giving each word its most frequent training tag, and unknown words the most frequent."""
    seen, tags = defaultdict(Counter), Counter()
    for sentence in splits["train"]:
        for word, tag in zip(*sentence, strict=True):
            seen[word][tag] += 1
            tags[tag] += 1
    pairs = [pair for sentence in splits["test"] for pair in zip(*sentence, strict=True)]
    return sum((seen[w] or tags).most_common(1)[0][0] == tag for w, tag in pairs) / len(pairs)


def test_too_few_sentences_are_refused():
    with pytest.raises(InputError, match="sentences is 5; it must be a whole number of at least 30"):
        python_roles(sentences=5)
