"""Models over whole sequences in ONNX: one function for each, from its inputs to its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Part
from sparsernn.core.states import tensors
from sparsernn.deploy.graphs.onnx_graph import END, FLOAT, Graph
from sparsernn.deploy.graphs.onnx_layers import Lengths, operator, write_layer
from sparsernn.deploy.graphs.onnx_words import write_embedding, write_head
from sparsernn.deploy.graphs.whole_sequence import WholeSequence
from sparsernn.models.bidaf import BiDAF
from sparsernn.models.language_model import LanguageModel
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.models.tagger import Tagger
from sparsernn.nn.drive.bilstm import BothEnds
from sparsernn.nn.drive.layer import Layer, Stack
from sparsernn.nn.words.attention_flow import NEVER
from sparsernn.nn.words.characters import CharacterCNN, Highway

Values = dict[str, str]


def write_model(form: WholeSequence, opset: int, kind: type[Graph] = Graph) -> Graph:
    """A model's graph.

    Args:
        form: what the model reads and gives.
        opset: version of the operators.
        kind: of graph.

    Raises:
        InputError: a model, or a part of one, of another kind.
    """
    model = form.model
    if type(model) not in MODEL_WRITERS:
        raise InputError(f"a {type(model).__name__} cannot be written as an ONNX graph of whole sequences.")
    graph = kind(opset, model)
    given = {one.name: graph.input(one.name, one.kind, one.shape) for one in form.inputs}
    found = MODEL_WRITERS[type(model)](graph, model, given)
    for one in form.outputs:
        graph.output(one.name, found[one.name], FLOAT, one.shape)
    return graph


def _language_model(g: Graph, model: LanguageModel, given: Values) -> Values:
    lengths = Lengths(g, given["lengths"], given["words"])
    x = write_embedding(g, model.embedding, given["words"])
    y, after = _stack(g, model.layers, x, lengths, _states(given))
    with g.scope("head"):
        return {"log_prob": write_head(g, model.head, y, model.vocabulary_size), **_next(after)}


def _sequence_model(g: Graph, model: SequenceModel, given: Values) -> Values:
    lengths = Lengths(g, given["lengths"], given["x"])
    y, after = _stack(g, model.layers, given["x"], lengths, _states(given))
    return {"y": g.linear(y, model.output.weight, model.output.bias, "output"), **_next(after)}


def _states(given: Values) -> list[str]:
    return [value for name, value in given.items() if name.startswith("state.")]


def _next(after: Sequence[str]) -> Values:
    return {f"next.{k}": value for k, value in enumerate(after)}


def _stack(g: Graph, layers: Stack, x: str, lengths: Lengths, state: Sequence[str]) -> tuple[str, list[str]]:
    """Layers one after the other; `state` are the leaves of all."""
    left, found = list(state), []
    for k, layer in enumerate(layers.members):
        count = len(_leaves(layer))
        before, left = left[:count], left[count:]
        with g.scope(f"layers.{k}"):
            x, after = write_layer(g, layer, x, lengths, before)
        found += after
    return x, found


def _leaves(layer: Layer) -> list[Tensor]:
    return list(tensors(layer.initial_state(1)))


def _tagger(g: Graph, model: Tagger, given: Values) -> Values:
    lengths = Lengths(g, given["lengths"], given["words"])
    x = write_embedding(g, model.embedding, given["words"])
    for k, layer in enumerate(model.layers):
        with g.scope(f"layers.{k}"):
            x, _ = write_layer(g, layer, x, lengths, [])  # type: ignore[arg-type]
    hidden = g.do("Tanh", _layer(g, model.hidden, x, "hidden"))
    return {"scores": _layer(g, model.output, hidden, "output")}


def _layer(g: Graph, layer: nn.Linear, x: str, what: str) -> str:
    return g.linear(x, layer.weight, layer.bias, what)


def _bidaf(g: Graph, model: BiDAF, given: Values) -> Values:
    texts = ("context", "question")
    lengths, asked = (Lengths(g, given[f"{text}.lengths"], given[f"{text}.words"]) for text in texts)
    context, question = ((given[f"{text}.words"], given[f"{text}.characters"]) for text in texts)
    h = _both_ends(g, model.phrase, _encoded(g, model, *context), lengths, "phrase")
    u = _both_ends(g, model.phrase, _encoded(g, model, *question), asked, "phrase")
    p = _attention(g, model, h, u, lengths, asked)
    first = _both_ends(g, model.first, p, lengths, "first")
    m = _both_ends(g, model.second, first, lengths, "second")
    start = _pointer(g, model.start_score, m, p, lengths, "start")
    chosen = g.do("Unsqueeze", g.do("Softmax", start, axis=1), g.numbers(1))
    summary = g.do("Transpose", g.do("MatMul", chosen, _by_sequence(g, m)), perm=[1, 0, 2])
    a = g.do("Expand", summary, g.do("Shape", m))
    e = _both_ends(g, model.end, g.joined([p, m, a, g.do("Mul", m, a)]), lengths, "end")
    return {"start": start, "end": _pointer(g, model.end_score, e, p, lengths, "end")}


def _by_sequence(g: Graph, x: str) -> str:
    """(T, B, D) -> (B, T, D)."""
    return g.do("Transpose", x, perm=[1, 0, 2])


def _encoded(g: Graph, model: BiDAF, words: str, characters: str) -> str:
    """A text's words and characters -> (T, B, E)."""
    x = g.joined([write_embedding(g, model.words, words), _spelt(g, model.characters, characters)])
    return _highways(g, model.highway, x)


def _spelt(g: Graph, cnn: CharacterCNN, characters: str) -> str:
    """See `CharacterCNN.forward`."""
    vectors, width = g.do("Gather", g.weight(cnn.embedding), characters), cnn.width
    shifted = [g.sliced(vectors, k, k + 1 - width or END, -2) for k in range(width)]
    filters = g.table("characters.weight.t", cnn.weight.t().contiguous())
    largest = g.reduced("ReduceMax", g.do("MatMul", g.joined(shifted), filters), -2)
    return g.do("Relu", g.do("Add", largest, g.weight(cnn.bias)))


def _highways(g: Graph, highway: Highway, x: str) -> str:
    for k, (transform, gate) in enumerate(zip(highway.transforms, highway.gates, strict=True)):
        new = g.do("Relu", _layer(g, transform, x, f"highway.transforms.{k}"))  # type: ignore[arg-type]
        share = g.do("Sigmoid", _layer(g, gate, x, f"highway.gates.{k}"))  # type: ignore[arg-type]
        x = g.do("Add", x, g.do("Mul", share, g.do("Sub", new, x)))
    return x


def _both_ends(g: Graph, reader: BothEnds, x: str, lengths: Lengths, name: str) -> str:
    """An operator for each direction, which may be of different widths."""
    found = []
    for way, lstm, direction in (("ahead", reader.ahead, "forward"), ("back", reader.back, "reverse")):
        weights: list[Tensor] = [lstm.weight_ih, lstm.weight_hh, lstm.bias_ih, lstm.bias_hh]
        with g.scope(f"{name}.{way}"):
            y, *_ = operator(g, "LSTM", x, lengths, [], [weights], direction=direction)
            found.append(g.do("Squeeze", y, g.numbers(1)))
    return g.joined(found)


def _inside(g: Graph, lengths: Lengths) -> str:
    """bool (B, T)."""
    return g.do("Transpose", g.do("Squeeze", lengths.valid, g.numbers(-1)), perm=[1, 0])


def _attention(g: Graph, model: BiDAF, h: str, u: str, lengths: Lengths, asked: Lengths) -> str:
    """See `AttentionFlow`."""
    h, u, never = _by_sequence(g, h), _by_sequence(g, u), g.number(NEVER)
    score = model.attention.score
    w_h, w_u, both = score.weight.chunk(3, dim=1)
    other = g.do("Transpose", u, perm=[0, 2, 1])
    own_h, own_u = g.linear(h, w_h, score.bias, "attention.h"), g.linear(u, w_u, None, "attention.u")
    mixed = g.do("MatMul", g.do("Mul", h, g.own_table("attention.both", both)), other)
    s = g.do("Add", g.do("Add", own_h, g.do("Transpose", own_u, perm=[0, 2, 1])), mixed)
    s = g.do("Where", g.do("Unsqueeze", _inside(g, asked), g.numbers(1)), s, never)
    found = g.do("MatMul", g.do("Softmax", s, axis=2), u)
    largest = g.do("Where", _inside(g, lengths), g.reduced("ReduceMax", s, 2), never)
    weights = g.do("Unsqueeze", g.do("Softmax", largest, axis=1), g.numbers(1))
    summary = g.do("MatMul", weights, h)
    return _by_sequence(g, g.joined([h, found, g.do("Mul", h, found), g.do("Mul", h, summary)]))


def _pointer(g: Graph, layer: nn.Linear, x: str, p: str, lengths: Lengths, name: str) -> str:
    """Scores (B, T), `NEVER` beyond the end."""
    scores = g.do("Squeeze", _layer(g, layer, g.joined([x, p]), f"{name}_score"), g.numbers(-1))
    return g.do("Where", _inside(g, lengths), g.do("Transpose", scores, perm=[1, 0]), g.number(NEVER))


MODEL_WRITERS: dict[type[nn.Module], Callable[[Graph, Part, Values], Values]] = {
    BiDAF: _bidaf,
    LanguageModel: _language_model,
    SequenceModel: _sequence_model,
    Tagger: _tagger,
}
"""Model -> what writes it."""
