"""Styles: how a text becomes tokens, and how tokens become a text that people read."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.data.vocabulary import EOS

NUMBER = "N"

# <unk> and <eos> | words, with the apostrophe of don't | numbers, versions, 0x1f | >>> and ... | any other
# character
_PROSE = re.compile(r"<unk>|<eos>|[^\W\d]\w*(?:'[^\W\d]+)?|\d[\w.,]*\w|\d|>>>|\.\.\.|[^\w\s]")
_RULES = re.compile(r"([^\w\s])\1{3,}")  # ==== or ****: lines drawn under headings, no language
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
_SPACE_BEFORE = re.compile(r" (?=[,.;:!?)\]}])")
_SPACE_AFTER = re.compile(r"(?<=[(\[{]) ")


@dataclass(frozen=True)
class Style:
    """How a text is cut into tokens.

    Args:
        name: "whitespace" (split at white space, `<eos>` ends every line: the convention of PTB and
            WikiText-2), "prose" (punctuation split off, numbers become N, `<eos>` ends every paragraph),
            "characters" (every character, newline included) or
            "penn_characters" (as in the character-level Penn Treebank: a space is `_`, `<eos>` ends every
            line).
        lowercase: whether the text is put into lower case first.

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

    def __post_init__(self) -> None:
        if self.name not in STYLES:
            raise InputError(f"style '{self.name}' is unknown; known: {', '.join(STYLES)}.")

    def tokens(self, text: str) -> list[str]:
        """Tokens of `text`, `<eos>` included."""
        return STYLES[self.name][0](text.lower() if self.lowercase else text)

    def prompt(self, text: str) -> list[str]:
        """Tokens of the beginning of a text: as `tokens`, without the `<eos>` that would end it."""
        tokens = self.tokens(text) if text.strip() else []
        return tokens[:-1] if tokens and tokens[-1] == EOS else tokens

    def text(self, tokens: Sequence[str]) -> str:
        """A readable text from tokens (what `tokens` drops, such as numbers' digits, is not restored)."""
        return STYLES[self.name][1](tokens)

    def plain(self) -> dict[str, Json]:
        """Plain data for `Corpus.info["style"]`."""
        return asdict(self)


def style_of(info: Mapping[str, Json]) -> Style:
    """The style that a corpus was cut with, from `Corpus.info` (kept in every run's environment.json).

    Raises:
        InputError: `info` has no style, or not one of these.
    """
    style = info.get("style")
    if not isinstance(style, Mapping) or not set(style) <= {"name", "lowercase"} or "name" not in style:
        raise InputError(
            f"the style of the corpus is {style!r}; a mapping with 'name' and 'lowercase' is needed."
        )
    return Style(**style)


def lines_of(text: str) -> list[str]:
    """Lines of a text as a file has them: only newline ends a line, and the last one may end the text.

    Example:
        >>> lines_of("a\\n\\nb\\n")
        ['a', '', 'b']
    """
    return text.removesuffix("\n").split("\n")


def paragraphs_of(text: str) -> list[str]:
    """Blocks between blank lines, without the blank lines.

    Example:
        >>> paragraphs_of("a\\nb\\n\\n\\nc\\n")
        ['a\\nb', 'c']
    """
    return [block for block in _BLANK_LINES.split(text.strip("\n")) if block.strip()]


def prose_tokens(paragraph: str) -> list[str]:
    """Words, punctuation marks and N for numbers, in one paragraph; no `<eos>`."""
    found = _PROSE.findall(_RULES.sub(" ", paragraph.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")))
    return [NUMBER if token[0].isdigit() else token for token in found]


def _whitespace(text: str) -> list[str]:
    tokens: list[str] = []
    for line in lines_of(text):
        tokens += line.split()
        tokens.append(EOS)
    return tokens


def _prose(text: str) -> list[str]:
    tokens: list[str] = []
    for paragraph in paragraphs_of(text):
        if found := prose_tokens(paragraph):
            tokens += [*found, EOS]
    return tokens


def _penn_characters(text: str) -> list[str]:
    tokens: list[str] = []
    for line in lines_of(text):
        tokens += "_".join(line.split())
        tokens.append(EOS)
    return tokens


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


STYLES: dict[str, tuple[Callable[[str], list[str]], Callable[[Sequence[str]], str]]] = {
    "whitespace": (_whitespace, _join_lines),
    "prose": (_prose, _join_prose),
    "characters": (list, "".join),
    "penn_characters": (_penn_characters, _join_penn),
}
