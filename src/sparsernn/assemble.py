"""From a recipe to a run: the one place that knows every registry."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import sparsernn
from sparsernn.boundary import BOUNDARIES
from sparsernn.data import CORPORA, Vocabulary
from sparsernn.errors import InputError
from sparsernn.models import MODELS
from sparsernn.optim import OPTIMIZERS
from sparsernn.optim.schedules import make_schedule
from sparsernn.recipe import Recipe, load_recipe
from sparsernn.registry import make
from sparsernn.sparsity import SPARSIFIERS
from sparsernn.tasks import TASKS
from sparsernn.training.run import Run

RECIPE, VOCABULARY, ENVIRONMENT = "recipe.yaml", "vocabulary.txt", "environment.json"


def assemble(recipe: Recipe, data_dir: Path | None = None, vocabulary: Vocabulary | None = None) -> Run:
    """Build every part of a run; the global torch generator is seeded with the recipe's seed.

    Args:
        recipe: the settings.
        data_dir: where the corpus lies; None leaves the search to the corpus.
        vocabulary: of an earlier run, so that its word numbers hold.

    Raises:
        InputError: a setting that a component does not know or refuses, or data that cannot be had.
    """
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    settings = dict(recipe.task)
    corpus = make("corpus", CORPORA, settings.pop("corpus"), data_dir=data_dir, vocabulary=vocabulary)
    task = make("task", TASKS, settings, corpus=corpus)
    model = make("model", MODELS, recipe.model, vocabulary_size=len(corpus.vocabulary))
    per_epoch = task.steps_per_epoch(recipe.seed)
    steps = recipe.epochs * per_epoch
    schedule, optimizer = _optimizer(recipe, model, steps)
    sparsifier = make(
        "sparsity",
        SPARSIFIERS,
        recipe.sparsity,
        model=model,
        optimizer=optimizer,
        total_steps=steps,
        steps_per_epoch=per_epoch,
        epochs=recipe.epochs,
        seed=recipe.seed,
    )
    boundary = make("boundary", BOUNDARIES, recipe.boundary)
    return Run(recipe, task, model, optimizer, sparsifier, boundary, schedule)


def _optimizer(recipe: Recipe, model: torch.nn.Module, steps: int) -> tuple[Any, Any]:
    if "lr" not in recipe.optimizer:
        raise InputError(
            "optimizer.lr is missing; it must be a number or a schedule, such as 20 or {name: cosine, ...}."
        )
    schedule = make_schedule(recipe.optimizer["lr"], steps)
    if not schedule(0) > 0:
        raise InputError(f"optimizer.lr starts at {schedule(0)}; it must be above 0.")
    settings = {**recipe.optimizer, "lr": schedule(0)}
    return schedule, make("optimizer", OPTIMIZERS, settings, params=model.parameters())


def create(
    recipe: Recipe,
    folder: Path,
    data_dir: Path | None = None,
    vocabulary: Vocabulary | None = None,
    begin: Callable[[Run], None] = lambda run: None,
) -> Run:
    """A new run in a new folder: recipe, environment and vocabulary are written before the first step.

    Args:
        recipe: the settings.
        folder: must not hold a run yet.
        data_dir: where the corpus lies.
        vocabulary: see `assemble`.
        begin: sets the run's first state where it is not the random one, before anything is written.

    Raises:
        InputError: the folder already holds a run, or the recipe cannot be assembled.
    """
    if (folder / RECIPE).exists():
        raise InputError(
            f"{folder} already holds a run; resume it with 'sparsernn resume {folder}' or choose another."
        )
    run = assemble(recipe, data_dir, vocabulary)
    begin(run)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ENVIRONMENT).write_text(json.dumps(environment(run, data_dir), indent=1), encoding="utf-8")
    run.task.corpus.vocabulary.save(folder / VOCABULARY)
    run.folder = folder
    run.save()
    # Last: a folder with a recipe is a run.
    (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    return run


def open_run(folder: Path, data_dir: Path | None = None) -> Run:
    """An existing run, taken up where its last checkpoint left it.

    Raises:
        InputError: no run there, or its checkpoint, vocabulary or data are not what they were.
    """
    if not (folder / RECIPE).is_file():
        raise InputError(f"{folder} is no run: it has no {RECIPE}.")
    known = read_environment(folder)
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    if vocabulary.sha256() != known["data"]["vocabulary_sha256"]:
        raise InputError(
            f"{folder / VOCABULARY} ({len(vocabulary):,} tokens) is not the vocabulary that the run was trained with "
            f"({known['data']['vocabulary']:,} tokens, another checksum); put the original file back."
        )
    recipe = load_recipe(folder / RECIPE)
    # Sums are taken in another order on another number of threads: going on to the bit needs the same.
    torch.set_num_threads(recipe.threads or known["threads"])
    run = assemble(recipe, data_dir or data_of(folder), vocabulary)
    run.folder = folder
    _check_data(run, known["data"]["sha256"])
    run.restore()
    return run


def read_environment(folder: Path) -> dict[str, Any]:
    """What `environment` wrote into a run's folder.

    Raises:
        InputError: it is missing or damaged.
    """
    path = folder / ENVIRONMENT
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = known["data"]["sha256"], known["data"]["vocabulary_sha256"], known["threads"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is missing or damaged ({error!r}); the run cannot be opened without it."
        ) from error
    return known


def data_of(folder: Path) -> Path | None:
    """Where the run's data lay when it was created."""
    given = read_environment(folder).get("data_dir")
    return Path(given) if given else None


def _check_data(run: Run, before: Mapping[str, str]) -> None:
    now = run.task.corpus.info.get("sha256", {})
    changed = sorted(split for split in before if now.get(split) != before[split])
    if changed:
        raise InputError(
            f"the {changed[0]} data are not those that {run.home} was trained on (their checksums differ); "
            "point --data to the original files."
        )


def environment(run: Run, data_dir: Path | None = None) -> dict[str, Any]:
    """Versions, machine, data hashes and command line: what a number needs beside it."""
    return {
        "sparsernn": sparsernn.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(["sparsernn", *sys.argv[1:]]),
        "data_dir": str(data_dir.resolve()) if data_dir else None,
        "data": run.task.corpus.info,
    }


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
