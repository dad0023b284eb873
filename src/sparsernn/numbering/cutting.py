"""How texts are cut into tokens: the functions behind the styles, for texts in one piece."""

import re

EOS = "<eos>"
UNKNOWN = "<unk>"
NUMBER = "N"

# <unk> and <eos> | words, with the apostrophe of don't | numbers, versions, 0x1f | >>> and ... | any other
# character
_PROSE = re.compile(r"<unk>|<eos>|[^\W\d]\w*(?:'[^\W\d]+)?|\d[\w.,]*\w|\d|>>>|\.\.\.|[^\w\s]")
_RULES = re.compile(r"([^\w\s])\1{3,}")  # ==== or ****: lines drawn under headings, no language
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")


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


def whitespace(text: str) -> list[str]:
    """What stands between white space, `<eos>` behind every line.

    >>> whitespace("the cat\\nsat")
    ['the', 'cat', '<eos>', 'sat', '<eos>']
    """
    return f"{text.removesuffix(chr(10))}\n".replace("\n", f" {EOS} ").split()


def prose(text: str) -> list[str]:
    """Words and marks, `<eos>` behind every paragraph that has some."""
    tokens: list[str] = []
    for paragraph in paragraphs_of(text):
        if found := prose_tokens(paragraph):
            tokens += [*found, EOS]
    return tokens


def byte_characters(text: str) -> list[str]:
    """The bytes of a text's UTF-8, each as the character of its number; lone surrogates are bytes as they came.

    >>> byte_characters("é")
    ['Ã', '©']
    """
    return list(text.encode("utf-8", "surrogateescape").decode("latin-1"))


def penn_characters(text: str) -> list[str]:
    """Characters, a space written `_`, `<eos>` behind every line."""
    tokens: list[str] = []
    for line in lines_of(text):
        tokens += "_".join(line.split())
        tokens.append(EOS)
    return tokens


def lines_with_ends(text: str) -> list[str]:
    """Lines of a text, each with the newline that ends it; together they are the text.

    >>> lines_with_ends("a\\n\\nb")
    ['a\\n', '\\n', 'b']
    """
    lines = [f"{line}\n" for line in text.split("\n")]
    return lines[:-1] if text.endswith("\n") or not text else [*lines[:-1], lines[-1][:-1]]
