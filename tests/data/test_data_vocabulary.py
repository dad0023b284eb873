"""Vocabularies: ids, the file, and what is said when either is wrong."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.data.vocabulary import Vocabulary, check_vocabulary, collect, ordered

TOKENS = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=30, unique=True)


@given(TOKENS)
def test_file_brings_back_any_tokens(tmp_path_factory, tokens):
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.txt"
    vocabulary = Vocabulary(tokens)
    vocabulary.save(path)
    loaded = Vocabulary.load(path)
    assert loaded == vocabulary
    assert loaded.sha256() == vocabulary.sha256()


@given(TOKENS, st.data())
def test_encode_and_decode_are_inverse(tokens, data):
    vocabulary = Vocabulary(tokens)
    text = data.draw(st.lists(st.sampled_from(tokens)))
    ids = vocabulary.encode(text)
    assert ids.dtype == torch.int64
    assert vocabulary.decode(ids) == text


def test_file_is_one_token_a_line_with_white_space_and_backslash_escaped(tmp_path):
    path = tmp_path / "vocabulary.txt"
    Vocabulary(["a", " ", "\n", "\\", "\\n", "\u2028", "é"]).save(path)
    assert path.read_bytes().decode() == "a\n\\s\n\\n\n\\\\\n\\\\n\n\\u{2028}\né\n"


def test_what_the_vocabulary_lacks_becomes_unknown():
    assert Vocabulary(["a", "<unk>"]).encode(["b", "a"]).tolist() == [1, 0]
    assert Vocabulary(["a"]).unknown is None
    with pytest.raises(InputError, match="token 'b' is not among the 1"):
        Vocabulary(["a"]).encode(["a", "b"])


@pytest.mark.parametrize("bad", [2, -1])
def test_decode_refuses_ids_outside(bad):
    with pytest.raises(InputError, match=f"id {bad} is outside"):
        Vocabulary(["a", "b"]).decode([bad])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"a\nb\na\n", "line 3 repeats the token 'a' of line 1"),
        (b"a\n\\q\n", "line 2 has the unknown escape"),
        (b"a\n\\u{zz}\n", "line 2 has the unknown escape"),
        (b"a\n\\u{ffffffff}\n", "line 2 has the unknown escape"),
        (b"a\nb\\\n", "line 2 ends in a lone backslash"),
        (b"a\n\xff\n", "byte 0xff at offset 2"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, content, words):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        Vocabulary.load(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt' does not exist"):
        Vocabulary.load(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("tokens", "words"), [([], "empty"), (["a", ""], "token 1"), (["a", "b", "b"], "'b' twice")]
)
def test_bad_tokens_are_refused(tokens, words):
    with pytest.raises(InputError, match=words):
        Vocabulary(tokens)


def test_collect_keeps_the_order_of_appearance():
    assert collect([["b", "a"], ["c", "a"]]).tokens == ("b", "a", "c")


def test_collect_keeps_the_most_frequent_and_counts_the_special_tokens():
    text = ["x", "a", "<eos>", "b", "b", "a", "<eos>", "c", "c", "c"]
    assert collect([text], maximum=4).tokens == ("a", "<eos>", "c", "<unk>")
    assert collect([text], min_count=2).tokens == ("a", "<eos>", "b", "c", "<unk>")
    assert collect([text], maximum=5).tokens == ("x", "a", "<eos>", "b", "c")
    assert len(collect([text], maximum=5, unknown=True)) == 5


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=1), st.integers(3, 10), st.integers(1, 3), st.booleans()
)
def test_collect_never_exceeds_its_maximum(text, maximum, min_count, unknown):
    vocabulary = collect([text], maximum=maximum, min_count=min_count, unknown=unknown) if text else None
    assert len(vocabulary) <= maximum
    assert vocabulary.unknown is not None or set(text) <= set(vocabulary.tokens)
    assert len(vocabulary.encode(text)) == len(text)


@pytest.mark.parametrize(
    ("order", "tokens"), [("first", "daebc"), ("up", "edabc"), ("down", "cbdae"), ("random", None)]
)
def test_orders_count_the_given_text_and_keep_ties_as_they_were(order, tokens):
    text = [*"dabcbc", "c"]  # d and a once, b twice, c three times, e never
    found = ordered(Vocabulary(list("daebc")), text, order).tokens
    assert found == (tuple(tokens) if tokens else ordered(Vocabulary(list("daebc")), [], order).tokens)
    assert sorted(found) == list("abcde")


def test_what_has_no_place_of_its_own_counts_as_unknown():
    vocabulary = Vocabulary(["a", "<unk>"])
    assert ordered(vocabulary, ["a", "x", "y"], "down").tokens == ("<unk>", "a")


@given(TOKENS, st.data())
def test_up_and_down_sort_by_count(tokens, data):
    text = data.draw(st.lists(st.sampled_from(tokens)))
    for order, sign in (("up", 1), ("down", -1)):
        counts = [sign * text.count(token) for token in ordered(Vocabulary(tokens), text, order).tokens]
        assert counts == sorted(counts)


def test_an_unknown_order_is_refused():
    with pytest.raises(InputError, match="order is 'upp'; it must be one of first, up, down, random"):
        ordered(Vocabulary(["a"]), [], "upp")


@pytest.mark.parametrize("settings", [{"maximum": 2}, {"min_count": 0}])
def test_collect_refuses_limits_out_of_range(settings):
    with pytest.raises(InputError, match="must be a whole number of at least"):
        collect([["a"]], **settings)


def test_a_wrong_vocabulary_is_described_by_sizes_and_first_difference():
    expected = Vocabulary(["a", "b"])
    check_vocabulary(expected, Vocabulary(["a", "b"]))
    with pytest.raises(InputError, match=r"3 tokens where 2 .* id 1: 'b' is expected, 'c' is given"):
        check_vocabulary(expected, Vocabulary(["a", "c", "d"]))
    with pytest.raises(InputError, match="id 2: no token is expected, 'c' is given"):
        check_vocabulary(expected, Vocabulary(["a", "b", "c"]))
    with pytest.raises(InputError, match="id 1: 'b' is expected, no token is given"):
        check_vocabulary(expected, Vocabulary(["a"]))
