"""L1, zeros that stay, and whole runs with penalties: events, exact resume, finetuning."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsernn import sparsify
from sparsernn.core.errors import InputError
from sparsernn.kernels import lasso_kernel
from sparsernn.report import load_run
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.checkpoint import load_checkpoint
from sparsernn.runs.finetuning import start
from sparsernn.runs.loop import train
from sparsernn.runs.reporter import Reporter
from sparsernn.runs.run import weights
from sparsernn.sparsity import L1, Frozen, group_lasso
from sparsernn.sparsity.sparsifier import Chain


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 8), (5, 33), (300, 231)])
@pytest.mark.usefixtures("compiled_or_twin")
def test_passes_over_memory(rows, columns):
    """The last shape is shared out among threads where there are several."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(rows, columns, generator=generator)
    w[0, 0] = 0
    by_row, by_column = lasso_kernel.squares(w)
    torch.testing.assert_close(by_row, w.square().sum(1))
    torch.testing.assert_close(by_column, w.square().sum(0))
    start, a, b = (torch.randn(n, generator=generator) for n in (w.shape, rows, columns))
    gradient = start.clone()
    lasso_kernel.add_scaled(gradient, w, a, b)
    torch.testing.assert_close(gradient, start + (a.unsqueeze(1) + b) * w)
    gradient = start.clone()
    lasso_kernel.add_signs(gradient, w, 0.5)
    torch.testing.assert_close(gradient, start + 0.5 * w.sign())
    cut = w.clone()
    lasso_kernel.threshold(cut, abs(w[-1, -1].item()))
    assert torch.equal(cut, torch.where(w.abs() < w[-1, -1].abs(), 0.0, w))


def test_what_is_written_by_a_kernel_is_seen_by_autograd():
    w = nn.Parameter(torch.ones(2, 2))
    product = (w * w).sum()
    with torch.no_grad():
        lasso_kernel.threshold(w.detach(), 2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_l1_is_what_autograd_says():
    torch.manual_seed(0)
    model = nn.LSTM(4, 5)
    penalty = L1(model, strength=0.7, lambda_scale="per_sequence", window=7, threshold=0.0)
    value = 0.1 * sum(p.abs().sum() for p in model.parameters())
    wanted = torch.autograd.grad(value, list(model.parameters()))
    assert penalty.value() == pytest.approx(value.item())
    penalty.after_backward()
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize(("strength", "threshold"), [(1e-4, 2e-4), (1.1e-4, 2.2e-4), (3e-5, 1e-4)])
def test_l1_thresholds_as_published(strength, threshold):
    assert L1(nn.Linear(2, 2), strength=strength).threshold == threshold


def test_l1_chooses_tensors():
    model = nn.ModuleDict({"embedding": nn.Embedding(3, 2), "rnn": nn.LSTM(2, 2)})
    penalty = sparsify(model, method="l1", strength=1.0, threshold=10.0, exclude=["embedding.*"])
    penalty.step()
    zero = {name for name, p in model.named_parameters() if not bool(p.any())}
    assert zero == {f"rnn.{kind}_{where}_l0" for kind in ("weight", "bias") for where in ("ih", "hh")}
    assert penalty.summary()["parameters_active"] == 6
    with pytest.raises(InputError, match=r"'emb' matches no parameter; those are embedding.weight"):
        sparsify(model, method="l1", strength=1.0, exclude=["emb"])


def test_a_chain_adds_all_gradients():
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, -2.0]]))
    Chain([L1(layer, strength=0.5), L1(layer, strength=0.25)]).after_backward()
    assert layer.weight.grad.tolist() == [[0.75, -0.75]]


def test_frozen_zeros_stay_and_nothing_else_does():
    torch.manual_seed(0)
    model = nn.LSTM(4, 5)
    with torch.no_grad():
        model.weight_hh_l0[:, 2] = 0
        model.bias_ih_l0[3] = 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    frozen = Frozen(model, optimizer)
    for _ in range(3):
        model(torch.randn(6, 2, 4))[0].square().sum().backward()
        frozen.after_backward()
        optimizer.step()
        frozen.after_step()
    assert set(frozen.masks()) == {"weight_hh_l0"}
    assert not bool(model.weight_hh_l0[:, 2].any())
    assert not bool(optimizer.state[model.weight_hh_l0]["momentum_buffer"][:, 2].any())
    assert int((model.weight_hh_l0 == 0).sum()) == 20
    assert bool(model.bias_ih_l0.all())
    again = Frozen(nn.LSTM(4, 5))
    again.load_state_dict(frozen.state_dict())
    assert torch.equal(again.masks()["weight_hh_l0"], frozen.masks()["weight_hh_l0"])
    with pytest.raises(InputError, match="no 'weight_hh_l0' of shape"):
        Frozen(nn.LSTM(4, 6)).load_state_dict(frozen.state_dict())


# --- whole runs

ISS = {"name": "iss", "strength": 0.3, "lambda_scale": "per_sequence", "threshold": 0.02}
SGD = {"name": "sgd", "lr": {"name": "epoch_decay", "start": 1.0, "divide_by": 4}}


def dead_units(run):
    """How many units of each layer own nothing but zeros."""
    return [int((units.norms() == 0).sum()) for units in run.model.units()]


@pytest.fixture
def source(tiny_recipe, tmp_path):
    """A finished run that has lost units."""
    run = create(tiny_recipe(sparsity=ISS, optimizer=SGD), tmp_path / "source")
    train(run)
    assert sum(dead_units(run)) > 0
    return run


def test_a_run_records_its_units(source):
    record = load_run(source.home)
    events = record.of("units")
    assert [event["epoch"] for event in events] == [1, 2, 3]
    assert [row["dead"] for row in events[-1]["layers"]] == dead_units(source)
    assert all(len(row["norms"]) == row["width"] for row in events[-1]["layers"])


def test_the_penalty_is_part_of_the_gradient_that_is_clipped(tiny_recipe, tmp_path):
    norms = []
    for number, strength in enumerate((0.0, 1000.0)):
        recipe = tiny_recipe(sparsity={**ISS, "strength": strength}, optimizer=SGD, epochs=1, log_every=1)
        train(create(recipe, tmp_path / str(number)))
        norms.append(load_run(tmp_path / str(number)).of("step")[0]["grad_norm"])
    assert norms[1] > 20 * norms[0]


@pytest.mark.parametrize("freeze_dead", [False, True])
def test_a_stopped_run_goes_on_to_the_bit(tiny_recipe, tmp_path, freeze_dead):
    recipe = tiny_recipe(sparsity={**ISS, "freeze_dead": freeze_dead}, optimizer=SGD)
    whole = create(recipe, tmp_path / "whole")
    train(whole)
    half = create(recipe, tmp_path / "half")
    steps = half.task.steps_per_epoch()

    class Stop(Reporter):
        def step(self, status):
            if status["step"] == 2 * steps + 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(half, Stop())
    half = open_run(half.home)
    train(half)
    for name, tensor in weights(whole.model).items():
        assert torch.equal(tensor, weights(half.model)[name]), name
    one, two = ([event["layers"] for event in load_run(run.home).of("units")] for run in (whole, half))
    assert one == two


def test_finetuning_keeps_the_zeros_and_drops_the_penalty(source, tmp_path):
    run = start(source.home, tmp_path / "tuned", ["optimizer.lr=0.5", "epochs=2"])
    assert run.recipe.sparsity == {"name": "frozen"}
    before = {name: p.detach() == 0 for name, p in run.model.named_parameters() if p.ndim > 1}
    dead = dead_units(run)
    train(run)
    for name, zero in before.items():
        assert not bool(dict(run.model.named_parameters())[name][zero].any()), name
    assert dead_units(run) == dead
    assert sum(int(zero.sum()) for zero in before.values()) > 0
    assert set(load_checkpoint(run.home / "best.safetensors")["sparsifier"]["masks"])
    twice = start(run.home, tmp_path / "twice", ["optimizer.lr=0.5", "epochs=1"])
    assert twice.recipe.sparsity == {"name": "frozen"}
    assert open_run(twice.home).sparsifier.masks().keys() == twice.sparsifier.masks().keys()


def test_a_dense_run_can_be_finetuned_with_a_penalty(tiny_recipe, tmp_path):
    dense = create(tiny_recipe(sparsity={"name": "dense"}, optimizer=SGD, epochs=1), tmp_path / "dense")
    train(dense)
    change = "sparsity={name: l1, strength: 0.01, threshold: 0.02, exclude: [embedding.weight]}"
    run = start(dense.home, tmp_path / "l1", [change, "optimizer.lr=1", "epochs=1"])
    train(run)
    assert run.sparsifier.summary()["masked_density"] < 1


def test_the_examples_of_the_page_run(capsys):
    page = (Path(__file__).parents[2] / "docs" / "iss.md").read_text(encoding="utf-8")
    names = {"__name__": "example"}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "iss.md", "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["rnn layer 0", "rnn layer 1"]
    assert lines[2] == str(4 * 24 + 48 + 20 + 5)


def test_every_setting_is_on_the_page():
    page = (Path(__file__).parents[2] / "docs" / "iss.md").read_text(encoding="utf-8")
    settings = inspect.signature(group_lasso).parameters.keys() - {"model", "optimizer", "window"}
    assert not [name for name in settings if name not in page]
