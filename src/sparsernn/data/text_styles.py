"""Styles: how a text becomes tokens, and how tokens become a text that people read."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from sparsernn.core.errors import InputError
from sparsernn.core.forms import check_known
from sparsernn.core.plain import Json
from sparsernn.data.subwords import text_of_tokens, tokens_of
from sparsernn.numbering import cutting
from sparsernn.numbering.cutting import EOS, lines_of, paragraphs_of, prose_tokens

_SPACE_BEFORE = re.compile(r" (?=[,.;:!?)\]}])")
_SPACE_AFTER = re.compile(r"(?<=[(\[{]) ")


__all__ = ["STYLES", "Style", "lines_of", "paragraphs_of", "prose_tokens", "style_of"]


@dataclass(frozen=True)
class Style:
    """How a text is cut into tokens.

    Args:
        name: "whitespace" (split at white space, `<eos>` ends every line: the convention of PTB and
            WikiText-2), "prose" (punctuation split off, numbers become N, `<eos>` ends every paragraph),
            "characters" (every character, newline included), "bytes" (of its UTF-8, each as the character of
            its number) or "penn_characters" (as in the character-level Penn Treebank: a space is `_`, `<eos>`
            ends every line) or "subword" (pieces of words, line by line, as `tokenizer` cuts them).
        lowercase: whether the text is put into lower case first.
        tokenizer: JSON of the package `tokenizers`, for "subword" alone.

    Raises:
        InputError: unknown name.

    Example:
        >>> Style("whitespace").tokens("the cat\\nsat\\n")
        ['the', 'cat', '<eos>', 'sat', '<eos>']
        >>> Style("prose", lowercase=True).tokens("Don't print(3.14)!")
        ["don't", 'print', '(', 'N', ')', '!', '<eos>']
        >>> Style("penn_characters").tokens("a cat")
        ['a', '_', 'c', 'a', 't', '<eos>']
    """

    name: str
    lowercase: bool = False
    tokenizer: str = ""

    def __post_init__(self) -> None:
        check_known("style", self.name, STYLES)
        if bool(self.tokenizer) != (self.name == "subword"):
            raise InputError(
                f"style '{self.name}' with tokenizer {self.tokenizer[:20]!r}; subwords alone need one."
            )

    def tokens(self, text: str) -> list[str]:
        """Tokens of `text`, `<eos>` included."""
        text = text.lower() if self.lowercase else text
        return tokens_of(text, self.tokenizer) if self.tokenizer else STYLES[self.name][0](text)

    def prompt(self, text: str) -> list[str]:
        """Tokens of the beginning of a text: as `tokens`, without the `<eos>` that would end it."""
        tokens = self.tokens(text) if text.strip() else []
        return tokens[:-1] if tokens and tokens[-1] == EOS else tokens

    def text(self, tokens: Sequence[str]) -> str:
        """A readable text from tokens (what `tokens` drops, such as numbers' digits, is not restored)."""
        return text_of_tokens(tokens, self.tokenizer) if self.tokenizer else STYLES[self.name][1](tokens)

    def plain(self) -> dict[str, Json]:
        """Plain data for `Corpus.info["style"]`."""
        facts = asdict(self)
        return facts if self.tokenizer else {k: v for k, v in facts.items() if k != "tokenizer"}


FIELDS = {"name", "lowercase", "tokenizer"}


def style_of(info: Mapping[str, Json]) -> Style:
    """The style that a corpus was cut with, from `Corpus.info` (kept in every run's environment.json).

    Raises:
        InputError: `info` has no style, or not one of these.
    """
    style = info.get("style")
    if not isinstance(style, Mapping) or not set(style) <= FIELDS or "name" not in style:
        raise InputError(
            f"the style of the corpus is {style!r}; a mapping with 'name' and 'lowercase' is needed."
        )
    return Style(**style)


def _join_lines(tokens: Sequence[str]) -> str:
    return (
        " ".join("\n" if token == EOS else token for token in tokens)
        .replace(" \n ", "\n")
        .replace(" \n", "\n")
    )


def _join_prose(tokens: Sequence[str]) -> str:
    text = " ".join("\n\n" if token == EOS else token for token in tokens).replace("\n\n ", "\n\n")
    return _SPACE_AFTER.sub("", _SPACE_BEFORE.sub("", text.replace(" \n", "\n")))


def _join_penn(tokens: Sequence[str]) -> str:
    return "".join("\n" if token == EOS else token.replace("_", " ") for token in tokens)


def _join_bytes(tokens: Sequence[str]) -> str:
    # a token that is no byte stands for one that the text did not have, such as <unk>
    read = bytes(ord(token) if len(token) == 1 and token < "\u0100" else ord("?") for token in tokens)
    return read.decode("utf-8", "replace")


STYLES: dict[str, tuple[Callable[[str], list[str]], Callable[[Sequence[str]], str]]] = {
    "whitespace": (cutting.whitespace, _join_lines),
    "prose": (cutting.prose, _join_prose),
    "characters": (list, "".join),
    "bytes": (cutting.byte_characters, _join_bytes),
    "penn_characters": (cutting.penn_characters, _join_penn),
    "subword": (list, "".join),  # as its tokenizer has it
}
