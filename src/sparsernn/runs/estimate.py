"""How long a run will take on this machine, tried out before its first step."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch

from sparsernn.core.devices import generator_states, moved, set_generator_states, wait_for
from sparsernn.runs.malloc import keep_buffers
from sparsernn.runs.run import Run
from sparsernn.structure.weight_places import ChoosesProducts

TRIALS = 3
"""Batches tried for the estimate; the first one, with cold buffers, does not count."""


def estimated_seconds(run: Run, steps_per_epoch: int) -> float:
    """Time of all steps of a run, the epochs of each source of gradient counted with their own.

    Args:
        run: left exactly as it came.
        steps_per_epoch: of the run's task.
    """
    rows = run.boundary.phases() or [{"first": 1, "last": run.recipe.epochs, "source": ""}]
    epochs: Counter[str] = Counter()
    for row in rows:
        epochs[row["source"]] += row["last"] - row["first"] + 1
    first = {row["source"]: row["first"] for row in reversed(rows)}
    keep_buffers()
    with untouched(run), products_chosen(run), run.sparsifier.condensed():
        each = {source: _seconds_per_step(run, epoch) for source, epoch in first.items()}
    return steps_per_epoch * sum(epochs[source] * seconds for source, seconds in each.items())


def _seconds_per_step(run: Run, epoch: int) -> float:
    """Least time of a batch's forward and backward pass, and of what the boundary learns, in such an epoch."""
    run.model.train()
    run.boundary.begin(epoch)
    first = not run.boundary.parameters()  # from an initial state no synthesizer learns
    times = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        batch = moved(next(iter(run.task.batches(run.recipe.seed, 0))), run.device)
        state = run.boundary.enter(run.model.initial_state(run.task.batch_size), first)
        with run.precision.step(run.model):
            _, objective, state = run.task.loss(run.model, batch, state)
        tensors, gradients = run.boundary.roots(state, batch.targets.numel(), last=False)
        torch.autograd.backward([objective, *tensors], [None, *gradients])
        run.boundary.learn()
        wait_for(run.device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


@contextmanager
def products_chosen(run: Run) -> Iterator[None]:
    """Inside, every module has measured which products are faster for it, where that is left to it."""
    modules = [m for m in run.model.modules() if isinstance(m, ChoosesProducts)]
    choices = [choice for m in modules if (choice := m.product_choice())]
    if any(choice.sparse is None for choice in choices):
        run.model.train()
        batch = moved(next(iter(run.task.batches(run.recipe.seed, 0))), run.device)
        run.task.loss(run.model, batch, run.model.initial_state(run.task.batch_size))
    yield


@contextmanager
def untouched(run: Run) -> Iterator[None]:
    """Whatever is tried inside: weights, buffers, gradients, generators, sums and the boundary come back."""
    generators, counted = generator_states(run.device), deepcopy(run.task.state_dict())
    learnt = deepcopy(run.boundary.state_dict())
    # A forward pass may change more than gradients: batch normalisation its statistics, an orthogonal map that is
    # rebased its parameter as well.
    # Masked weights are read only, and a copy of them would take more room than all else.
    masked = run.sparsifier.masks()
    named = (*run.model.named_parameters(), *run.model.named_buffers())
    before = [(t, t.detach().clone()) for name, t in named if name not in masked]
    yield
    run.optimizer.zero_grad()
    run.sparsifier.forget_gradients()
    set_generator_states(generators, run.device)
    run.task.load_state_dict(counted)
    run.boundary.load_state_dict(learnt)
    run.boundary.begin(run.position.epoch + 1)
    with torch.no_grad():
        for tensor, value in before:
            tensor.copy_(value)
