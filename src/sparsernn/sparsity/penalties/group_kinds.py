"""What a group of group lasso is: a whole unit, what reads it, or single rows and columns."""

from collections.abc import Callable, Sequence
from typing import Annotated

from torch import nn

from sparsernn.core.checks import check_value
from sparsernn.core.limits import OneOf
from sparsernn.structure.units import Slice, Units

GROUPINGS = ("units", "readers", "rows_and_columns")

Counts = Callable[[Slice], bool]


def grouped(units: Sequence[Units], by: str, model: nn.Module | None = None) -> tuple[list[Units], Counts]:
    """The groups, and which of their slices count in the norm.

    Args:
        units: the hidden units of a model.
        by: "units": everything that a unit owns. "readers": only what its value is read through, its recurrent column
            and the columns of the layers above; what enters it is not penalised, and a dead unit is one that nobody
            reads. "rows_and_columns": see `rows_and_columns`.
        model: for the names of its parameters.

    Raises:
        InputError: another word.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> units = [Units("hidden", 2, (Slice(layer, "weight", 0), Slice(layer, "bias", 0, in_norm=False)))]
        >>> [(group.name, group.width) for group in grouped(units, "rows_and_columns", layer)[0]]
        [('rows of hidden', 2), ('columns of weight', 3)]

    Source: the settings `groups_hidden100_io.json` and `row_col_grouplasso.json` of the code of W. Wen et al.,
    "Learning Intrinsic Sparse Structures within Long Short-Term Memory", 2018, arXiv:1709.05027.
    """
    check_value("group_by", by, Annotated[str, OneOf(GROUPINGS)])
    if by == "rows_and_columns":
        return rows_and_columns(units, model), lambda s: s.in_norm
    if by == "readers":
        return list(units), lambda s: s.in_norm and s.reading
    return list(units), lambda s: s.in_norm


def rows_and_columns(units: Sequence[Units], model: nn.Module | None = None) -> list[Units]:
    """Every row and every column of the matrices that units own, a group each; each weight is in two of them.

    A row is what enters one gate of one unit: of an LSTM, row r of both weights. Of what reads a layer, such as the
    softmax, only columns are groups. They vanish one by one, in no agreement about units, so that what is left is as
    a rule no smaller network.
    """
    names = {} if model is None else {id(p): name for name, p in model.named_parameters()}
    found, seen = list[Units](), set[int]()
    for group in units:
        own = [s for s in group.slices if s.in_norm]
        entering = {id(s.parameter): s for s in own if s.dim == 0}
        for count in dict.fromkeys(len(s.parameter) for s in entering.values()):
            slices = tuple(Slice(s.module, s.name, 0) for s in entering.values() if len(s.parameter) == count)
            found.append(Units(f"rows of {group.name}", count, slices))
        for s in own:
            if id(s.parameter) not in seen:
                name = names.get(id(s.parameter), s.name)
                columns = s.parameter.shape[1]
                found.append(Units(f"columns of {name}", columns, (Slice(s.module, s.name, 1),)))
            seen.add(id(s.parameter))
    return found
