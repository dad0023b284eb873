"""What onnx_runner.py runs, by task: texts, tags, series and questions; copy this file beside that one.

    model = TaskModel("m.onnx")
    model.write("once", 20)                  a language model goes on writing
    model.tag(["the dog barks"])             a tagger tags
    model.predict([series])                  a model of series predicts, from and in the columns' own units
    model.answer(paragraph, question)        BiDAF finds the answer

What does not fit is a ValueError of one sentence.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

if __name__.startswith("sparsernn."):
    from sparsernn.deploy.onnx_runner import Array, OnnxModel
else:  # a copy, beside a copy
    from onnx_runner import Array, OnnxModel  # type: ignore[import-not-found,no-redef]

EOS = "<eos>"
_PROSE = re.compile(r"<unk>|<eos>|[^\W\d]\w*(?:'[^\W\d]+)?|\d[\w.,]*\w|\d|>>>|\.\.\.|[^\w\s]")


class TaskModel(OnnxModel):
    """A model in a file, and what it is for.

    Args:
        path: of the file.

    Attributes:
        tokens: words, tags, labels, characters by the vocabulary's name.
        index: the same, token -> number.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.tokens: dict[str, list[str]] = self.told.get("tokens", {})
        self.index = {name: {t: k for k, t in enumerate(known)} for name, known in self.tokens.items()}

    def _need(self, kind: str, known: bool) -> None:
        if not known:
            raise ValueError(f"this file holds no {kind}; what it reads and says is in `told`.")

    def ids(self, tokens: Sequence[str], vocabulary: str = "vocabulary") -> list[int]:
        """Numbers of tokens; what is not known is `<unk>`."""
        known = self.index[vocabulary]
        missing = [token for token in tokens if token not in known and "<unk>" not in known]
        if missing:
            raise ValueError(f"token {missing[0]!r} is not in the vocabulary, which has no <unk>.")
        return [known.get(token, known.get("<unk>", 0)) for token in tokens]

    def encode(self, text: str) -> Array:
        """The beginning of a text as ids (T, 1), cut as the training text was."""
        self._need("language model of a text", bool(self.told.get("style")) and "vocabulary" in self.tokens)
        tokens = _cut(text, self.told["style"]) if text.strip() else []
        tokens = tokens[:-1] if tokens[-1:] == [EOS] else tokens
        first = EOS if EOS in self.index["vocabulary"] else self.tokens["vocabulary"][0]
        return np.array(self.ids(tokens or [first])).reshape(-1, 1)

    def decode(self, ids: Sequence[int]) -> str:
        """A text that people read."""
        style = self.told["style"]
        if "tokenizer" in style:
            return str(_tokenizer(style).decode(list(ids), skip_special_tokens=False))
        return JOIN[style["name"]]([self.tokens["vocabulary"][k] for k in ids])

    def write(self, prompt: str = "", tokens: int = 50, temperature: float = 0.8, seed: int = 1) -> str:
        """A text from a language model: the beginning, and so many tokens more; a temperature of 0 takes the best."""
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}; it must be at least 0.")
        draw, read, written = np.random.default_rng(seed), self.encode(prompt), []
        self.reset()
        said = [] if not prompt.strip() else read[:, 0].tolist()
        for _ in range(tokens):
            scores = self.run(read)[-1, 0].astype(np.float64)
            scores[self.index["vocabulary"].get("<unk>", [])] = -np.inf
            chances = _softmax(scores / temperature) if temperature else scores == scores.max()
            written.append(int(draw.choice(len(scores), p=chances / chances.sum())))
            read = np.array([[written[-1]]])
        return self.decode([*said, *written]).strip()

    def tag(self, sentences: Sequence[str]) -> list[list[tuple[str, str]]]:
        """Each word of sentences, cut at white space, with its tag."""
        self._need("tagger", "tags" in self.tokens and not self.told["start"])
        words = [sentence.split() for sentence in sentences]
        scores = self.run(_padded([np.array(self.ids(w)) for w in words]), [len(w) for w in words])
        names = self.tokens["tags"]
        return [[(w, names[k]) for w, k in zip(ws, scores[:, b].argmax(1))] for b, ws in enumerate(words)]  # noqa: B905

    def predict(self, series: Sequence[Array]) -> list[Any]:
        """Of each series (T, columns), NaN for what is missing: (label, probability), a number, or one per step."""
        self._need("model of series", "scaling" in self.told)
        self.reset(len(series))
        y = self.run(
            _padded([self._scaled(np.asarray(one, np.float64)) for one in series]), [len(s) for s in series]
        )
        ends = y[[len(one) - 1 for one in series], range(len(series))].astype(np.float64)
        if self.told["goal"] == "classify":
            chances = _softmax(ends)
            return [(self.tokens["labels"][c.argmax()], float(c.max())) for c in chances]
        mean, std = self.told["scaling"]["target"]
        if self.told["per"] == "series":
            return [float(end[0]) * std + mean for end in ends]
        return [y[: len(one), b, 0].astype(np.float64) * std + mean for b, one in enumerate(series)]

    def _scaled(self, values: Array) -> Array:
        scaling, absent = self.told["scaling"], np.isnan(values)
        if values.ndim != 2 or values.shape[1] != len(scaling["mean"]):
            raise ValueError(
                f"a series has the shape {values.shape}; it must be (T, {len(scaling['mean'])})."
            )
        if absent.any() and not scaling["masked"]:
            raise ValueError("a series lacks a number, and the model was not trained with missing: mask.")
        scaled = np.where(absent, 0.0, (values - scaling["mean"]) / scaling["std"])
        return np.concatenate([scaled, absent], 1) if scaling["masked"] else scaled

    def answer(self, paragraph: str, question: str) -> str:
        """What stands in the paragraph at the likeliest place."""
        self._need("model that answers questions", "letters" in self.told)
        inputs, steps = {}, {}
        for name, text in (("context", paragraph), ("question", question)):
            tokens = re.findall(r"\w+|[^\w\s]", text)
            if not tokens:
                raise ValueError(f"the {name} is {text!r}; it needs at least one word.")
            words, characters = zip(*map(self._spelt, tokens), strict=True)
            inputs[f"{name}.words"] = np.array(words)[:, None]
            inputs[f"{name}.characters"] = np.array(characters)[:, None]
            inputs[f"{name}.lengths"], steps[f"{name}.lengths"] = np.array([len(tokens)]), len(tokens)
        start, end = self.call(inputs, steps)
        both = np.multiply.outer(_softmax(start[0].astype(np.float64)), _softmax(end[0].astype(np.float64)))
        both[np.tril_indices(len(both), -1)] = -1  # the last word is not before the first
        first, last = np.unravel_index(both.argmax(), both.shape)
        spans = [found.span() for found in re.finditer(r"\w+|[^\w\s]", paragraph)]
        return paragraph[spans[first][0] : spans[last][1]]

    def _spelt(self, token: str) -> tuple[int, list[int]]:
        """Number of the word, of the trained ones or the given after them, and of its characters; 1 is unknown."""
        word, letters, trained = token.lower(), self.told["letters"], len(self.tokens["vocabulary"])
        given = self.index.get("fixed", {}).get(word, 1 - trained)
        number = self.index["vocabulary"].get(word, trained + given)
        signs = [self.index["characters"].get(sign, 1) for sign in token[:letters]]
        return number, signs + [0] * (letters - len(signs))


def _softmax(scores: Array) -> Array:
    shifted = np.exp(scores - scores.max(-1, keepdims=True))
    chances: Array = shifted / shifted.sum(-1, keepdims=True)
    return chances


def _padded(rows: Sequence[Array]) -> Array:
    """Sequences (T, ...) of several lengths side by side, (T, B, ...)."""
    if not rows or not all(map(len, rows)):
        raise ValueError("there must be a sequence, and a step in each.")
    made: Array = np.zeros((max(map(len, rows)), len(rows), *rows[0].shape[1:]), rows[0].dtype)
    for b, row in enumerate(rows):
        made[: len(row), b] = row
    return made


def _cut(text: str, style: dict[str, Any]) -> list[str]:
    """Tokens of a text in the style of the training text."""
    text = text.lower() if style["lowercase"] else text
    if "tokenizer" not in style:
        return CUT[style["name"]](text)
    lines = _tokenizer(style).encode_batch(re.findall(r"[^\n]*\n|[^\n]+", text), add_special_tokens=False)
    return [token for line in lines for token in line.tokens]


def _tokenizer(style: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer  # of subwords alone

    return Tokenizer.from_str(style["tokenizer"])


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")


def _prose(text: str) -> list[str]:
    tokens: list[str] = []
    for block in re.split(r"\n[^\S\n]*\n\s*", text.strip("\n")):
        plain = re.sub(r"([^\w\s])\1{3,}", " ", block.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
        found = ["N" if token[0].isdigit() else token for token in _PROSE.findall(plain)]
        tokens += [*found, EOS] if found else []
    return tokens


def _joined(tokens: Sequence[str], end: str) -> str:
    return " ".join(end if token == EOS else token for token in tokens)


def _joined_prose(tokens: Sequence[str]) -> str:
    text = _joined(tokens, "\n\n").replace("\n\n ", "\n\n").replace(" \n", "\n")
    return re.sub(r"(?<=[(\[{]) ", "", re.sub(r" (?=[,.;:!?)\]}])", "", text))


def _joined_bytes(tokens: Sequence[str]) -> str:
    return bytes(ord(t) if len(t) == 1 and t < "\u0100" else ord("?") for t in tokens).decode(
        errors="replace"
    )


CUT: dict[str, Callable[[str], list[str]]] = {
    "whitespace": lambda text: [t for line in _lines(text) for t in (*line.split(), EOS)],
    "prose": _prose,
    "characters": list,
    "bytes": lambda text: list(text.encode("utf-8", "surrogateescape").decode("latin-1")),
    "penn_characters": lambda text: [t for line in _lines(text) for t in (*"_".join(line.split()), EOS)],
}
JOIN: dict[str, Callable[[Sequence[str]], str]] = {
    "whitespace": lambda tokens: _joined(tokens, "\n").replace(" \n ", "\n").replace(" \n", "\n"),
    "prose": _joined_prose,
    "characters": "".join,
    "bytes": _joined_bytes,
    "penn_characters": lambda tokens: "".join("\n" if t == EOS else t.replace("_", " ") for t in tokens),
}
