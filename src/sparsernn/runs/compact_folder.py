"""The folder of a smaller run: recipe, records, best and last checkpoint, cut where units went."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsernn.contracts import Model, State, Task
from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.deploy.shrink import Compaction
from sparsernn.runs.assembly import create, data_of, model_of
from sparsernn.runs.checkpoint import load_checkpoint, save_checkpoint
from sparsernn.runs.plan import plan
from sparsernn.runs.recipe import Recipe, decisive
from sparsernn.runs.removable_units import Settings, ended
from sparsernn.runs.run import BEST, LAST, Run, load_weights, weights

METRICS = "metrics.jsonl"
OF_THE_OLD_MODEL = ("sizes", "complete")
"""Records that do not hold for the smaller model: they are measured again."""
OF_THE_DATA = ("examples", "counts", "steps", "epochs", "steps_per_epoch", "phases")
"""What a plan says that has nothing to do with the model."""


def write(
    original: Run,
    folder: Path,
    recipe: Recipe,
    smaller: tuple[nn.Module, Compaction | None],
    state: dict[str, Json],
    settings: Settings,
) -> Run:
    """The new run, its best weights in the model."""
    after, done = smaller
    best = load_checkpoint(original.home / BEST)
    best |= {"recipe": recipe.name, "model": weights(after)}
    if done is not None:
        best["sparsifier"] = done.apply(best["sparsifier"])

    def begin(run: Run) -> None:
        run.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _take_records(original, run)
        save_checkpoint(folder / BEST, best, packed=True)
        save_checkpoint(folder / LAST, _state(original, run, state, done, best["model"]), packed=True)
        run.restore()

    where = settings.data_dir or data_of(original.home)
    remembered = dict(original.task.info) if original.without_data else None
    return create(recipe, folder, where, dict(original.task.vocabularies), begin, remembered, "cpu")


def resized_recipe(original: Run, after: nn.Module) -> Recipe:
    """The recipe with the sizes that the model has now; what was published is not about that model.

    Raises:
        InputError: the model cannot say its sizes.
    """
    if not isinstance(after, Model):
        raise InputError(
            f"a {type(after).__name__} without some of its units cannot be written as a recipe; in Python, "
            "sparsernn.deploy.shrink makes it smaller."
        )
    tree = original.recipe.settings() | {"name": f"{original.recipe.name}-compact"}
    tree["model"] = after.resized(original.recipe.model)
    kept = {key: value for key, value in tree.items() if key not in ("command", "published", "obtained")}
    return Recipe.from_settings(kept)


def built(recipe: Recipe, task: Task, after: nn.Module) -> Model:
    """The model that the recipe alone describes, with the weights of `after`.

    Raises:
        InputError: the recipe does not say all that removing units has changed.
    """
    model = model_of(recipe, task)
    made = {name: tensor.shape for name, tensor in weights(model).items()}
    for name, tensor in weights(after).items():
        if made.pop(name, None) != tensor.shape:
            raise InputError(
                f"'{name}' without some of its units has shape {tuple(tensor.shape)}, which no setting of the recipe "
                "gives; in Python, sparsernn.deploy.shrink makes the model smaller."
            )
    if made:
        raise InputError(
            f"the recipe of the smaller model asks for '{next(iter(made))}', which the model does not have; in "
            "Python, sparsernn.deploy.shrink makes the model smaller."
        )
    load_weights(model, weights(after), recipe.name)
    return model


def _state(
    original: Run,
    run: Run,
    state: dict[str, Json],
    done: Compaction | None,
    best: Mapping[str, Tensor],
) -> dict[str, Json]:
    """The last state of the run, cut."""
    tree = {**state, "recipe": run.recipe.name, "settings": decisive(run.recipe)}
    tree |= {"history": {"metrics_bytes": run.events.size()}}
    if done is not None:
        tree |= {
            "model": done.apply(state["model"]),
            "optimizer": _cut_optimizer(state["optimizer"], done),
            "sparsifier": done.apply(state["sparsifier"]),
            "carried": _cut_carried(state["carried"], original.model, run.model, done.keep),
        }
        if run.recipe.boundary["name"] != "truncate":  # what it has learnt is about states of the old width
            tree["boundary"] = run.boundary.state_dict()
    return {**tree, "model": dict(best)} if ended(original) else tree


def _cut_optimizer(state: Mapping[str, Json], done: Compaction) -> dict[str, Json]:
    """An optimizer's state: buffers of a parameter's shape, whatever they are called."""
    names = [name for group in state["param_groups"] for name in group["param_names"]]
    buffers = {
        number: {
            key: done.shrunk(names[int(number)], value) if isinstance(value, Tensor) else value
            for key, value in held.items()
        }
        for number, held in state["state"].items()
    }
    return {**done.apply(state), "state": buffers}


def _cut_carried(state: State, before: nn.Module, after: nn.Module, keep: Sequence[Tensor]) -> State:
    """The carried state of a stack of layers; none where it is of another form."""
    old, new = (list(getattr(model, "layers", ())) for model in (before, after))
    if not isinstance(state, tuple) or not len(state) == len(keep) == len(old):
        return None
    # the first layer reads the embedding, which has lost what the top has where the head decodes with it
    whole = torch.ones(old[0].input_size, dtype=torch.bool)
    first = whole if new[0].input_size == old[0].input_size else keep[-1]
    parts = zip(old, state, [first, *keep[:-1]], keep, strict=True)
    return tuple(layer.kept_state(part, inputs, units) for layer, part, inputs, units in parts)


def _take_records(original: Run, run: Run) -> None:
    """The old run's records up to its last state, and a new plan."""
    text = (original.home / METRICS).read_bytes()[: original.log_bytes].decode("utf-8", errors="replace")
    over = ended(original)
    if over:  # what came after the last save belongs to it too
        text = (original.home / METRICS).read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if _kind(line) not in OF_THE_OLD_MODEL]
    (run.home / METRICS).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    started = [line for line in lines if _kind(line) == "start"]
    if started:
        before = json.loads(started[-1]).get("plan") or {}
        here = original.position
        intent = plan(run, measure=False)
        if original.without_data:  # what is known of them was written down when they were there
            intent |= {name: before[name] for name in OF_THE_DATA if name in before}
        run.events.append(
            {
                "epoch": here.epoch,
                "step": here.step,
                "event": "start",
                "recipe": run.recipe.name,
                "plan": intent,
            }
        )


def _kind(line: str) -> str:
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return ""
