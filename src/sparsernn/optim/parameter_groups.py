"""Parameter groups by name: settings of the optimizer, and a factor on the learning rate, for some parameters."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated

from torch import nn

from sparsernn.contracts import Optimizer
from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.core.forms import check_names
from sparsernn.core.limits import DropRate, Entries, NonNegative, Positive
from sparsernn.core.plain import Json

Named = Iterable[tuple[str, nn.Parameter]]


def parameter_groups(
    named: Named, groups: Mapping[str, Mapping[str, Json]] | None = None
) -> list[dict[str, Json]]:
    """Sort the trainable parameters of a model into the groups of an optimizer, each under its names.

    Args:
        named: as `model.named_parameters()` gives them. A parameter under two names counts once, by the first; one
            that needs no gradient is left out.
        groups: pattern over names -> settings of the group: `lr_scale` (factor on the learning rate, above 0) and any
            setting of the optimizer but `lr`. `*` stands for anything, `?` for one character. The first
            pattern that fits a name takes it; what no pattern takes forms the first group, without settings.

    Raises:
        InputError: `groups` is no such mapping, or a pattern takes no parameter.

    Example:
        >>> named = nn.ModuleDict({"map": nn.Linear(2, 2), "head": nn.Linear(2, 1)}).named_parameters()
        >>> for group in parameter_groups(named, {"map.*": {"lr_scale": 0.1}}):
        ...     print([name for name, _ in group["params"]], group.get("lr_scale"))
        ['head.weight', 'head.bias'] None
        ['map.weight', 'map.bias'] 0.1
    """
    _check_shape(groups)
    patterns = dict(groups or {})
    taken: dict[str | None, list[tuple[str, nn.Parameter]]] = {None: [], **{p: [] for p in patterns}}
    distinct: dict[int, tuple[str, nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            distinct.setdefault(id(parameter), (name, parameter))
    for name, parameter in distinct.values():
        first = next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)
        taken[first].append((name, parameter))
    for pattern in patterns:
        if not taken[pattern]:
            left = ", ".join(name for name, _ in taken[None]) or "none"
            raise InputError(
                f"optimizer.groups: '{pattern}' takes no parameter; the names that no pattern takes are: {left}."
            )
    made = [{"params": members, **patterns.get(str(pattern), {})} for pattern, members in taken.items()]
    return [group for group in made if group["params"]]


def check_groups(optimizer: Optimizer) -> None:
    """Refuse group settings that the optimizer does not know, or whose values cannot be.

    Raises:
        InputError: the first one found, with the names that are known.
    """
    known = ["lr_scale", *(key for key in optimizer.defaults if key != "lr")]
    for group in optimizer.param_groups:
        for key in group.keys() - {"params", "param_names", "lr"}:
            check_names("optimizer.groups", [key], sorted(known))
            _check_setting(key, group[key], optimizer.defaults.get(key, 1.0))
        # torch takes any momentum: from 1 on, what was once added never fades
        check_value("optimizer.momentum", group.get("momentum", 0.0), DropRate)
        if "betas" in group:  # torch looks at two of however many, and unpacks them at the first step
            check_value("optimizer.betas", list(group["betas"]), Annotated[Sequence[DropRate], Entries(2, 2)])
        _check_usable(group)


def _check_usable(group: Mapping[str, Json]) -> None:
    """Refuse what torch takes and then cannot step with."""
    on_cpu = any(parameter.device.type == "cpu" for parameter in group["params"])
    for key, why in (
        ("differentiable", "a run's weights are leaves"),
        ("capturable", "the weights are on the CPU"),
    ):
        if group.get(key) and (key == "differentiable" or on_cpu):
            raise InputError(f"optimizer.{key} is {group[key]}; it must be false, for {why}.")


def _check_shape(groups: Mapping[str, Mapping[str, Json]] | None) -> None:
    check_value("optimizer.groups", groups, Mapping[str, Mapping[str, Json]] | None)
    for pattern, settings in (groups or {}).items():
        if "lr" in settings:
            raise InputError(
                f"optimizer.groups: '{pattern}' sets lr; give lr_scale, a factor on optimizer.lr."
            )


def _check_setting(key: str, value: object, default: object) -> None:
    if isinstance(default, bool) or not isinstance(default, int | float):
        return
    check_value(f"optimizer.groups: {key}", value, Positive if key == "lr_scale" else NonNegative)
