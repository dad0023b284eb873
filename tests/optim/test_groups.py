"""Parameter groups by name, under every optimizer, with masks and resumed."""

import fnmatch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.optim import OPTIMIZERS, check_groups, parameter_groups
from sparsernn.report.story.checkpoint_tensors import read_tensors
from sparsernn.runs.assembly import assemble, create, open_run
from sparsernn.runs.loop import set_learning_rate, train
from sparsernn.runs.watch import learning_rate

GROUPS = {"head.*": {"lr_scale": 0.1}, "layers.*": {"weight_decay": 1e-3}}


def names(groups):
    return [[name for name, _ in group["params"]] for group in groups]


@given(st.lists(st.sampled_from(["*", "a.*", "*.weight", "b.?.bias", "a.x.weight"]), unique=True))
def test_every_parameter_is_in_the_group_of_the_first_pattern_that_fits(patterns):
    parts = {part: nn.ModuleDict({k: nn.Linear(2, 2) for k in "xy"}) for part in "ab"}
    named = list(nn.ModuleDict(parts).named_parameters())
    first = {name: next((p for p in patterns if fnmatch.fnmatchcase(name, p)), None) for name, _ in named}
    settings = {pattern: {"lr_scale": 1.0 + k} for k, pattern in enumerate(patterns)}
    if set(patterns) - set(first.values()):
        with pytest.raises(InputError, match="takes no parameter"):
            parameter_groups(named, settings)
        return
    groups = parameter_groups(named, settings)
    wanted = [[name for name in first if first[name] == pattern] for pattern in (None, *patterns)]
    assert names(groups) == [group for group in wanted if group]


def test_tied_parameters_count_once_and_frozen_ones_not_at_all():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "c": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    model["c"].weight.requires_grad = False
    everything = list(model.named_parameters(remove_duplicate=False))
    assert names(parameter_groups(everything)) == [["a.weight", "a.bias", "b.bias", "c.bias"]]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (3, "optimizer.groups is 3; it must be a mapping"),
        ({"*": 3}, "it must be a mapping"),
        ({"nothing.*": {}}, "'nothing.*' takes no parameter; .* are: weight, bias"),
        ({"*": {"lr_scale": 2}, "bias": {}}, "'bias' takes no parameter; .* are: none"),
        ({"*": {"lr": 2}}, "sets lr; give lr_scale"),
        ({"*": {"momentun": 0.9}}, "no setting 'momentun'; it accepts: .*momentum"),
        ({"*": {"lr_scale": 0}}, "lr_scale is 0; it must be .* above 0"),
        ({"*": {"lr_scale": "low"}}, "lr_scale is 'low'; it must be a finite number"),
        ({"*": {"weight_decay": -1}}, "weight_decay is -1; it must be .* at least 0"),
    ],
)
def test_a_fault_in_the_groups_is_one_sentence(groups, message):
    with pytest.raises(InputError, match=message):
        check_groups(OPTIMIZERS["sgd"](parameter_groups(nn.Linear(2, 2).named_parameters(), groups), lr=1.0))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_step_in_groups_is_the_steps_of_two_optimizers(name):
    """A group with `lr_scale` and weight decay does what an optimizer of its own with those would do."""
    torch.manual_seed(0)
    one = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    two = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    two.load_state_dict(one.state_dict())
    settings = {"b.*": {"lr_scale": 0.25, "weight_decay": 0.5}}
    together = OPTIMIZERS[name](parameter_groups(one.named_parameters(), settings), lr=1.0)
    apart = [
        OPTIMIZERS[name](two["a"].parameters(), lr=0.5),
        OPTIMIZERS[name]([{"params": [*two["b"].parameters()], "weight_decay": 0.5}], lr=0.125),
    ]
    set_learning_rate(together, 0.5)
    for _ in range(3):
        for model, optimizers in ((one, [together]), (two, apart)):
            model.zero_grad()
            sum((p**3).sum() for p in model.parameters()).backward()
            for optimizer in optimizers:
                optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_averages_are_reported_under_their_names_and_masks_hold(tiny_recipe, tmp_path):
    spec = {"name": "snt_asgd", "lr": 0.5, "switch_epoch": 1, "groups": GROUPS}
    train(create(tiny_recipe(optimizer=spec), tmp_path / "run"))
    run = open_run(tmp_path / "run")
    own, averages = dict(run.model.named_parameters()), read_tensors(tmp_path / "run").averages
    assert averages.keys() == own.keys()
    for name, average in averages.items():
        known = ~average.isnan()
        assert torch.equal(average[known], run.optimizer.state[own[name]]["average"][known])
    for name, mask in run.sparsifier.masks().items():
        assert not own[name][~mask].any()


def test_a_recipe_without_groups_has_one_group_and_the_log_shows_its_learning_rate(tiny_recipe):
    run = assemble(tiny_recipe())
    assert len(run.optimizer.param_groups) == 1
    grouped = assemble(tiny_recipe(optimizer={"name": "sgd", "lr": 4.0, "groups": {"*": {"lr_scale": 0.5}}}))
    set_learning_rate(grouped.optimizer, 4.0)
    assert grouped.optimizer.param_groups[0]["lr"] == 2.0
    assert learning_rate(grouped.optimizer) == 4.0
