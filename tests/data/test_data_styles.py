"""Styles: from text to tokens, and back to something that reads well."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.data.text_styles import STYLES, Style, paragraphs_of, style_of


def test_whitespace_ends_every_line_with_eos_blank_ones_too():
    assert Style("whitespace").tokens(" = A = \n \n b\n") == ["=", "A", "=", "<eos>", "<eos>", "b", "<eos>"]


def test_whitespace_does_not_take_other_line_separators_for_lines():
    assert Style("whitespace").tokens("a\u2028b\x85c") == ["a", "b", "c", "<eos>"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("See f(x), or x[0:10].", "See f ( x ) , or x [ N : N ] ."),
        ("It isn't; don\u2019t!", "It isn't ; don't !"),
        ("__init__ since 3.11.2, 1,000 or 0x1F", "__init__ since N , N or N"),
        (">>> a == b ...", ">>> a = = b ..."),
        ("Heading\n*******\n\n", "Heading"),
        ("<unk> and <b>", "<unk> and < b >"),
        ("naïve 日本", "naïve 日本"),
    ],
)
def test_prose(text, tokens):
    assert Style("prose").tokens(text) == [*tokens.split(), "<eos>"]


def test_prose_ends_paragraphs_and_puts_into_lower_case():
    style = Style("prose", lowercase=True)
    assert style.tokens("One\nTwo.\n \n\nThree") == ["one", "two", ".", "<eos>", "three", "<eos>"]


def test_penn_characters():
    expected = [*"the_<unk>_N", "<eos>", "a", "<eos>"]
    assert Style("penn_characters").tokens(" the <unk> N \n a \n") == expected


@given(st.text(max_size=80))
def test_characters_lose_nothing(text):
    style = Style("characters")
    assert style.text(style.tokens(text)) == text


@given(st.lists(st.lists(st.text("ab.", min_size=1), max_size=4), min_size=1, max_size=5))
def test_whitespace_survives_the_way_there_and_back(lines):
    style = Style("whitespace")
    tokens = style.tokens("\n".join(" ".join(words) for words in lines) + "\n")
    assert style.tokens(style.text(tokens)) == tokens


def test_prose_reads_well():
    style = Style("prose")
    assert (
        style.text(style.tokens("Call f (x), then\nstop.\n\nEnd [a]"))
        == "Call f (x), then stop.\n\nEnd [a]\n\n"
    )


def test_a_prompt_has_no_end():
    assert Style("whitespace").prompt("the cat") == ["the", "cat"]
    assert Style("characters").prompt("ab") == ["a", "b"]
    assert Style("prose").prompt("") == []


def test_paragraphs():
    assert paragraphs_of("\n\na\n b\n \t\n\nc\n") == ["a\n b", "c"]


@pytest.mark.parametrize("name", STYLES)
def test_a_style_comes_back_from_the_facts_of_a_corpus(name):
    style = Style(name, lowercase=True, tokenizer="{}" if name == "subword" else "")
    assert style_of({"style": style.plain()}) == style


@pytest.mark.parametrize("style", [None, {}, {"name": "prose", "case": 1}, {"name": "poetry"}])
def test_a_wrong_style_is_refused(style):
    with pytest.raises(InputError):
        style_of({"style": style})
