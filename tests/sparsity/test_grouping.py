"""Group lasso: readers alone, rows and columns, published scaling, noise at two learning rates, narrow floats."""

import pytest
import torch
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.deploy import compact
from sparsernn.models import BiDAF, LanguageModel
from sparsernn.sparsity import Groups, LassoSettings, group_lasso
from sparsernn.sparsity.penalties.group_lasso import GroupLasso
from sparsernn.structure.units import Slice, Units


def language(layer="lstm", hidden=(6, 5), **settings):
    torch.manual_seed(0)
    return LanguageModel(11, 4, list(hidden), layer, **settings)


def published_kernel(layer):
    """(I + H, 4H), what [x, h] is multiplied by in the published code."""
    return torch.cat([layer.weight_ih, layer.weight_hh], 1).t()


def test_rows_and_columns_are_those_of_the_published_kernels():
    """sum_j sqrt(1e-8 + ||W[:, j]||^2) + sum_i sqrt(1e-8 + ||W[i, :]||^2); of the softmax only what reads a unit."""
    model = language().double()
    kernels = [published_kernel(layer) for layer in model.layers.members]
    sums = [k.square().sum(d) for k in kernels for d in (0, 1)]
    squares = torch.cat([*sums, model.head.weight.t().square().sum(1)])
    value = 0.003 * (squares + 1e-8).sqrt().sum()
    penalty = group_lasso(model, strength=0.003, group_by="rows_and_columns")
    assert penalty.value() == pytest.approx(value.item())
    owned = [p for n, p in model.named_parameters() if n.startswith(("layers", "head")) and p.ndim > 1]
    wanted = torch.autograd.grad(value, owned)
    penalty.after_backward()
    for p, gradient in zip(owned, wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient)
    assert [(group.name, group.width) for group in penalty.units] == [
        ("rows of layer 0", 24),
        ("columns of layers.0.weight_ih", 4),
        ("columns of layers.0.weight_hh", 6),
        ("columns of layers.1.weight_ih", 6),
        ("rows of layer 1", 20),
        ("columns of layers.1.weight_hh", 5),
        ("columns of head.weight", 5),
    ]


COLUMNS = ("columns of layers.1.weight_ih", "columns of head.weight")


def test_rows_and_columns_vanish_without_agreeing_on_a_unit():
    """All rows but one of every gate of a unit are 0, and columns of others: nothing can be removed."""
    model = language()
    with torch.no_grad():
        model.layers[0].weight_ih[2::6][:3] = 0
        model.layers[0].weight_hh[2::6][:3] = 0
        model.layers[1].weight_ih[:, 4] = 0
        model.head.weight[:, 1] = 0
    dead = {
        row["name"]: row["dead"]
        for row in group_lasso(model, strength=0.1, group_by="rows_and_columns").summary()["units"]
    }
    found = (dead[what] for what in ("rows of layer 0", *COLUMNS))
    assert list(found) == [3, 1, 1]
    with pytest.raises(InputError, match="no unit can be removed"):
        compact(model)


@pytest.mark.parametrize("layer", ["lstm", "gru", {"name": "rhn", "depth": 2}])
def test_readers_alone_make_units_that_nobody_reads(layer):
    model = language(layer)
    penalty = group_lasso(model, strength=0.3, group_by="readers")
    wanted = [
        sum(s.parameter.select(1, s.starts[0] + k).square().sum() for s in group.slices if s.reading)
        for group in model.units()
        for k in range(group.width)
    ]
    torch.testing.assert_close(penalty.groups.squares(), torch.stack(wanted).detach())
    (first, *_) = model.units()
    for s in first.slices:
        if s.reading:
            s.parameter.data.index_fill_(1, s.indices(torch.tensor([2])), 0.0)
    assert [row["dead"] for row in penalty.summary()["units"]] == [1, 0]
    words = torch.randint(11, (7, 3))
    before = model.double()(words).raw
    done = compact(model, criterion="unread")
    assert done.widths[0][1:] == (6, 5)
    torch.testing.assert_close(model(words).raw, before, rtol=0, atol=1e-12)


def test_readers_of_a_tied_highway_network_are_not_its_inputs():
    """Of the embedding's column only what the softmax reads, which is the same column; of the layer, R alone."""
    model = language({"name": "rhn", "depth": 3}, (4,), tied=True)
    sizes = group_lasso(model, strength=1.0, group_by="readers").groups.sizes()
    assert sizes.tolist() == [11 + 3 * 2 * 4] * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_by": "rows"}, "group_by is 'rows'; it must be one of units, readers, rows_and_columns"),
        (
            {"group_by": "readers", "mode": "prox"},
            "group_by is 'readers'; with mode 'prox' it must be 'units'",
        ),
    ],
)
def test_impossible_groups(settings, message):
    with pytest.raises(InputError, match=message):
        group_lasso(language(), strength=0.1, **settings)


def test_scaling_by_size_is_the_published_scaled_file():
    """Factors 1.5, 1 and 2 inside the root, for groups of 4800, 3201 and 6401 weights."""
    model = BiDAF(2, 2, groups="published")
    penalty = group_lasso(model, strength=1e-3, scale_by_size=True)
    first, _, second, _, end, _ = (own[0] for own in penalty.groups.by_layer(penalty.strengths))
    assert [(first / second).item(), (end / second).item()] == pytest.approx([1.5**0.5, 2**0.5], rel=1e-3)


def noisy(rate, steps=400):
    """Weights of a group of 24000 that are not 0, after steps with a gradient of noise alone, deviation 1e-4."""
    generator = torch.Generator().manual_seed(0)
    unit = nn.Linear(24_000, 1, bias=False)
    nn.init.zeros_(unit.weight)
    penalty = GroupLasso([Units("u", 1, (Slice(unit, "weight", 0),))], LassoSettings(0.00245), unit)
    optimizer = torch.optim.SGD(unit.parameters(), lr=rate)
    for _ in range(steps):
        unit.weight.grad = 1e-4 * torch.randn(unit.weight.shape, generator=generator)
        penalty.after_backward()
        optimizer.step()
        penalty.after_step()
    return int(unit.weight.count_nonzero())


def test_noise_revives_weights_until_the_learning_rate_falls():
    """Spec, worked there: 16714 of 24000 at learning rate 1, none at 0.1."""
    assert noisy(1.0) == pytest.approx(16_714, rel=0.03)
    assert noisy(0.1) == 0


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_narrow_weights_are_summed_in_float32(kind):
    """1e-8 is 0 in float16, and so is the square of 1e-4: a group of small weights must not be divided by 0."""
    model = language().to(kind)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1e-4)
    model.units()[0].zero(torch.tensor([1]))
    penalty = group_lasso(model, strength=0.1, threshold=0.0)
    assert penalty.groups.squares().dtype == torch.float32
    penalty.after_backward()
    sizes = Groups(model.units()).sizes()
    gradient = model.layers[0].weight_hh.grad
    assert gradient.dtype == kind
    assert bool(gradient.isfinite().all())
    small = model.layers[0].weight_hh[0, 0].double()
    norm = (float(penalty.groups.squares()[0]) + 1e-8) ** 0.5
    assert norm == pytest.approx(((int(sizes[0]) - 6 * 4) * small.item() ** 2) ** 0.5, rel=0.3)
    assert gradient[0, 0].item() == pytest.approx(2 * 0.1 / norm * small.item(), rel=0.02)
