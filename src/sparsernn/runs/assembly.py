"""From a recipe to a run: the one place that knows every registry."""

import inspect
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

import torch

import sparsernn
from sparsernn import contracts
from sparsernn.contracts import Model, Optimizer
from sparsernn.core.device_names import PrecisionName
from sparsernn.core.devices import chosen, described, same_bits
from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.precision import Precision
from sparsernn.core.registry import make
from sparsernn.core.safe_files import sole_user
from sparsernn.core.streams import begin_dropout, begin_weights
from sparsernn.data import CORPORA, Vocabulary
from sparsernn.data.subwords import Subwords
from sparsernn.gradients import BOUNDARIES
from sparsernn.models import MODELS
from sparsernn.optim import (
    OPTIMIZERS,
    LearningRate,
    check_groups,
    make_learning_rate,
    parameter_groups,
)
from sparsernn.runs.loop_graphs import send_as_graphs
from sparsernn.runs.ranks import Alone
from sparsernn.runs.recipe import Recipe, load_recipe
from sparsernn.runs.run import Run
from sparsernn.runs.source_commit import source_commit
from sparsernn.runs.warm_start import take_synthesizer
from sparsernn.runs.watchers import check_watchers
from sparsernn.sparsity import SPARSIFIERS
from sparsernn.tasks import TASKS, Task

RECIPE, ENVIRONMENT = "recipe.yaml", "environment.json"
Vocabularies = Mapping[str, Vocabulary]
LARGEST_RATE = 1e38
"""float32, in which weights are kept, ends at 3.4e38."""


def assemble(
    recipe: Recipe,
    data_dir: Path | None = None,
    vocabularies: Vocabularies | None = None,
    remembered: Mapping[str, Json] | None = None,
    device: str | None = None,
) -> Run:
    """Build every part of a run; the global torch generator is left where the dropouts of the recipe's seed begin.

    Args:
        recipe: the settings.
        data_dir: where the data lie; None leaves the search to the corpus or the task.
        vocabularies: of an earlier run by name, so that its numbers hold.
        remembered: what an earlier run knew of its data (`Task.info`), to do without them; see `open_weights`.
        device: where to compute, in place of what the recipe says; see `core.devices.chosen`.

    Raises:
        InputError: a setting that a component does not know or refuses, or data that cannot be had.
    """
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    where = chosen(device or recipe.device)
    precision = Precision(cast(PrecisionName, recipe.precision), where)
    if recipe.deterministic:
        same_bits()
    begin_weights(recipe.seed)
    if remembered is None:
        task = _task(recipe, data_dir, vocabularies)
    else:
        task = _task_without_data(recipe, vocabularies or {}, remembered)
    model = model_of(recipe, task)
    task.check_model(model)
    precision.check(model)
    model.to(where)
    if recipe.cuda_graphs:
        send_as_graphs(model, where)
    task.settle(where)
    per_epoch = task.steps_per_epoch(recipe.seed)
    steps = recipe.epochs * per_epoch
    schedule, optimizer = _optimizer(recipe, model, steps)
    length = {"total_steps": steps, "steps_per_epoch": per_epoch, "window": task.window}
    known = {"model": model, "seed": recipe.seed, "epochs": recipe.epochs}
    sparsifier = make("sparsity", SPARSIFIERS, recipe.sparsity, optimizer=optimizer, **length, **known)
    boundary = make("boundary", BOUNDARIES, recipe.boundary, **known)
    begin_dropout(recipe.seed)
    parts = (recipe, task, model, optimizer, sparsifier, boundary, schedule)
    return Run(*parts, without_data=remembered is not None, device=where, precision=precision)


def model_of(recipe: Recipe, task: contracts.Task) -> Model:
    """The model that a recipe describes, in the sizes that the task's data ask for."""
    model: Model = make("model", MODELS, recipe.model, **task.sizes)
    return model


def _task(recipe: Recipe, data_dir: Path | None, vocabularies: Vocabularies | None) -> Task:
    """The task, with a corpus where its recipe names one."""
    settings: dict[str, Json] = dict(recipe.task)
    context: dict[str, Json] = {"data_dir": data_dir, "vocabularies": vocabularies}
    if "corpus" in settings and _takes(TASKS.get(settings["name"]), "corpus"):
        own = (vocabularies or {}).get("vocabulary")
        spec = settings.pop("corpus")
        context["corpus"] = make("corpus", CORPORA, spec, data_dir=data_dir, vocabulary=own)
    task: Task = make("task", TASKS, settings, **context)
    return task


def _task_without_data(recipe: Recipe, vocabularies: Vocabularies, remembered: Mapping[str, Json]) -> Task:
    """The task, reading something random in place of its data."""
    constructor = TASKS.get(recipe.task["name"])
    instead = {} if constructor is None else constructor.stand_in(remembered, vocabularies)
    settings = {key: value for key, value in recipe.task.items() if key not in instead}
    task: Task = make("task", TASKS, settings, **{"vocabularies": vocabularies, "data_dir": None, **instead})
    task.info = dict(remembered)
    return task


def _takes(constructor: Callable[..., object] | None, name: str) -> bool:
    return constructor is not None and name in inspect.signature(constructor).parameters


def _optimizer(recipe: Recipe, model: torch.nn.Module, steps: int) -> tuple[LearningRate, Optimizer]:
    if "lr" not in recipe.optimizer:
        raise InputError(
            "optimizer.lr is missing; it must be a number or a schedule, such as 20 or {name: cosine, ...}."
        )
    schedule = make_learning_rate(recipe.optimizer["lr"], steps)
    if not 0 < schedule(0) <= LARGEST_RATE:
        raise InputError(
            f"optimizer.lr starts at {schedule(0)}; it must be above 0 and at most {LARGEST_RATE:g}."
        )
    settings = {**recipe.optimizer, "lr": schedule(0)}
    params = parameter_groups(model.named_parameters(), settings.pop("groups", None))
    optimizer: Optimizer = make("optimizer", OPTIMIZERS, settings, params=params)
    check_groups(optimizer)
    return schedule, optimizer


def create(
    recipe: Recipe,
    folder: Path,
    data_dir: Path | None = None,
    vocabularies: Vocabularies | None = None,
    begin: Callable[[Run], None] = lambda run: None,
    remembered: Mapping[str, Json] | None = None,
    device: str | None = None,
) -> Run:
    """A new run in a new folder: recipe, environment and vocabularies are written before the first step.

    Args:
        recipe: the settings.
        folder: must not hold a run yet.
        data_dir: where the data lie.
        vocabularies: see `assemble`.
        begin: sets the run's first state where it is not the random one, before anything is written.
        remembered, device: see `assemble`.

    Raises:
        InputError: the folder already holds a run, the recipe cannot be assembled, or the library of what it is to be
            watched with is not installed.
    """
    check_free(folder)
    check_watchers(recipe.log)
    run = assemble(recipe, data_dir, vocabularies, remembered, device)
    take_synthesizer(run)
    was_there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with sole_user(folder):
            return _written(run, folder, data_dir, begin)
    except BaseException:
        if not was_there:
            with suppress(OSError):  # it holds something
                folder.rmdir()
        raise


def _written(run: Run, folder: Path, data_dir: Path | None, begin: Callable[[Run], None]) -> Run:
    """The new run in its folder, which nobody else writes to meanwhile."""
    check_free(folder)  # again: somebody else may have been quicker
    begin(run)
    (folder / ENVIRONMENT).write_text(json.dumps(environment(run, data_dir), indent=1), encoding="utf-8")
    for name, vocabulary in run.task.vocabularies.items():
        vocabulary.save(folder / f"{name}.txt")
    run.folder = folder
    run.save()
    # Last: a folder with a recipe is a run.
    (folder / RECIPE).write_text(run.recipe.to_yaml(), encoding="utf-8")
    return run


def check_free(folder: Path) -> None:
    """Refuse a folder that holds a run."""
    if (folder / RECIPE).exists():
        raise InputError(
            f"{folder} already holds a run; resume it with 'sparsernn resume {folder}' or choose another."
        )


class MissingData(InputError):
    """The data of a run are not where they were, or not what they were; its weights are good without them."""


def open_run(folder: Path, data_dir: Path | None = None, device: str | None = None) -> Run:
    """An existing run with its data, taken up where its last checkpoint left it: to train on, or to be scored.

    Args:
        folder: of the run.
        data_dir: where the data lie now; None: where they lay.
        device: where to compute from now on; None: as the recipe says.

    Raises:
        MissingData: its data cannot be had, or are not what they were.
        InputError: no run there, or its checkpoint or vocabularies are not what they were.
    """
    recipe, known, vocabularies = _read(folder)
    try:
        run = assemble(recipe, data_dir or data_of(folder), vocabularies, device=device)
    except InputError as error:
        assemble(
            recipe, None, vocabularies, known["data"], device
        )  # says so itself if the recipe is at fault
        raise MissingData(
            f"the data of {folder} cannot be read ({str(error).rstrip('.')}); evaluating and training on need them "
            "(--data says where they are), all else works without them."
        ) from error
    run.folder = folder
    _check_data(run, known["data"]["sha256"])
    run.restore()
    return run


def open_weights(folder: Path, device: str = "cpu") -> Run:
    """An existing run without its data: for all that weights, recipe and vocabularies are enough for.

    It stands where its last checkpoint left it. Its task reads something random (`Task.stand_in`), whether the
    data are still there or not.

    Args:
        folder: of the run.
        device: where its model shall be; on the CPU, unless said, whatever the recipe says: there are the
            compiled kernels.

    Raises:
        InputError: no run there, or its checkpoint or vocabularies are not what they were.
    """
    recipe, known, vocabularies = _read(folder)
    run = assemble(recipe, None, vocabularies, known["data"], device)
    run.folder = folder
    run.restore()
    return run


def shared_run(
    ranks: Alone, make: Callable[[], Run], data_dir: Path | None = None, device: str | None = None
) -> Run:
    """One run for all the processes that train it together; every one of them calls this.

    Args:
        ranks: the processes; the run belongs to them from now on.
        make: creates or opens the run; called by the first of them, the others open what came of it.
        data_dir, device: for these; see `open_run`.

    Raises:
        InputError: as by `make` and `open_run`; where the first process had one, the others hear that it has ended.
    """
    made = make() if ranks.first else None
    home = ranks.told(str(made.home) if made else "")
    run = made or open_run(Path(home), data_dir, device)
    run.ranks = ranks
    return run


def _read(folder: Path) -> tuple[Recipe, dict[str, Json], dict[str, Vocabulary]]:
    """The settings, environment and vocabularies of a run; torch gets as many threads as it had."""
    if not (folder / RECIPE).is_file():
        raise InputError(f"{folder} is no run: it has no {RECIPE}.")
    known = read_environment(folder)
    vocabularies = _load_vocabularies(folder, known["data"])
    recipe = load_recipe(folder / RECIPE)
    # Sums are taken in another order on another number of threads: going on to the bit needs the same.
    torch.set_num_threads(recipe.threads or known["threads"])
    return recipe, known, vocabularies


def read_environment(folder: Path) -> dict[str, Json]:
    """What `environment` wrote into a run's folder.

    Raises:
        InputError: it is missing or damaged.
    """
    path = folder / ENVIRONMENT
    try:
        known: dict[str, Json] = json.loads(path.read_text(encoding="utf-8"))
        data = known["data"]
        _ = data["sha256"], known["threads"], [data[f"{name}_sha256"] for name in _names(data)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is missing or damaged ({error!r}); the run cannot be opened without it."
        ) from error
    return known


def data_of(folder: Path) -> Path | None:
    """Where the run's data lay when it was created."""
    given = read_environment(folder).get("data_dir")
    return Path(given) if given else None


def _load_vocabularies(folder: Path, data: Mapping[str, Json]) -> dict[str, Vocabulary]:
    """The vocabularies of a run, each the one that it was trained with."""
    found: dict[str, Vocabulary] = {}
    for name in _names(data):
        path = folder / f"{name}.txt"
        found[name] = Vocabulary.load(path)
        if found[name].sha256() != data[f"{name}_sha256"]:
            raise InputError(
                f"{path} ({len(found[name]):,} tokens) is not the vocabulary that the run was trained with "
                f"({data[name]:,} tokens, another checksum); put the original file back."
            )
    tokenizer = str((data.get("style") or {}).get("tokenizer", ""))
    if tokenizer and "vocabulary" in found:
        found["vocabulary"] = Subwords(found["vocabulary"].tokens, tokenizer)
    return found


def _names(data: Mapping[str, Json]) -> list[str]:
    # runs from before there were other tasks than language modelling do not say
    return list(data.get("vocabularies", ["vocabulary"]))


def _check_data(run: Run, before: Mapping[str, str]) -> None:
    now = run.task.info.get("sha256", {})
    changed = sorted(split for split in before if now.get(split) != before[split])
    if changed:
        raise MissingData(
            f"the {changed[0]} data are not those that {run.home} was trained on (their checksums differ); "
            "point --data to the original files."
        )


def environment(run: Run, data_dir: Path | None = None) -> dict[str, Json]:
    """Versions, machine, data hashes and command line: what a number needs beside it."""
    return {
        "sparsernn": sparsernn.__version__,
        "commit": source_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": described(run.device),
        "precision": run.precision.name,
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(["sparsernn", *sys.argv[1:]]),
        "data_dir": str(data_dir.resolve()) if data_dir else None,
        "data": {**run.task.info, **_described(run.task.vocabularies)},
    }


def _described(vocabularies: Vocabularies) -> dict[str, Json]:
    """Size and hash of each vocabulary under its name, and the names."""
    facts: dict[str, Json] = {"vocabularies": list(vocabularies)}
    for name, vocabulary in vocabularies.items():
        facts |= {name: len(vocabulary), f"{name}_sha256": vocabulary.sha256()}
    return facts


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
