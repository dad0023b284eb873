"""BiDAF: where in a paragraph the answer to a question stands."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from sparsernn.contracts import Model
from sparsernn.core.checks import checked
from sparsernn.core.devices import moved
from sparsernn.core.limits import Count, DropRate, Entries, OneOf, Size
from sparsernn.core.plain import Json
from sparsernn.nn.drive.bilstm import BothEnds, turning
from sparsernn.nn.dropout import drop_quickly
from sparsernn.nn.glorot import glorot_linear
from sparsernn.nn.words.attention_flow import NEVER, AttentionFlow
from sparsernn.nn.words.characters import CharacterCNN, Highway
from sparsernn.nn.words.word_table import WordTable
from sparsernn.structure.units import Slice, Units

DROPOUTS = ("character", "lstm", "context", "output")
READERS = ("phrase", "first", "second", "end")
GROUPS = ("six", "all", "published")

Pair = Annotated[Sequence[Size], Entries(2, 2)]


class Dropouts(TypedDict, total=False):
    """Probabilities of dropping, 0 unless given; `context` is that of `lstm` unless given."""

    character: DropRate
    lstm: DropRate
    context: DropRate
    output: DropRate


class CharacterSizes(TypedDict, total=False):
    """Settings of `CharacterCNN`."""

    embedding_size: Size
    filters: Size
    width: Size


class Widths(TypedDict):
    """[ahead, back] of each reader."""

    phrase: Pair
    first: Pair
    second: Pair
    end: Pair


class Text(NamedTuple):
    """A padded batch of tokenised texts; what stands beyond a text's end is not read."""

    words: Tensor
    """(T, B) int64."""
    characters: Tensor
    """(T, B, W) int64, every word cut or filled up to W characters."""
    lengths: Tensor
    """(B,) int64, from 1 to T, on the CPU."""


class Pointers(NamedTuple):
    """Scores before the softmax over the context's words."""

    start: Tensor
    """Of the answer's first word, (B, T); -1e30 beyond the context's end."""
    end: Tensor
    """Of its last word, (B, T), likewise."""


class BiDAF(Model):
    """Bidirectional attention flow: a context and a question in, two scores for each word of the context out.

        words and characters -> highway -> `phrase` LSTMs -> attention: p (8H) -> `first` -> `second` LSTMs: m (2H)
        start = w . [m; p];   a = sum_t softmax(start)_t m_t;   [p; m; a; m * a] -> `end` LSTMs: e,   end = v . [e; p]

    All LSTMs read from both ends; question and context share everything up to the attention.

    Args:
        vocabulary_size: words whose vectors are trained.
        characters: number of different characters.
        fixed_words: words whose vectors are given (`words.fixed`); their numbers follow those of the others.
        word_size: numbers per word vector.
        hidden_size: H of each direction, or {phrase: [ahead, back], first: ..., second: ..., end: ...}.
        character_cnn: settings of `CharacterCNN` (`embedding_size`, `filters`, `width`).
        dropout: probabilities `character` (character vectors), `lstm` (inputs of the LSTMs), `output` (inputs of the
            two last layers), 0 unless given, and `context` (inputs of the phrase LSTMs where they read the context;
            `lstm` unless given. 0 is what the published code does).
        groups: which units `units` lists: "six" (of first, second and end), "all" (of phrase as well), or
            "published" (six, without the weights that read second through a).

    Example:
        >>> model = BiDAF(100, 30, hidden_size=10)
        >>> text = Text(torch.ones(7, 2, dtype=int), torch.ones(7, 2, 16, dtype=int), torch.tensor([7, 4]))
        >>> model(text, text).start.shape
        torch.Size([2, 7])

    Source: M. Seo, A. Kembhavi, A. Farhadi and H. Hajishirzi, "Bidirectional Attention Flow for Machine
    Comprehension", 2016, arXiv:1611.01603; in the sizes of W. Wen et al., "Learning Intrinsic Sparse Structures
    within Long Short-Term Memory", 2018, arXiv:1709.05027.
    Differs from the original: the context is read with dropout as the question is, unless `dropout.context` is 0.
    """

    @checked
    def __init__(
        self,
        vocabulary_size: Size,
        characters: Size,
        fixed_words: Count = 0,
        word_size: Size = 100,
        hidden_size: Size | Widths = 100,
        character_cnn: CharacterSizes | None = None,
        dropout: Dropouts | None = None,
        groups: Annotated[str, OneOf(GROUPS)] = "six",
    ) -> None:
        super().__init__()
        given: Mapping[str, Json] = {} if dropout is None else dropout
        usual = dict.fromkeys(DROPOUTS, 0.0) | {"context": given.get("lstm", 0.0)}
        self.dropout: dict[str, float] = usual | dict(given)
        self.groups = groups
        widths = reader_widths(hidden_size)
        self.words = WordTable(vocabulary_size, word_size, fixed_words)
        self.characters = CharacterCNN(characters, **({} if character_cnn is None else character_cnn))
        encoded = word_size + len(self.characters.bias)
        self.highway = Highway(encoded)
        phrase, first, second, end = (sum(widths[name]) for name in READERS)
        self.phrase = BothEnds(encoded, *widths["phrase"])
        self.attention = AttentionFlow(phrase)
        self.first = BothEnds(4 * phrase, *widths["first"])
        self.second = BothEnds(first, *widths["second"])
        self.end = BothEnds(4 * phrase + 3 * second, *widths["end"])
        self.start_score = glorot_linear(second + 4 * phrase, 1)
        self.end_score = glorot_linear(end + 4 * phrase, 1)

    def initial_state(self, batch: int) -> None:
        """None: questions have nothing to do with each other."""

    def forward(self, context: Text, question: Text) -> Pointers:
        """Read a batch of contexts and their questions (of the same B) -> scores of each context word."""
        order = _turning(context)
        inside, asked = _inside(context), _inside(question)
        h = self.phrase(self._encode(context), order, self.dropout["context"])
        u = self.phrase(self._encode(question), _turning(question), self.dropout["lstm"])
        p = self.attention(h, u, inside, asked)
        m = self.second(self.first(p, order, self.dropout["lstm"]), order, self.dropout["lstm"])
        start = self._score(self.start_score, m, p, inside)
        summary = start.softmax(1).unsqueeze(1) @ m.transpose(0, 1)
        a = summary.transpose(0, 1).expand_as(m)
        e = self.end(torch.cat([p, m, a, m * a], -1), order, self.dropout["lstm"])
        return Pointers(start, self._score(self.end_score, e, p, inside))

    def _encode(self, text: Text) -> Tensor:
        spelt = self.characters(text.characters, self.dropout["character"])
        encoded: Tensor = self.highway(torch.cat([self.words(text.words), spelt], -1))
        return encoded

    def _score(self, layer: nn.Linear, x: Tensor, p: Tensor, inside: Tensor) -> Tensor:
        dropped = drop_quickly(torch.cat([x, p], -1), self.dropout["output"], self.training)
        scores: Tensor = layer(dropped).squeeze(-1).T
        return scores.masked_fill(~inside, NEVER)

    def units(self) -> list[Units]:
        """Hidden units of the LSTMs that `groups` names, one direction after the other; see `bidaf_units`."""
        return bidaf_units(self, self.groups)

    def resized(self, settings: Mapping[str, Json]) -> dict[str, Json]:
        """The constructor's settings, as a recipe has them, with the sizes that the weights have now."""
        readers = {name: getattr(self, name) for name in READERS}
        widths = {name: [r.ahead.hidden_size, r.back.hidden_size] for name, r in readers.items()}
        return {**settings, "hidden_size": widths}


@checked
def reader_widths(hidden_size: Size | Widths) -> dict[str, list[int]]:
    """The widths of both directions of every reader.

    Raises:
        InputError: not one pair of whole numbers above 0 for each reader.

    Example:
        >>> reader_widths(5)["end"]
        [5, 5]
    """
    alike = dict.fromkeys(READERS, [hidden_size] * 2)
    widths: Mapping[str, Json] = hidden_size if isinstance(hidden_size, Mapping) else alike
    return {name: list(widths[name]) for name in READERS}


def _inside(text: Text) -> Tensor:
    """bool (B, T), on the device of the words."""
    flags = torch.arange(len(text.words)).unsqueeze(0) < text.lengths.unsqueeze(1)
    inside: Tensor = moved(flags, text.words.device)
    return inside


def _turning(text: Text) -> Tensor:
    """As `turning`, on the device of the words."""
    order: Tensor = moved(turning(text.lengths, len(text.words)), text.words.device)
    return order


def bidaf_units(model: "BiDAF", groups: str = "six") -> list[Units]:
    """The hidden units of BiDAF's LSTMs with everything that reads them.

    A unit of `second` is read by the start's score and by both `end` LSTMs, and there three times: as m, through the
    summary a, and as m * a. A unit of `phrase` stands four times in p (h, a_t, h * a_t, h * c), which is read by
    `first`, by `end` and by both scores, and three times in the attention's score.

    Args:
        model: a `BiDAF`.
        groups: "six": of first, second, end; "all": of phrase too; "published": six, but the norm forgets the
            weights that read `second` through the summary. A unit of norm 0 that has a bias then still reaches the
            output, and removing it changes the answer.

    Source: W. Wen et al., "Learning Intrinsic Sparse Structures within Long Short-Term Memory", 2018,
    arXiv:1709.05027.
    Differs from the original: the weights behind the summary belong to the unit, unless "published" is asked for.
    """
    found = [*_first(model), *_second(model, groups == "published"), *_end(model)]
    return [*_phrase(model), *found] if groups == "all" else found


def _directions(name: str, reader: BothEnds, slices_at: Callable[[int], tuple[Slice, ...]]) -> list[Units]:
    """Both directions of a reader; `slices_at(start)` lists who reads its output feature start + k."""
    ahead, back = reader.ahead, reader.back
    return [
        ahead.as_units(f"{name} ahead", slices_at(0)),
        back.as_units(f"{name} back", slices_at(ahead.hidden_size)),
    ]


def _inputs(reader: BothEnds, starts: tuple[int, ...], in_norm: bool = True) -> tuple[Slice, ...]:
    """Columns of both directions' input weights."""
    return tuple(Slice(lstm, "weight_ih", 1, starts, in_norm) for lstm in (reader.ahead, reader.back))


def _column(layer: nn.Linear, *starts: int) -> Slice:
    return Slice(layer, "weight", 1, starts)


def _first(model: "BiDAF") -> list[Units]:
    return _directions("first", model.first, lambda k: _inputs(model.second, (k,)))


def _second(model: "BiDAF", forget_summary: bool) -> list[Units]:
    m, p = model.second.hidden_size, 4 * model.phrase.hidden_size

    def readers(k: int) -> tuple[Slice, ...]:
        return (
            _column(model.start_score, k),
            *_inputs(model.end, (p + k, p + 2 * m + k)),
            *_inputs(model.end, (p + m + k,), in_norm=not forget_summary),
        )

    return _directions("second", model.second, readers)


def _end(model: "BiDAF") -> list[Units]:
    return _directions("end", model.end, lambda k: (_column(model.end_score, k),))


def _phrase(model: "BiDAF") -> list[Units]:
    d, m, e = (reader.hidden_size for reader in (model.phrase, model.second, model.end))

    def readers(k: int) -> tuple[Slice, ...]:
        four = tuple(part * d + k for part in range(4))
        scores = ((model.start_score, m), (model.end_score, e))
        return (
            _column(model.attention.score, *four[:3]),
            *_inputs(model.first, four),
            *_inputs(model.end, four),
            *(_column(layer, *(offset + start for start in four)) for layer, offset in scores),
        )

    return _directions("phrase", model.phrase, readers)
