"""A model as a function of whole sequences: what it reads and gives, by name, and the same in torch for free lengths.

Time T and batch B are free, and no length that was seen is frozen in: a layer is driven step by step by torch's own
operator `scan`, whose step is that of the layer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsernn.contracts import Model
from sparsernn.core.errors import InputError
from sparsernn.core.plain import Part
from sparsernn.core.states import rebuilt, tensors
from sparsernn.core.streams import stream
from sparsernn.models.bidaf import BiDAF, Text
from sparsernn.models.tagger import Tagger
from sparsernn.nn import BlockLSTM
from sparsernn.nn.drive.bilstm import BothEnds
from sparsernn.nn.words.attention_flow import NEVER

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Named:
    """An input or output of a graph.

    Attributes:
        name: by which other programs know it.
        kind: "FLOAT" or "INT64".
        shape: a number, or the letter of what is free, for each axis: T time, B batch; J time of a question, W
            characters of a word.
        below: what ids have to be below; None for what is no ids.
    """

    name: str
    kind: str
    shape: Shape
    below: int | None = None


class WholeSequence(nn.Module):
    """A model over whole sequences.

    Args:
        model: in evaluation mode.

    Attributes:
        inputs: in the order in which `forward` takes them.
        outputs: in the order in which it returns them. Beyond a sequence's end they have no meaning.
    """

    inputs: list[Named]
    outputs: list[Named]

    def __init__(self, model: Part) -> None:
        super().__init__()
        self.model: Part = model

    def start(self) -> dict[str, list[float]]:
        """What each input of state begins with, for one sequence."""
        leaves = tensors(self.model.initial_state(1))
        return {f"state.{k}": t[0].detach().tolist() for k, t in enumerate(leaves)}

    @abstractmethod
    def sample(self, steps: int, batch: int) -> list[Tensor]:
        """Random inputs, ragged where B is above 1, with a state that has left its start."""

    @abstractmethod
    def expected(self, inputs: Sequence[Tensor], row: int) -> list[Tensor]:
        """What the model itself says of one sequence, unpadded: the outputs with a batch of 1."""

    def difference(self, inputs: Sequence[Tensor], found: Sequence[Tensor]) -> float:
        """The largest difference of the outputs of a batch from `expected`, inside the sequences."""
        lengths = inputs[[one.name.endswith("lengths") for one in self.inputs].index(True)]
        largest = 0.0
        for row in range(len(lengths)):
            for one, wanted, given in zip(self.outputs, self.expected(inputs, row), found, strict=True):
                own = given.select(one.shape.index("B"), row).unsqueeze(one.shape.index("B"))
                if "T" in one.shape:
                    own = own.narrow(one.shape.index("T"), 0, int(lengths[row]))
                largest = max(largest, float((wanted - own).abs().max()))
        return largest


class Carried(WholeSequence):
    """A model that reads one word or vector after the other, and carries a state.

    Example:
        >>> from sparsernn.models.sequence_model import SequenceModel
        >>> [one.name for one in Carried(SequenceModel(3, 2, [4])).inputs]
        ['x', 'lengths', 'state.0', 'state.1']
    """

    def __init__(self, model: Part) -> None:
        super().__init__(model)
        self.words = model.reads == "words"
        leaves = list(tensors(model.initial_state(1)))
        first = model.layers.members[0].input_size
        read = (
            Named("words", "INT64", ("T", "B"), model.vocabulary_size)
            if self.words
            else Named("x", "FLOAT", ("T", "B", first))
        )
        shapes = [("B", *t.shape[1:]) for t in leaves]
        states = [Named(f"state.{k}", "FLOAT", shape) for k, shape in enumerate(shapes)]
        self.inputs = [read, Named("lengths", "INT64", ("B",)), *states]
        given = Named("log_prob" if self.words else "y", "FLOAT", ("T", "B", self._width()))
        self.outputs = [given, *(Named(f"next.{k}", "FLOAT", shape) for k, shape in enumerate(shapes))]

    def _width(self) -> int:
        width: int = self.model.vocabulary_size if self.words else self.model.output.out_features
        return width

    def sample(self, steps: int, batch: int) -> list[Tensor]:
        """See `WholeSequence`."""
        made = stream("example sequences")
        if self.words:
            x = torch.randint(self.model.vocabulary_size, (steps, batch), generator=made)
        else:
            x = torch.randn(steps, batch, int(self.inputs[0].shape[2]), generator=made)
        states = [torch.randn(batch, *map(int, one.shape[1:]), generator=made) for one in self.inputs[2:]]
        return [x, ragged(steps, batch, made), *states]

    def expected(self, inputs: Sequence[Tensor], row: int) -> list[Tensor]:
        """See `WholeSequence`."""
        x, lengths, *state = inputs
        own = slice(row, row + 1)
        read = self.model(x[: lengths[row], own], self._state(s[own] for s in state))
        return [self._scores(read.raw), *tensors(read.state)]

    def _state(self, leaves: Any) -> Any:
        return rebuilt(self.model.initial_state(1), iter(list(leaves)))

    def _scores(self, raw: Tensor) -> Tensor:
        scores: Tensor = self.model.head.log_prob(raw) if self.words else self.model.read_out(raw)
        return scores

    def forward(self, x: Tensor, lengths: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """(x, lengths, *state) -> (scores, *state after it)."""
        y = self.model.embedding(x) if self.words else x
        valid, left, after = within(y, lengths), list(state), []
        for layer in self.model.layers.members:
            count = len(list(tensors(layer.initial_state(1))))
            before, left = left[:count], left[count:]
            back = getattr(layer, "reverse", False)
            y, now = scanned(layer, turned(y, lengths) if back else y, before, valid)
            y = turned(y, lengths) if back else y
            after += now
        return self._scores(y), *after


class Tagged(WholeSequence):
    """A tagger: both directions of every layer, a score of each tag for every word."""

    def __init__(self, model: Tagger) -> None:
        super().__init__(model)
        layers: Part = model.layers
        self.ways: Part = nn.ModuleList(nn.ModuleList(one_way(layer)) for layer in layers)
        words: Part = model.embedding.vocabulary_size
        self.inputs = [Named("words", "INT64", ("T", "B"), words), Named("lengths", "INT64", ("B",))]
        self.outputs = [Named("scores", "FLOAT", ("T", "B", model.output.out_features))]

    def start(self) -> dict[str, list[float]]:
        """Nothing is carried."""
        return {}

    def sample(self, steps: int, batch: int) -> list[Tensor]:
        """See `WholeSequence`."""
        made, table = stream("example sequences"), self.model.embedding
        words = torch.randint(table.vocabulary_size, (steps, batch), generator=made)
        return [words, ragged(steps, batch, made)]

    def expected(self, inputs: Sequence[Tensor], row: int) -> list[Tensor]:
        """See `WholeSequence`."""
        words, lengths = inputs
        return [self.model(words[: lengths[row], row : row + 1])]

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """(words, lengths) -> scores."""
        x = self.model.embedding(words)
        for ahead, back in self.ways:
            x = both_ways(ahead, back, x, lengths)
        scores: Tensor = self.model.output(self.model.hidden(x).tanh())
        return scores


class Asked(WholeSequence):
    """BiDAF: a context and a question, two scores for each word of the context."""

    def __init__(self, model: BiDAF) -> None:
        super().__init__(model)
        words, letters = len(model.words.weight) + len(model.words.fixed), len(model.characters.embedding)
        self.inputs = [
            one
            for text, steps in (("context", "T"), ("question", "J"))
            for one in (
                Named(f"{text}.words", "INT64", (steps, "B"), words),
                Named(f"{text}.characters", "INT64", (steps, "B", "W"), letters),
                Named(f"{text}.lengths", "INT64", ("B",)),
            )
        ]
        self.outputs = [Named(name, "FLOAT", ("B", "T")) for name in ("start", "end")]

    def start(self) -> dict[str, list[float]]:
        """Nothing is carried."""
        return {}

    def sample(self, steps: int, batch: int) -> list[Tensor]:
        """See `WholeSequence`."""
        made, model, found = stream("example sequences"), self.model, []
        words, letters = len(model.words.weight) + len(model.words.fixed), len(model.characters.embedding)
        for count in (steps, steps // 2 + 2):
            found.append(torch.randint(words, (count, batch), generator=made))
            spelt = (count, batch, model.characters.width + 3)
            found.append(torch.randint(letters, spelt, generator=made))
            found.append(ragged(count, batch, made))
        return found

    def expected(self, inputs: Sequence[Tensor], row: int) -> list[Tensor]:
        """See `WholeSequence`."""
        own = slice(row, row + 1)
        texts = [
            Text(words[: lengths[row], own], characters[: lengths[row], own], lengths[own])
            for words, characters, lengths in (inputs[:3], inputs[3:])
        ]
        return list(self.model(*texts))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `BiDAF.forward`, for lengths that are not known yet."""
        model, (lengths, asked) = self.model, (inputs[2], inputs[5])
        h, u = (self._phrase(*inputs[k : k + 3]) for k in (0, 3))
        inside = within(h, lengths).squeeze(-1).T
        p = model.attention(h, u, inside, within(u, asked).squeeze(-1).T)
        m = self._read(model.second, self._read(model.first, p, lengths), lengths)
        start = self._pointer(model.start_score, m, p, inside)
        a = (start.softmax(1).unsqueeze(1) @ m.transpose(0, 1)).transpose(0, 1).expand_as(m)
        e = self._read(model.end, torch.cat([p, m, a, m * a], -1), lengths)
        return start, self._pointer(model.end_score, e, p, inside)

    def _phrase(self, words: Tensor, characters: Tensor, lengths: Tensor) -> Tensor:
        encoded = self.model._encode(Text(words, characters, lengths))
        return self._read(self.model.phrase, encoded, lengths)

    def _read(self, reader: BothEnds, x: Tensor, lengths: Tensor) -> Tensor:
        return both_ways(reader.ahead, reader.back, x, lengths)

    def _pointer(self, layer: nn.Linear, x: Tensor, p: Tensor, inside: Tensor) -> Tensor:
        return layer(torch.cat([x, p], -1)).squeeze(-1).T.masked_fill(~inside, NEVER)  # type: ignore[no-any-return]


def whole_sequence(model: nn.Module) -> WholeSequence:
    """A model as a function of whole sequences.

    Args:
        model: in evaluation mode.

    Raises:
        InputError: another kind of model.
    """
    if type(model) in READERS:
        return READERS[type(model)](model)
    if isinstance(model, Model) and model.reads != "sequences":
        return Carried(model)
    raise InputError(
        f"a {type(model).__name__} is no model of this library that reads sequences; it has no graph."
    )


READERS: dict[type[nn.Module], Callable[[Part], WholeSequence]] = {BiDAF: Asked, Tagger: Tagged}
"""Models that read whole texts -> their form."""


def ragged(steps: int, batch: int, generator: torch.Generator) -> Tensor:
    """Lengths (B,) of 1 to T, the first one T."""
    lengths = torch.randint(1, steps + 1, (batch,), generator=generator)
    lengths[0] = steps
    return lengths


def within(x: Tensor, lengths: Tensor) -> Tensor:
    """bool (T, B, 1): which steps of x (T, B, ...) lie inside their sequence."""
    return (torch.arange(x.shape[0]).unsqueeze(1) < lengths).unsqueeze(-1)


def turned(x: Tensor, lengths: Tensor) -> Tensor:
    """Every sequence of x (T, B, F) from its end; what lies beyond the end stays where it is."""
    t = torch.arange(x.shape[0]).unsqueeze(1)
    order = torch.where(t < lengths, lengths - 1 - t, t).unsqueeze(-1)
    return x.gather(0, order.expand_as(x))


def both_ways(ahead: nn.Module, back: nn.Module, x: Tensor, lengths: Tensor) -> Tensor:
    """Two LSTMs over the same sequences, one from each end, from zeros: (T, B, both)."""
    valid, batch = within(x, lengths), x.shape[1]

    def read(layer: Part, x: Tensor) -> Tensor:
        return scanned(layer, x, [x.new_zeros(batch, layer.hidden_size) for _ in range(2)], valid)[0]

    return torch.cat([read(ahead, x), turned(read(back, turned(x, lengths)), lengths)], -1)


def one_way(layer: BlockLSTM) -> Iterator[BlockLSTM]:
    """The two directions of a layer, each as a layer of its own."""
    for suffix in layer.suffixes:
        spans = layer.hidden_spans(suffix)
        listed = [[len(s), w.start, w.stop] for s, w in zip(spans, layer.windows, strict=True)]
        one = BlockLSTM(layer.input_size, spans[-1].stop, blocks=listed)
        for n in range(len(spans)):
            for own, given in zip(one.weights(n), layer.weights(n, suffix), strict=True):
                own.data = given.detach().clone()
        yield one.eval()


def scanned(layer: Part, x: Tensor, state: Sequence[Tensor], valid: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A layer, one step at a time: x (T, B, I) -> y (T, B, H), and the leaves of the state after it."""
    from torch._higher_order_ops.scan import scan

    form = layer.initial_state(1)

    def step(before: list[Tensor], now: tuple[Tensor, Tensor]) -> tuple[list[Tensor], Tensor]:
        x_t, inside = now
        y, after = layer(x_t.unsqueeze(0), rebuilt(form, iter(before)))
        kept = [torch.where(inside, new, old) for new, old in zip(tensors(after), before, strict=True)]
        return kept, y[0].clone()

    after, y = scan(step, list(state), (x, valid))
    return y, list(after)
