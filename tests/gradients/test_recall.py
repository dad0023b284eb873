"""Where truncated backpropagation cannot learn and synthetic gradients can: signs from before the window."""

import pytest
import torch

from sparsernn.core.registry import make
from sparsernn.gradients import BOUNDARIES
from sparsernn.models import SequenceModel
from sparsernn.tasks import Recall

SYNTHETIC = {"name": "synthetic_gradient", "synthesizer": {"name": "mlp", "hidden_sizes": [64]}}


def accuracy(boundary_spec, delay, seed, updates):
    """Share of right signs of a GRU of 24 units, windows of 3, after a training of so many windows."""
    torch.manual_seed(seed)
    task = Recall(delay=delay, window=3, batch_size=64, iterations=updates)
    model = SequenceModel(**task.sizes, hidden_sizes=[24], layer="gru")
    boundary = make("boundary", BOUNDARIES, boundary_spec, model=model, seed=seed, epochs=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    boundary.begin(1)
    state = model.initial_state(64)
    for k, batch in enumerate(task.batches(seed, 0)):
        state = boundary.enter(state, k == 0)
        _, loss, state = task.loss(model, batch, state)
        optimizer.zero_grad()
        roots, gradients = boundary.roots(state, batch.targets.numel(), k == updates - 1)
        torch.autograd.backward([loss, *roots], [None, *gradients])
        boundary.learn()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return task.evaluate(model, "valid")["accuracy"]


def test_synthetic_gradients_learn_what_truncation_cannot():
    assert accuracy(SYNTHETIC, delay=3, seed=1, updates=2500) > 0.95
    assert accuracy("truncate", delay=3, seed=1, updates=600) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_four_seeds(seed):
    assert accuracy(SYNTHETIC, delay=3, seed=seed, updates=3000) > 0.95
    assert accuracy("truncate", delay=3, seed=seed, updates=3000) < 0.8


@pytest.mark.slow
def test_one_step_further_back_most_seeds_learn_it():
    """Seed 3 was still guessing after as many windows (0.51), the other three were above 0.95."""
    learnt = [accuracy(SYNTHETIC, delay=4, seed=seed, updates=3000) for seed in (1, 2, 3, 4)]
    assert sum(found > 0.95 for found in learnt) >= 3
    assert max(accuracy("truncate", delay=4, seed=seed, updates=3000) for seed in (1, 2, 3, 4)) < 0.8


def test_no_gradient_connects_a_target_with_its_sign():
    """Why: inside a window the answers for signs of earlier windows do not depend on anything that is read."""
    task = Recall(delay=3, window=3, batch_size=5, iterations=4)
    first, second, *_ = task.batches(0, 0)
    assert torch.equal(second.targets > 0.5, first.inputs.squeeze(-1) > 0)


def test_batches_are_a_pure_function():
    task = Recall(delay=2, window=4, batch_size=3, iterations=5)
    whole, rest = list(task.batches(1, 2)), list(task.batches(1, 2, start=3))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(whole[3:], rest, strict=True))
    assert not torch.equal(whole[0].inputs, next(task.batches(1, 3)).inputs)
    assert task.steps_per_epoch() == len(whole) == 5


def test_evaluation_scores_what_can_be_known():
    """A perfect listener, which hears two steps back, is right at every scored step."""

    class Listener(torch.nn.Module):
        def forward(self, x):
            from types import SimpleNamespace

            return SimpleNamespace(raw=torch.cat((torch.zeros(2, *x.shape[1:]), x[:-2])))

        def read_out(self, h):
            return 50 * h

    scores = Recall(delay=2, window=4, eval_sequences=7, eval_length=9).evaluate(Listener(), "test")
    assert (scores["accuracy"], scores["loss"]) == (1.0, pytest.approx(0.0))
