"""The registry: settings are checked for their types before anything is built."""

from collections.abc import Mapping
from functools import partial

import pytest
import torch
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.core.registry import check_value, make
from sparsernn.models import MODELS
from sparsernn.optim import OPTIMIZERS
from sparsernn.tasks import TASKS


class Part:
    """Every kind of annotation that settings have."""

    def __init__(
        self,
        flag: bool = False,
        count: int = 1,
        ratio: "float" = 0.5,
        limit: int | None = None,
        loose: bool | Mapping[str, int] | None = None,
        bare=True,
        anything=3,
    ) -> None:
        if count == 0:
            raise RuntimeError("no storage.\nand a page of detail")
        self.given = (flag, count, ratio, limit, loose, bare, anything)


def resolvable_later(flag: "Nowhere" = False, word: "Nowhere" = "a"):  # noqa: F821
    """Annotations that exist for a type checker only."""
    return flag, word


REGISTRY = {"part": Part, "bound": partial(Part, count=2), "later": resolvable_later}


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("flag", "no", "true or false"),
        ("flag", 1, "true or false"),
        ("flag", None, "true or false"),
        ("bare", "off", "true or false"),
        ("count", "many", "a whole number"),
        ("count", True, "a whole number"),
        ("count", 1.5, "a whole number"),
        ("count", [1], "a whole number"),
        ("ratio", "abc", "a finite number"),
        ("ratio", False, "a finite number"),
        ("ratio", float("nan"), "a finite number"),
        ("ratio", None, "a finite number"),
        ("limit", "x", "a whole number or null"),
        ("limit", False, "a whole number or null"),
        ("loose", "no", "true or false or a mapping with a whole number for each name or null"),
    ],
)
@pytest.mark.parametrize("name", ["part", "bound"])
def test_a_value_of_the_wrong_type_is_refused(name, key, value, allowed):
    with pytest.raises(InputError) as caught:
        make("thing", REGISTRY, {"name": name, key: value})
    assert str(caught.value) == f"thing.{key} is {value!r}; it must be {allowed}."


@pytest.mark.parametrize(
    "settings",
    [
        {"flag": True, "bare": False},
        {"count": -3, "limit": None},
        {"ratio": 2, "limit": 7},
        {"loose": True},
        {"anything": "no"},
    ],
)
def test_what_fits_or_cannot_be_judged_is_passed_on(settings):
    assert set(settings.values()) <= set(make("thing", REGISTRY, {"name": "part", **settings}).given)


def test_what_the_program_supplies_is_not_checked():
    assert make("thing", REGISTRY, "part", flag="no").given[0] == "no"


def test_annotations_that_cannot_be_resolved_leave_the_defaults_to_judge_by():
    assert make("thing", REGISTRY, {"name": "later", "word": 5}) == (False, 5)
    with pytest.raises(InputError, match=r"thing\.flag is 'no'; it must be true or false"):
        make("thing", REGISTRY, {"name": "later", "flag": "no"})


def test_a_constructor_that_fails_is_answered_in_one_sentence():
    with pytest.raises(InputError) as caught:
        make("thing", REGISTRY, {"name": "part", "count": 0})
    assert str(caught.value) == "thing 'part' cannot be built from {'count': 0}: no storage."


@pytest.mark.parametrize(("value", "fits"), [(1.5, True), (2, True), ("x", False), (True, False)])
def test_other_classes_in_a_union_are_allowed_beside_plain_ones(value, fits):
    check_value("x", 3j, float | complex)
    if fits:
        check_value("x", value, float | complex)
    else:
        with pytest.raises(InputError):
            check_value("x", value, float | complex)


@pytest.mark.parametrize(
    ("kind", "registry", "spec", "message"),
    [
        ("optimizer", OPTIMIZERS, {"name": "nt_asgd", "weight_decay": "abc"}, "weight_decay is 'abc'"),
        ("optimizer", OPTIMIZERS, {"name": "snt_asgd", "weight_decay": "abc"}, "weight_decay is 'abc'"),
        ("optimizer", OPTIMIZERS, {"name": "snt_asgd", "switch_epoch": "x"}, "switch_epoch is 'x'"),
        ("optimizer", OPTIMIZERS, {"name": "nt_asgd", "stop_when_worse": "no"}, "must be true or false"),
        ("optimizer", OPTIMIZERS, {"name": "nt_asgd", "weight_decay": -1}, "is -1; it must be .* at least 0"),
        ("optimizer", OPTIMIZERS, {"name": "snt_asgd", "switch_epoch": -1}, "of at least 0 or null"),
        ("optimizer", OPTIMIZERS, {"name": "sgd", "weight_decay": -1}, "Invalid weight_decay"),
        ("optimizer", OPTIMIZERS, {"name": "sgd", "weight_decay": "abc"}, "weight_decay is 'abc'"),
        ("optimizer", OPTIMIZERS, {"name": "sgd", "nesterov": "no"}, "must be true or false"),
        ("optimizer", OPTIMIZERS, {"name": "adam", "amsgrad": "off"}, "must be true or false"),
        ("model", MODELS, {"name": "language_model", "tied": "no"}, "model.tied is 'no'"),
        ("model", MODELS, {"name": "language_model", "embedding_size": -5}, "embedding_size is -5"),
        ("model", MODELS, {"name": "language_model", "embedding_size": "x"}, "embedding_size is 'x'"),
        ("task", TASKS, {"name": "language_modelling", "alpha": "abc"}, "task.alpha is 'abc'"),
        ("task", TASKS, {"name": "language_modelling", "window": True}, "task.window is True"),
    ],
)
def test_the_components_of_a_recipe_refuse_wrong_types(kind, registry, spec, message):
    if kind == "model":
        spec = {"embedding_size": 4, "hidden_sizes": [4], **spec}
    with pytest.raises(InputError, match=message):
        make(
            kind, registry, spec, params=[nn.Parameter(torch.ones(1))], lr=1.0, corpus=None, vocabulary_size=9
        )
