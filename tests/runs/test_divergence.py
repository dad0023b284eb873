"""A loss that leaves every sensible range ends a run on every machine, and what is saved can be trained on."""

import math
from types import SimpleNamespace

import pytest
import torch
from toy import Bits, Parity, register

from sparsernn.core.metrics import METRICS
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.checkpoint import load_checkpoint
from sparsernn.runs.divergence import STEPS, Diverged, check_evaluation, check_step, limit, strayed_for
from sparsernn.runs.ledger import Ledger
from sparsernn.runs.loop import train
from sparsernn.runs.recipe import Recipe
from sparsernn.runs.run import LAST, Position, load_weights
from sparsernn.runs.saving import VOUCHED


class Numbered(Bits):
    """A batch that knows how many steps were made before it."""

    step = 0


class Exploding(Parity):
    """From step 9 on, the loss is this many times what it should be."""

    def __init__(self, *, factor=1e6, lasts=10**6, evaluated=1.0):
        super().__init__()
        self.factor, self.lasts, self.evaluated = factor, lasts, evaluated

    def batches(self, seed, epoch, start=0):
        steps = self.steps_per_epoch()
        for k, batch in enumerate(super().batches(seed, epoch, start)):
            numbered = Numbered(*batch)
            numbered.step = epoch * steps + start + k
            yield numbered

    def loss(self, model, batch, state):
        nats, objective, state = super().loss(model, batch, state)
        return nats * (self.factor if 8 <= batch.step < 8 + self.lasts else 1.0), objective, state

    def evaluate(self, model, split, *given, **more):
        scores = super().evaluate(model, split, *given, **more)
        return {**scores, "loss": scores["loss"] * self.evaluated}


@pytest.fixture
def recipe(monkeypatch):
    """A function of the task's settings -> Recipe."""
    register(monkeypatch)
    monkeypatch.setitem(__import__("sparsernn.tasks").tasks.TASKS, "exploding", Exploding)

    def build(seconds=1000, lr=0.03, **task):
        return Recipe.from_settings(
            {
                "name": "exploding",
                "epochs": 6,
                "checkpoint_seconds": seconds,
                "threads": 1,
                "task": {"name": "exploding", **task},
                "model": {"name": "network"},
                "optimizer": {"name": "sgd", "lr": lr},
            }
        )

    return build


@pytest.mark.parametrize("first", [math.log(50), math.log(2), 0.17, 1e-5, 30.0, 4e4, -3.0])
def test_no_sane_curve_is_out_of_range(first):
    """Losses of words, characters, tags, squares, copied symbols, trained weights, unscaled targets, densities."""
    strayed = 0
    for step in range(1, 200):
        jump = 20 if step % 7 == 0 else 1 / step
        loss = max(first, 0.1) * jump
        strayed = strayed_for(loss, first, strayed)
        check_step(loss, 5.0, first, strayed, step)
    check_evaluation(3 * abs(first), first, "valid")


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)]
)
def test_what_is_not_finite_is_so_at_once(loss, norm):
    with pytest.raises(Diverged, match="training has diverged"):
        check_step(loss, norm, 2.0, 0, 1)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e27])
def test_an_evaluation_counts_at_once(loss):
    with pytest.raises(Diverged, match="valid"):
        check_evaluation(loss, 2.0, "valid")
    check_evaluation(1e27, None, "valid")  # a run from before first losses were kept


def test_a_huge_finite_loss_ends_the_run_after_some_steps(recipe, tmp_path):
    run = create(recipe(), tmp_path / "run")
    with pytest.raises(Diverged) as caught:
        train(run)
    assert run.position.step == 8 + STEPS - 1  # the step that shows it is not made
    assert "\n" not in str(caught.value)


def test_a_loss_that_comes_back_is_no_divergence(recipe, tmp_path):
    train(create(recipe(lasts=STEPS - 1), tmp_path / "run"))
    assert not (tmp_path / "run" / VOUCHED).exists()


def test_a_split_that_cannot_be_scored_ends_the_run_and_is_not_best(recipe, tmp_path):
    with pytest.raises(Diverged, match="valid"):
        train(create(recipe(lasts=0, evaluated=math.nan), tmp_path / "run"))
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_the_state_that_is_kept_is_one_that_a_loss_vouched_for(recipe, tmp_path):
    """Saved after every step: the newest file is of weights that no loss has been seen of, or a bad one."""
    with pytest.raises(Diverged):
        train(create(recipe(seconds=0), tmp_path / "run"))
    # The loss of step 8, which was good, is of the weights after step 7. Step 9's is of those after 8.
    assert load_checkpoint(tmp_path / "run" / LAST)["position"]["step"] == 7
    assert not (tmp_path / "run" / VOUCHED).exists()


def test_it_is_kept_across_a_kill(recipe, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    run = create(recipe(seconds=0), tmp_path / "run")
    made = run.optimizer.step

    def step():
        if run.position.step == 12:
            raise Killed
        return made()

    monkeypatch.setattr(run.optimizer, "step", step)
    with pytest.raises(Killed):
        train(run)
    assert load_checkpoint(tmp_path / "run" / LAST)["position"]["step"] == 12
    resumed = open_run(tmp_path / "run")
    with pytest.raises(Diverged):
        train(resumed)
    assert load_checkpoint(tmp_path / "run" / LAST)["position"]["step"] == 7
    assert resumed.position.step == 8 + STEPS - 1  # as without the kill


@pytest.mark.parametrize("rate", [1e4, 1e10, 1e20, 1e30])
def test_weights_that_explode_are_never_the_last_ones(recipe, tmp_path, rate):
    with pytest.raises(Diverged):
        train(create(recipe(seconds=0, lr=rate, lasts=0), tmp_path / "run"))
    kept = open_run(tmp_path / "run")
    here = kept.position
    assert here.strayed == 0
    epoch, window = divmod(here.step, kept.task.steps_per_epoch())
    batch = next(kept.task.batches(kept.recipe.seed, epoch, window))
    with torch.no_grad():
        loss = kept.task.loss(kept.model.train(), batch, None)[0].item()
    assert loss <= limit(1.0 if here.first_loss is None else here.first_loss)


class Heard:
    """Whoever watches a run and keeps it: what it was told, in order."""

    def __init__(self):
        self.losses, self.targets, self.last, self.vouched = [], [], [], 0

    def step(self, loss, norm, targets, seconds):
        self.losses.append(loss)
        self.targets.append(targets)

    def tell(self, loss):
        self.last.append(loss)

    def vouch(self):
        self.vouched += 1


def figures_of(losses, device, log_every=3):
    """A ledger that hears these losses, and how many of them were passed on after each step."""
    position, heard = Position(), Heard()
    run = SimpleNamespace(
        device=torch.device(device), position=position, recipe=SimpleNamespace(log_every=log_every)
    )
    ledger, passed = Ledger(run, heard, heard), []
    for step, loss in enumerate(losses, 1):
        ledger.hear(torch.tensor(loss), torch.tensor(1.0))
        position.step = step
        ledger.count(targets=10 * step, seconds=0.1)
        passed.append(len(heard.losses))
    return ledger, heard, passed


def test_figures_of_an_accelerator_wait_for_the_log_and_none_is_lost():
    losses = [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]
    ledger, late, passed = figures_of(losses, "cuda")
    assert passed == [0, 0, 3, 3, 3, 6, 6]
    ledger.read()
    ledger.read()  # nothing is out any more
    _, now, at_once = figures_of(losses, "cpu")
    assert at_once == [1, 2, 3, 4, 5, 6, 7]
    assert late.losses == now.losses == losses
    assert late.targets == now.targets == [10, 20, 30, 40, 50, 60, 70]
    assert (late.last, now.last) == ([3.5, 6.5, 7.5], losses)
    assert late.vouched == now.vouched == 7


def test_a_divergence_that_is_read_late_is_named_by_its_own_step():
    with pytest.raises(Diverged, match="at step 5,"):
        figures_of([1.0, 1.0, 1.0, 1.0, math.nan, 1.0], "cuda")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(value):
    model = torch.nn.Linear(2, 2)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    spoiled = {**before, "bias": torch.tensor([0.0, value]), "weight": before["weight"] + 1}
    with pytest.raises(ValueError, match="'bias' holds numbers that are NaN or infinite"):
        load_weights(model, spoiled, "file")
    assert torch.equal(model.weight, before["weight"])


def test_perplexities_without_bound_are_short():
    for loss in (14.0, 300.0, 699.0, 800.0):
        row = METRICS["perplexity"]
        assert len(row.shown(row.of_loss(loss))) <= len("1.00e+303 ppl")
    assert limit(math.log(10_000)) > 900
