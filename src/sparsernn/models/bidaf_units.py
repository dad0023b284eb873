"""Which weights make up a hidden unit of BiDAF: the groups of intrinsic sparse structures."""

from typing import Any

from torch import nn

from sparsernn.units import Slice, Units

GROUPS = ("six", "all", "published")


def bidaf_units(model: Any, groups: str = "six") -> list[Units]:
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


def _directions(name: str, reader: Any, slices_at: Any) -> list[Units]:
    """Both directions of a reader; `slices_at(start)` lists who reads its output feature start + k."""
    ahead, back = reader.ahead, reader.back
    return [
        ahead.as_units(f"{name} ahead", slices_at(0)),
        back.as_units(f"{name} back", slices_at(ahead.hidden_size)),
    ]


def _inputs(reader: Any, starts: tuple[int, ...], in_norm: bool = True) -> tuple[Slice, ...]:
    """Columns of both directions' input weights."""
    return tuple(Slice(lstm, "weight_ih", 1, starts, in_norm) for lstm in (reader.ahead, reader.back))


def _column(layer: nn.Linear, *starts: int) -> Slice:
    return Slice(layer, "weight", 1, starts)


def _first(model: Any) -> list[Units]:
    return _directions("first", model.first, lambda k: _inputs(model.second, (k,)))


def _second(model: Any, forget_summary: bool) -> list[Units]:
    m, p = model.second.hidden_size, 4 * model.phrase.hidden_size

    def readers(k: int) -> tuple[Slice, ...]:
        return (
            _column(model.start_score, k),
            *_inputs(model.end, (p + k, p + 2 * m + k)),
            *_inputs(model.end, (p + m + k,), in_norm=not forget_summary),
        )

    return _directions("second", model.second, readers)


def _end(model: Any) -> list[Units]:
    return _directions("end", model.end, lambda k: (_column(model.end_score, k),))


def _phrase(model: Any) -> list[Units]:
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
