"""The one training loop. The order in which it does things is the specification.

A step: this process' part of the batch | learning rate | boundary.enter | its share of the loss + penalties | zero
gradients | one backward, from the loss and the boundary's roots | gradients and loss summed over the processes |
boundary.learn | sparsifier.after_backward | clip (dense gradients) | optimizer.step |
sparsifier.after_step | log (loss and norm are read then; on a CPU before the step).
An epoch's end: evaluate (averaged weights where the optimizer keeps them) | best checkpoint | trigger | schedule |
sparsifier.end_epoch | checkpoint. The run's end: finalize | test.
Within the epochs masked weights, and what belongs to them, may be stored without zeros (`sparsifier.condensed`).
No branch knows a method or a task by name.
"""

import math
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from sparsernn.contracts import Optimizer
from sparsernn.core.devices import moved
from sparsernn.core.states import detached
from sparsernn.runs.clipping import clip
from sparsernn.runs.divergence import Diverged, check_evaluation
from sparsernn.runs.interruption import Interrupted, Request, stop_at, stop_requests
from sparsernn.runs.ledger import Ledger
from sparsernn.runs.malloc import keep_buffers
from sparsernn.runs.reporter import Audience, Reporter
from sparsernn.runs.run import Run
from sparsernn.runs.saving import Safekeeping, keeper
from sparsernn.runs.watch import Watch
from sparsernn.runs.watchers import watchers

__all__ = ["Diverged", "Interrupted", "train"]


def train(run: Run, reporter: Reporter | None = None) -> dict[str, float]:
    """Train to the end of the recipe, from wherever the run stands.

    Args:
        run: from `create` or `open_run`; resumed runs go on to the bit.
        reporter: who watches, besides those that the recipe's `log` names; nobody by default.

    Returns:
        The test scores of the best weights.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGHUP came; the state is saved.
        Diverged: the loss left every sensible range; `last` is the state before that.
        InputError: the disk is full; the state before is saved. Or another process trains in the folder, or the run
            cannot be shared by the processes that were started, or one of them has ended.
    """
    run.require_data("training")
    keep_buffers()
    run.take_part()
    with stop_requests() as request, keeper(run) as keep, watchers(run) as others:
        keep.write(run.rewind)
        watch = Watch(run, Audience(reporter or Reporter(), *others), keep)
        ledger = Ledger(run, watch, keep)
        watch.start()
        with run.sparsifier.condensed():
            _epochs(run, watch, keep, ledger, request)
        run.sparsifier.finalize()
        keep.save()
        scores = _test(run, watch, request)
        keep.vouch()
        return scores


def _epochs(run: Run, watch: Watch, keep: Safekeeping, ledger: Ledger, request: Request) -> None:
    try:
        while run.position.epoch < run.recipe.epochs and not ended_early(run):
            _epoch(run, watch, keep, ledger, request)
    except Interrupted:
        ledger.read()
        keep.save()
        raise
    except Diverged:
        keep.save_before()
        raise


def _epoch(run: Run, watch: Watch, keep: Safekeeping, ledger: Ledger, request: Request) -> None:
    here, recipe, task, ranks = run.position, run.recipe, run.task, run.ranks
    parameters = [p for p in run.model.parameters() if p.requires_grad]
    run.model.train()
    watch.phase(run.boundary.begin(here.epoch + 1))
    for whole, last in with_last(task.batches(recipe.seed, here.epoch, here.window)):
        started, batch = time.perf_counter(), moved(ranks.part(task, whole), run.device)
        share = ranks.share(batch, whole)
        set_learning_rate(run.optimizer, run.schedule(here.step) * batch.lr_scale)
        first = run.carried is None
        state = run.model.initial_state(ranks.sequences(task.batch_size)) if first else run.carried
        state = run.boundary.enter(state, first)
        with run.precision.step(run.model):
            loss, objective, state = task.loss(run.model, batch, state)
        total = share * objective + (run.model.penalty() + run.sparsifier.penalty()) / ranks.count
        run.optimizer.zero_grad()
        tensors, gradients = run.boundary.roots(state, whole.targets.numel(), last)
        torch.autograd.backward([total, *tensors], [None, *gradients])
        loss = share * loss
        own = [p.grad for p in parameters if p.grad is not None]
        ranks.sum([loss, *own, *run.sparsifier.dense_gradients()])
        run.boundary.learn(ranks)
        run.sparsifier.after_backward()
        ledger.hear(loss, clip(parameters, recipe.clip, run.clipped_over()))
        run.optimizer.step()
        events = run.sparsifier.after_step()
        watch.happened(events)
        run.carried = detached(state)
        here.window, here.step = here.window + 1, here.step + 1
        ledger.count(whole.targets.numel(), time.perf_counter() - started)
        due, stop = ranks.agreed(keep.due, request.signal_number, run.sparsifier.masks() if events else None)
        if due:
            ledger.read()
            keep.save()
        stop_at(stop)
    ledger.read()
    _end_epoch(run, watch, keep, request)


def _end_epoch(run: Run, watch: Watch, keep: Safekeeping, request: Request) -> None:
    here = run.position
    with run.optimizer.averaged():
        scores = run.ranks.told(
            run.task.evaluate(run.model, "valid", tick=watch.evaluating("valid", request))
        )
        check_evaluation(scores["loss"], here.first_loss, "valid")
        criterion = run.task.criterion(scores)
        if run.sparsifier.stage != here.stage:  # the best of before was another network
            here.stage, here.best = run.sparsifier.stage, math.inf
        better = criterion < here.best
        if better:
            here.best = criterion
            keep.write(lambda: run.save_best(scores))
    watch.epoch(scores, better)
    watch.look()
    averaging_starts = run.optimizer.trigger(scores["loss"])
    if averaging_starts:
        watch.record({"event": "switch", "to": "averaging"})
    run.schedule.observe(scores["loss"])
    watch.record_all(run.sparsifier.end_epoch(averaging_starts))
    run.ranks.agreed(False, 0, run.sparsifier.masks())  # also: what is written up to here is there for all
    here.solved = bool(run.task.solved(scores))
    if ended_early(run):
        watch.record({"event": "end", "why": ended_early(run)})
    here.epoch, here.window, here.epoch_nats, here.epoch_tokens, run.carried = here.epoch + 1, 0, 0.0, 0, None
    keep.save()


def _test(run: Run, watch: Watch, request: Request) -> dict[str, float]:
    best = run.load_best()
    scores: dict[str, float] = run.ranks.told(
        run.task.evaluate(run.model, "test", tick=watch.evaluating("test", request))
    )
    epoch = best["position"]["epoch"] + 1
    watch.record({"event": "test", "epoch": epoch, "split": "test", **scores, "averaged": best["averaged"]})
    for found in run.task.records(run.model, "test"):
        watch.record({"epoch": epoch, **found})
    watch.look(closely=True, epoch=epoch)
    return scores


def ended_early(run: Run) -> str:
    """Why training ends before the recipe's last epoch; '' while it does not."""
    if run.position.solved:
        return "the task is solved"
    return "the averaged weights got worse on validation" if run.optimizer.exhausted else ""


Item = TypeVar("Item")


def with_last(items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
    """Each item, and whether it is the last.

    >>> list(with_last("ab"))
    [('a', False), ('b', True)]
    """
    held: list[Item] = []
    for item in items:
        if held:
            yield held.pop(), False
        held.append(item)
    if held:
        yield held.pop(), True


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group `lr`, times the group's own `lr_scale` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
