"""One of several processes that train runs together: does the jobs of a file, one after the other.

Called with the file. What became of each job is said in NAME-RANK.json beside its run.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from sparsernn.core.errors import InputError
from sparsernn.nn.drive import product_choice
from sparsernn.nn.drive.sparse_weight import SparseProducts
from sparsernn.runs.assembly import create, open_run, shared_run
from sparsernn.runs.loop import Interrupted, train
from sparsernn.runs.ranks import Lost, processes
from sparsernn.runs.recipe import Recipe
from sparsernn.runs.reporter import Reporter


class At(Reporter):
    """Does something when a step is done, or in an evaluation."""

    def __init__(self, step, action, evaluation=False):
        self.target, self.action, self.evaluation = step, action, evaluation
        self.reached = False

    def step(self, status):
        """Of every step, on every rank."""
        self.reached = self.reached or status["step"] == self.target
        if status["step"] == self.target and not self.evaluation:
            self.action()

    def phase(self, name, fraction):
        """The first of the evaluation after that step."""
        if self.evaluation and self.reached:
            self.reached = False
            self.action()


def stop():
    """As somebody does who stops this process alone."""
    os.kill(os.getpid(), signal.SIGTERM)


def vanish():
    """As by kill -9."""
    os._exit(9)


def with_other_masks(run):
    """A mask that differs, from the next update on."""
    honest = run.sparsifier.after_step

    def spoiled():
        events = honest()
        if events:
            mask = next(iter(run.sparsifier.masks().values()))
            mask.view(-1)[0] = ~mask.view(-1)[0]
        return events

    run.sparsifier.after_step = spoiled


def choose(wishes, ranks):
    """Let what is measured come out otherwise on each process: one of them finds sparse products faster."""
    dense, sparse = (2.0, 1.0) if ranks.rank == wishes else (1.0, 2.0)
    product_choice.seconds = lambda window: (dense, sparse)


def do(job, ranks):
    """Train one run; returns what became of it."""
    folder, recipe = Path(job["folder"]), job.get("recipe")
    run = shared_run(
        ranks, lambda: create(Recipe.from_settings(recipe), folder) if recipe else open_run(folder)
    )
    mine = ranks.rank == job.get("on", 1)
    if "measured" in job:
        choose(job["measured"], ranks)
    if mine and job.get("masks"):
        with_other_masks(run)
    action = {"stop": stop, "vanish": vanish}.get(job.get("do", ""))
    reporter = At(job["at"], action, job.get("evaluation", False)) if mine and action else Reporter()
    try:
        scores = train(run, reporter)
    except Interrupted:
        return {"stopped": run.position.step}
    except InputError as error:
        return {"error": str(error), "kind": type(error).__name__}
    chosen = [m.product_choice() for m in run.model.modules() if isinstance(m, SparseProducts)]
    products = [choice.sparse for choice in chosen if choice]
    return {"scores": scores, "drawn": torch.rand(1).item(), "masks": sizes(run), "products": products}


def sizes(run):
    """Numbers that tell masks apart roughly."""
    return {name: int(mask.nonzero().sum()) for name, mask in run.sparsifier.masks().items()}


def main(jobs):
    """All of them."""
    torch.set_default_dtype(torch.float64)
    with processes() as ranks:
        for job in json.loads(Path(jobs).read_text()):
            found = do(job, ranks)
            Path(f"{job['folder']}-{ranks.rank}.json").write_text(json.dumps(found))
            if found.get("kind") == "Lost":
                raise Lost(found["error"])


if __name__ == "__main__":
    main(sys.argv[1])
