"""Products in bfloat16: close to float32 in every family, weights and losses in float32, exact to resume."""

import pytest
import torch
from pretended_cuda import pretended
from test_every_recipe import shared_out, small_pictures, tiny  # noqa: F401 - a fixture

from sparsernn.cli.console_tables import plan_lines
from sparsernn.core.devices import moved
from sparsernn.core.errors import InputError
from sparsernn.core.precision import Precision, exactly, rounding, widened
from sparsernn.core.states import tensors
from sparsernn.runs.assembly import assemble, create, environment, open_run
from sparsernn.runs.checkpoint import load_checkpoint
from sparsernn.runs.interruption import Interrupted
from sparsernn.runs.loop import train
from sparsernn.runs.plan import plan
from sparsernn.runs.recipe import load_recipe
from sparsernn.runs.reporter import Reporter
from sparsernn.runs.run import BEST, LAST
from test_recipes_train import data  # noqa: F401 - a fixture

BIT = 2**-8
"""Half a unit in the last place of bfloat16: what a rounded operand is off by at most, relative to itself."""


def first_step(recipe):
    """Loss, objective, state after it, and the gradients of a run's first step."""
    run = assemble(recipe)
    run.model.train()
    batch = moved(next(iter(run.task.batches(recipe.seed, 0))), run.device)
    state = run.boundary.enter(run.model.initial_state(run.task.batch_size), True)
    with run.precision.step(run.model):
        loss, objective, state = run.task.loss(run.model, batch, state)
    total = objective + run.model.penalty() + run.sparsifier.penalty()
    total.backward()
    return loss, total, list(tensors(state)), [p.grad for p in run.model.parameters() if p.grad is not None]


def dense_products(recipe):
    """A recipe without `product: sparse`, which is refused."""
    for part in ("layer", "head"):
        spec = recipe.model.get(part)
        if isinstance(spec, dict) and spec.get("product") == "sparse":
            spec.pop("product")
    return recipe


SOON = (
    "demo/selfish",
    "selfish/onlstm-ptb-small",
    "iss/rhn-ptb-small",
    "nnrnn/copy-rnn-orth",
    "blocks/lstm-ptb",
)
"""Set-ups of different layers; all others are slow tests."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(s.values[0], marks=[] if s.values[0] in SOON else [pytest.mark.slow])
        for s in shared_out()
    ],
)
def test_a_rounded_step_is_close_to_the_step(name, data):  # noqa: F811
    plain = dense_products(tiny(name, data, "device=cpu"))
    rounded = dense_products(tiny(name, data, "device=cpu", "precision=bfloat16"))
    (loss, total, _, wanted), (near, close, state, found) = first_step(plain), first_step(rounded)
    assert {t.dtype for t in (near, close, *state, *found) if t.is_floating_point()} == {torch.float32}
    assert near.item() == pytest.approx(loss.item(), rel=4 * BIT)
    assert close.item() == pytest.approx(total.item(), rel=4 * BIT)
    error, size = (
        torch.stack([t.norm() for t in ts]).norm()
        for ts in ([f - w for f, w in zip(found, wanted, strict=True)], wanted)
    )
    # Of all gradients together. Rounding takes some units over the edge of a rectifier, and a recurrence that forgets
    # nothing carries that through the window: 0.18 was seen there, and 1 is what one gradient left out makes.
    assert error <= 64 * BIT * size


RESUMED = ("demo/selfish", "selfish/onlstm-ptb-small", "iss/rhn-ptb-small")


class StopAt(Reporter):
    """Ends the run as a signal does once so many steps are done."""

    def __init__(self, step):
        self.target = step

    def step(self, status):
        """Of every step."""
        if status["step"] == self.target:
            raise Interrupted(15)


@pytest.mark.parametrize("name", RESUMED)
def test_a_rounded_run_goes_on_to_the_bit_and_keeps_its_weights_in_float32(name, data, tmp_path):  # noqa: F811
    recipe = tiny(name, data, "device=cpu", "precision=bfloat16")
    whole = create(recipe, tmp_path / "whole")
    train(whole)
    stopped = create(recipe, tmp_path / "stopped")
    with pytest.raises(Interrupted):
        train(stopped, StopAt(1))
    assert {t.dtype for t in tensors(stopped.carried)} == {torch.float32}
    train(open_run(stopped.home))
    for file in (LAST, BEST):
        one, other = (list(leaves(load_checkpoint(run.home / file))) for run in (whole, stopped))
        assert all(map(torch.equal, one, other))
        assert {t.dtype for t in one if t.is_floating_point()} <= {torch.float32, torch.float64}
    plain = create(tiny(name, data, "device=cpu"), tmp_path / "plain")
    train(plain)
    losses = [load_checkpoint(run.home / LAST)["position"]["best"] for run in (whole, plain)]
    assert losses[0] != losses[1], "something was rounded"


def leaves(tree):
    """The tensors of a checkpoint."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(part)


def test_the_plan_and_the_environment_say_so(data, tmp_path):  # noqa: F811
    run = create(tiny("demo/dense", data, "device=cpu", "precision=bfloat16"), tmp_path / "run")
    assert plan(run, measure=False)["precision"] == "bfloat16"
    assert environment(run)["precision"] == "bfloat16"
    assert "device      cpu, products in bfloat16" in plan_lines(plan(run, measure=False))


def test_tf32_is_for_cuda(data):  # noqa: F811
    with pytest.raises(
        InputError, match=r"precision is 'tf32', .* computes on 'cpu'; take float32 or bfloat16"
    ):
        assemble(tiny("demo/dense", data, "device=cpu", "precision=tf32"))
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        with pretended():
            for name, wanted in (("tf32", ("high", True)), ("float32", ("highest", False))):
                Precision(name, torch.device("cuda", 0))
                assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == wanted
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_sparse_products_are_refused_in_bfloat16(data):  # noqa: F811
    sparse = "model.layer={name: lstm, product: sparse}"
    with pytest.raises(InputError, match=r"precision is 'bfloat16', but 'layers.0' has product: sparse"):
        assemble(tiny("demo/selfish", data, "device=cpu", "precision=bfloat16", sparse))


@pytest.mark.parametrize("value", ["fp16", "16", "[bfloat16]"])
def test_other_precisions_are_refused(value):
    with pytest.raises(InputError, match=r"precision is .* must be one of float32, tf32, bfloat16"):
        load_recipe("demo/dense", [f"precision={value}"])


def test_kernels_in_float32_never_see_rounded_numbers():
    narrow = torch.ones(2, dtype=torch.bfloat16)
    seen = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exactly(lambda *given: seen.extend([*given, rounding(given[0].device)]), narrow, narrow.double())
    assert [t.dtype for t in seen[:2]] == [torch.float32, torch.float64]
    assert seen[2] is None
    assert widened({"not": narrow})["not"] is narrow
