"""Settings said once: what a signature allows holds for recipes and for direct calls, in one sentence."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsernn.core.checks import checked, form_of, forms_of
from sparsernn.core.errors import InputError
from sparsernn.core.limits import (
    Above,
    AtLeast,
    Between,
    Count,
    DropRate,
    Entries,
    Kind,
    Multiple,
    Named,
    OneOf,
    Positive,
    Rising,
    Share,
    Size,
    Spec,
    Spelling,
    Sum,
)
from sparsernn.core.registry import make

TABLE = {"f": 1, "fo": 2, "ifo": 3}


class Rates(TypedDict, total=False):
    """A group of settings."""

    input: DropRate
    locked: bool


class Whole:
    """Every kind of annotation."""

    @checked
    def __init__(
        self,
        size: Size = 3,
        *,
        share: Share = 0.5,
        rate: DropRate = 0.0,
        lr: Positive = 1.0,
        limit: Count | None = None,
        init: Literal["uniform", "xavier", "none"] = "uniform",
        reduction: Literal["sum", "mean"] = "sum",
        pooling: Annotated[str, OneOf(TABLE)] = "fo",
        sizes: Annotated[Sequence[Size], Entries(1), Rising()] = (1,),
        pair: Annotated[Sequence[Share], Entries(2, 2)] = (0, 1),
        many: Size | Sequence[Size] = 1,
        even: Annotated[int, Multiple(2)] = 2,
        inner: Annotated[float, Between(0, 1, open="both")] = 0.5,
        dropout: Rates | None = None,
        counts: Mapping[str, Size] | None = None,
        map: Annotated[Spec, Kind("map")] = "dense",
        title: str = "x",
        free: Any = None,
        called: Callable[[int], int] | None = None,
        tensor: torch.Tensor | float = 1.0,
        later: "Nowhere" = 1,  # noqa: F821
    ) -> None:
        self.size = size


REGISTRY = {"whole": Whole}

REFUSED = [
    ("size", 0, "a whole number of at least 1"),
    ("size", True, "a whole number of at least 1"),
    ("size", 1.0, "a whole number of at least 1"),
    ("size", "3", "a whole number of at least 1"),
    ("size", None, "a whole number of at least 1"),
    ("share", 1.01, "a finite number in [0, 1]"),
    ("share", True, "a finite number in [0, 1]"),
    ("share", math.nan, "a finite number in [0, 1]"),
    ("rate", 1, "a finite number in [0, 1)"),
    ("rate", -0.1, "a finite number in [0, 1)"),
    ("lr", 0, "a finite number above 0"),
    ("lr", math.inf, "a finite number above 0"),
    ("limit", -1, "a whole number of at least 0 or null"),
    ("limit", False, "a whole number of at least 0 or null"),
    ("init", "gauss", "one of uniform, xavier, none"),
    ("init", 3, "one of uniform, xavier, none"),
    ("init", ["uniform"], "one of uniform, xavier, none"),
    ("reduction", "all", "sum or mean"),
    ("pooling", "zzz", "one of f, fo, ifo"),
    ("sizes", [], "a list of 1 or more that rises, each entry a whole number of at least 1"),
    ("sizes", [3, 2], "a list of 1 or more that rises, each entry a whole number of at least 1"),
    ("sizes", [1, True], "a list of 1 or more that rises, each entry a whole number of at least 1"),
    ("sizes", "12", "a list of 1 or more that rises, each entry a whole number of at least 1"),
    ("pair", [0.5], "a list of 2, each entry a finite number in [0, 1]"),
    ("many", [2, 0], "a whole number of at least 1 or a list, each entry a whole number of at least 1"),
    ("even", 3, "a whole number that is even"),
    ("inner", 0, "a finite number in (0, 1)"),
    ("inner", 1, "a finite number in (0, 1)"),
    ("dropout", 0.5, "a mapping with some of input, locked or null"),
    ("counts", {"a": 0}, "a mapping with a whole number of at least 1 for each name or null"),
    ("map", 3, "a name or a mapping with the key 'name'"),
    ("map", {"size": 3}, "a name or a mapping with the key 'name'"),
    ("title", 3, "a string"),
    ("tensor", [1.0], "a Tensor or a finite number"),
]


@pytest.mark.parametrize(("key", "value", "allowed"), REFUSED)
def test_recipes_and_direct_calls_get_the_same_sentence(key, value, allowed):
    with pytest.raises(InputError) as direct:
        Whole(**{key: value})
    with pytest.raises(InputError) as recipe:
        make("thing", REGISTRY, {"name": "whole", key: value})
    assert str(direct.value) == f"{key} is {value!r}; it must be {allowed}."
    assert str(recipe.value) == f"thing.{direct.value}"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"input": 1.0}, "dropout.input is 1.0; it must be a finite number in [0, 1)."),
        ({"locked": 1}, "dropout.locked is 1; it must be true or false."),
        (
            {"inptu": 0.1},
            "dropout has no setting 'inptu'; it accepts: input, locked. Did you mean 'input'?",
        ),
    ],
)
def test_a_group_answers_for_its_settings(value, said):
    with pytest.raises(InputError) as caught:
        Whole(dropout=value)
    assert str(caught.value) == said


def test_a_misspelt_word_is_guessed():
    with pytest.raises(InputError, match=r"init is 'unifrom'; .* Did you mean 'uniform'\?"):
        Whole(init="unifrom")


def test_what_fits_or_cannot_be_judged_passes():
    Whole(7, share=1, rate=0, lr=Fraction(1, 3), limit=0, init="none", pooling="ifo", sizes=(1, 5), even=-4)
    Whole(
        np.int64(7),
        share=np.float32(0.25),
        pair=(0, 0.5),
        many=[2, 2],
        dropout={"input": 0.5, "locked": True},
    )
    Whole(map={"name": "schur", "x": 1}, counts={"a": 2}, free=object(), called=len, later="anything")
    Whole(tensor=torch.zeros(1), dropout=None, counts={}, limit=None)


def test_positions_are_checked_like_names():
    with pytest.raises(InputError, match="size is 0"):
        Whole(0)
    with pytest.raises(TypeError, match="unexpected keyword"):
        Whole(sise=3)


def test_dataclasses_and_functions_are_checked():
    @checked
    @dataclass(frozen=True)
    class Group:
        lr: Positive
        scale: Literal["sum", "mean"] = "sum"

    @checked
    def twice(number: Annotated[int, AtLeast(2)], *, by: Annotated[float, Above(1)] = 2.0) -> float:
        return number * by

    assert Group(0.1).scale == "sum"
    assert twice(2, by=1.5) == 3.0
    for wrong, said in (
        (lambda: Group(lr=0.0), "lr is 0.0"),
        (lambda: Group(1, scale="all"), "scale is 'all'"),
        (lambda: twice(1), "number is 1"),
        (lambda: twice(2, by=1), "by is 1"),
    ):
        with pytest.raises(InputError, match=said):
            wrong()


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(InputError) as caught:
        Whole(sizes=list(range(1000)))
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@given(st.floats(-2, 2))
def test_open_and_closed_ends(value):
    inside = -1 < value < 1
    for ends, allowed in (
        ("", inside or abs(value) == 1),
        ("low", inside or value == 1),
        ("high", inside or value == -1),
        ("both", inside),
    ):
        assert form_of(Annotated[float, Between(-1, 1, open=ends)]).fits(value) == allowed


def test_a_signature_keeps_its_docs_and_names():
    import inspect

    assert list(inspect.signature(Whole).parameters)[:2] == ["size", "share"]
    assert str(forms_of(Whole)["pooling"]) == "one of f, fo, ifo"
    assert str(form_of(Path | None)) == ""
    assert str(form_of(Path | str)) == "a Path or a string"
    assert str(form_of(Any)) == ""


@pytest.mark.parametrize(
    ("hint", "value", "sentence"),
    [
        (
            Annotated[Sequence[Positive], Entries(3, 3), Sum(100)],
            [80, 10, 5],
            "a list of 3 that makes 100 in sum",
        ),
        (Annotated[Mapping[str, Positive], Named(("norm", "value"))], {"size": 1}, "named norm or value"),
        (Annotated[str, Spelling(r"\d+x\d+", "ROWSxCOLUMNS")], "16", "it must be ROWSxCOLUMNS"),
        (Annotated[str, Spelling(r"\d+x\d+", "ROWSxCOLUMNS")], 16, "it must be ROWSxCOLUMNS"),
        (Annotated[int, Between(0, 9)], 10**400, r"a whole number in \[0, 9\]"),
    ],
)
def test_sums_names_spellings_and_numbers_too_large_for_a_float(hint, value, sentence):
    with pytest.raises(InputError, match=sentence):
        form_of(hint).refuse("it", value)


def test_what_fits_a_sum_a_name_or_a_spelling_passes():
    form_of(Annotated[Sequence[Positive], Sum(1)]).refuse("it", [0.1] * 10)
    form_of(Annotated[Mapping[str, Positive], Named(("norm",))]).refuse("it", {"norm": 2})
    form_of(Annotated[str, Spelling("[ab]+", "a and b")]).refuse("it", "abba")
    form_of(int).refuse("it", 10**400)
