"""Splitting by content: shares, no leak, no dependence on order, and edits that stay where they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.data.content_split import SPLITS, assign, same_prose, same_words, split_by_content, split_units
from sparsernn.data.text_styles import lines_of, paragraphs_of

UNITS = st.lists(st.text("abc de", min_size=1, max_size=8), min_size=1, max_size=60)


def paragraphs(count):
    return [f"Paragraph {word_number(i)}\nhas two lines." for i in range(count)]


def word_number(number):
    return "".join("abcdefghij"[int(digit)] for digit in str(number))


@given(UNITS)
def test_splits_are_disjoint_and_lose_nothing(units):
    keys = {same_words(unit) for unit in units} - {""}
    if len(keys) < 3:
        with pytest.raises(InputError, match="at least 3"):
            split_units(units)
        return
    split = split_units(units, "line")
    parts = [[same_words(line) for line in lines_of(split.texts[name])] for name in SPLITS]
    assert all(parts)
    assert sorted(key for part in parts for key in part) == sorted(keys)
    assert split.duplicates == len(units) - len(keys)


@given(st.sets(st.text(min_size=1), min_size=3, max_size=80), st.randoms())
def test_the_place_of_a_key_does_not_depend_on_order(keys, random):
    shuffled = list(keys)
    random.shuffle(shuffled)
    assert assign(shuffled) == assign(sorted(keys))


def test_shares_are_about_80_10_10():
    names = list(assign(str(i) for i in range(20_000)).values())
    # standard error 0.002
    assert abs(names.count("test") / 20_000 - 0.1) < 0.01
    assert abs(names.count("valid") / 20_000 - 0.1) < 0.01


def test_an_edit_moves_only_what_was_edited():
    before = paragraphs(300)
    after = [*before[:100], "An edited paragraph.", *before[101:200], "A new paragraph.", *before[200:]]
    old, new = (assign(same_words(p) for p in text) for text in (before, after))
    kept = set(old) & set(new)
    assert len(kept) == 299
    assert all(old[key] == new[key] for key in kept)


def test_units_keep_their_order_and_their_lines():
    text = "\n\n".join(paragraphs(200))
    split = split_by_content(text)
    assert split.unit == "paragraph"
    order = {p: i for i, p in enumerate(paragraphs(200))}
    for part in split.texts.values():
        places = [order[p] for p in paragraphs_of(part)]
        assert places == sorted(places)


def test_a_text_with_few_paragraphs_is_split_by_lines():
    split = split_by_content("\n".join(f"line {word_number(i)}" for i in range(50)))
    assert split.unit == "line"
    assert split_by_content("\n\n".join(paragraphs(50)), unit="line").unit == "line"
    assert split_by_content("\n\n".join(paragraphs(5)), unit="paragraph").unit == "paragraph"


def test_the_smallest_text_has_three_lines():
    split = split_by_content("one\ntwo\nthree\n")
    assert all(len(lines_of(text)) == 1 for text in split.texts.values())
    with pytest.raises(InputError, match="2 different lines"):
        split_by_content("one\ntwo\n one \n")


def test_keys_of_prose_ignore_case_numbers_and_white_space():
    assert same_prose("In  3.10, X") == same_prose("in 3.5,\nx")
    assert same_prose("in x") != same_prose("in y")


def test_another_unit_is_refused():
    with pytest.raises(InputError, match="unit is 'word'"):
        split_by_content("a", unit="word")
