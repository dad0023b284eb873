"""A run: everything that a training run consists of, and the folder that it lives in."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from sparsernn.contracts import Boundary, Model, Optimizer, Schedule, Sparsifier, State, Task
from sparsernn.core.devices import CPU, generator_states, moved, set_generator_states
from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.precision import Precision
from sparsernn.runs.checkpoint import Values, load_checkpoint, save_checkpoint, with_places
from sparsernn.runs.checkpoint_schema import (
    BEST_KEYS,
    LAST_KEYS,
    check_buffers,
    check_keys,
    check_position,
    check_state,
    check_tensors,
    told,
)
from sparsernn.runs.event_log import EventLog
from sparsernn.runs.ranks import ALONE, Alone
from sparsernn.runs.recipe import Recipe, decisive, edited

UNFIT = (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError)
"""What parts raise that are given a state which is not theirs."""

LAST, BEST = "last.safetensors", "best.safetensors"


@dataclass
class Position:
    """How far a run has come, and the sums that its next log records will be made of.

    Attributes:
        epoch: epochs completed, their evaluation and mask update included.
        window: windows done of the epoch that is running.
        step: optimizer steps done.
        best: lowest criterion of a validation so far (`Task.criterion`).
        seconds: time spent training.
        solved: the task asked for the end of the training.
        first_loss: of the first step; what later ones are judged by. None before it.
        stage: of the sparsifier, when `best` was found.
        strayed: how many more steps had a loss out of every sensible range than came back since.
    """

    epoch: int = 0
    window: int = 0
    step: int = 0
    best: float = float("inf")
    seconds: float = 0.0
    epoch_nats: float = 0.0
    epoch_tokens: int = 0
    solved: bool = False
    first_loss: float | None = None
    strayed: int = 0
    stage: int = 0
    recent: dict[str, float] = field(default_factory=lambda: {"loss": 0.0, "norm": 0.0, "steps": 0})


@dataclass
class Run:
    """The parts of a run, built by `assemble`, each behind its contract.

    Attributes:
        recipe: the plain settings: `name`, `seed`, `epochs`, `clip`, `log_every`, `checkpoint_seconds` are read here.
        schedule: step -> learning rate; it hears every validation loss (`optim.LearningRate`).
        carried: recurrent state at the next window; None stands for the initial state.
        folder: where it is written; None until `create` or `open_run` gives it one.
        without_data: the task was put together without its data: what it reads is random, so that nothing may be
            trained on it or scored by it.
        precision: in how many bits its training steps multiply.
        device: where it computes; model, optimizer, sparsifier and boundary are there.
        ranks: the processes that train it together.
        shares: what of the restored state belongs to each of them but the first.
        log_bytes: how much of metrics.jsonl belongs to the restored state; None: all of it.
        began_with: the settings that the run was begun with, as `recipe.decisive` has them.
        edited: why it cannot go on with the recipe that its folder has now; "" where it can.
    """

    recipe: Recipe
    task: Task
    model: Model
    optimizer: Optimizer
    sparsifier: Sparsifier
    boundary: Boundary
    schedule: Schedule
    position: Position = field(default_factory=Position)
    carried: State = None
    folder: Path | None = None
    log_bytes: int | None = None
    without_data: bool = False
    device: torch.device = CPU
    precision: Precision = field(default_factory=lambda: Precision("float32", CPU))
    ranks: Alone = ALONE
    shares: list[Mapping[str, Json]] = field(default_factory=list)
    began_with: Mapping[str, Json] = field(init=False)
    edited: str = ""

    def __post_init__(self) -> None:
        """What is changed in `recipe` afterwards, on a run in memory, is no edit of its file."""
        self.began_with = decisive(self.recipe)

    @property
    def home(self) -> Path:
        """The run's folder."""
        assert self.folder is not None, "the run has no folder yet"
        return self.folder

    @property
    def events(self) -> EventLog:
        """The run's metrics.jsonl."""
        return EventLog(self.home / "metrics.jsonl")

    def require_data(self, what: str) -> None:
        """Raise InputError where the run was opened for its weights alone; `what` needs data ("training")."""
        if self.without_data:
            raise InputError(
                f"{what} needs the data of {self.home}, and it was opened without them; open it with open_run."
            )

    def take_part(self) -> None:
        """Before training: see that the processes can share this run, and take what of its state is this one's own.

        Raises:
            InputError: they cannot, the state is of another number of processes, or the recipe was edited since.
        """
        if self.edited:
            raise InputError(self.edited)
        self.ranks.check(self.task, self.boundary, self.device)
        own = self.ranks.own(self.shares, self.position.step)
        if own is not None:
            self._take_share(own)
        if self.position.step == 0:
            self.ranks.begin_dropout(self.recipe.seed)

    def share(self) -> dict[str, Json]:
        """What of the state each process has for itself."""
        return {
            "boundary": self.boundary.state_dict(),
            "task": self.task.state_dict(),
            "carried": self.carried,
            "generators": generator_states(self.device),
        }

    def state(self) -> dict[str, Json]:
        """Everything that a resumed run needs to go on to the bit; where several processes train, all call it."""
        return {
            "recipe": self.recipe.name,
            "settings": self.began_with,
            "model": self._weights(),
            "optimizer": self._buffers(),
            "schedule": self.schedule.state_dict(),
            "sparsifier": self.sparsifier.state_dict(),
            "position": asdict(self.position),
            **self.share(),
            "shares": self.ranks.gathered(self.share),
            "history": {"metrics_bytes": self.events.size()},
        }

    def clipped_over(self) -> dict[int, torch.Tensor]:
        """For `clip_over: existing`: identity of a parameter -> its mask; none for those stored without zeros."""
        stored = self.sparsifier.layouts() if self.recipe.clip_over == "existing" else {}
        whole = {n: p for n, p in self.model.named_parameters() if p.ndim > 1 and n not in stored}
        if self.recipe.clip_over == "all" or not whole:
            return {}
        return {id(whole[name]): mask for name, mask in self.sparsifier.masks().items() if name in whole}

    def _weights(self) -> dict[str, Json]:
        """`weights`, with the places of those that are stored without zeros."""
        layouts = self.sparsifier.layouts()
        return {n: Values(layouts[n], t) if n in layouts else t for n, t in weights(self.model).items()}

    def _buffers(self) -> dict[str, Json]:
        """The optimizer's state, likewise."""
        state, layouts = self.optimizer.state_dict(), self.sparsifier.layouts()
        names = {id(p): name for name, p in self.model.named_parameters()}
        held = [names.get(id(p), "") for group in self.optimizer.param_groups for p in group["params"]]
        kept = {n: with_places(own, layouts.get(held[n])) for n, own in state["state"].items()}
        return {**state, "state": kept}

    def save(self, state: Mapping[str, Json] | None = None) -> None:
        """Write `last`, atomically: `state`, or what it is now."""
        save_checkpoint(self.home / LAST, self.state() if state is None else state)

    def save_best(self, scores: Mapping[str, float]) -> None:
        """Write `best`: the weights as they were evaluated (averages swapped in) and their masks."""
        tree = {
            "recipe": self.recipe.name,
            "model": self._weights(),
            "sparsifier": {"masks": self.sparsifier.masks()},
            "averaged": bool(self.optimizer.averaging),
            "valid": dict(scores),
            "position": asdict(self.position),
        }
        save_checkpoint(self.home / BEST, tree)

    def restore(self) -> None:
        """Go back to `last`: weights, masks, averages, generators, carried state and position.

        Nothing is written: the records after that position are forgotten only when training goes on.
        """
        source = self.home / LAST
        tree = load_checkpoint(source)
        if tree.get("recipe") != self.recipe.name or "optimizer" not in tree:
            raise InputError(
                f"{source} is no full state of '{self.recipe.name}' (it says '{tree.get('recipe')}'); "
                "put the run's own file back."
            )
        self._check_last(tree, source)
        try:
            self._take(tree)
        except (InputError, *UNFIT) as error:
            if str(source) in str(error):
                raise
            raise InputError(
                f"{source} does not fit the run's recipe.yaml, which must not be changed ({told(error)})."
            ) from error

    def _check_last(self, tree: dict[str, Json], source: Path) -> None:
        check_keys(tree, LAST_KEYS | ({"settings": Mapping} if "settings" in tree else {}), source)
        check_position(tree["position"], Position, source)
        check_keys(tree["history"], {"metrics_bytes": int}, source)
        try:
            check_state(tree["optimizer"], {}, source, "optimizer")
            check_buffers(tree["optimizer"], self.optimizer, source)
            check_state(tree["sparsifier"], self.sparsifier.state_dict(), source, "sparsifier")
            check_state(tree["boundary"], {}, source, "boundary")
            check_state(tree["carried"], None, source, "carried")
            check_state(tree.get("shares"), None, source, "shares")
        except InputError:
            raise
        except UNFIT as error:
            raise InputError(f"{source} is not a state of this run ({told(error)}).") from error

    def _take(self, tree: dict[str, Json]) -> None:
        load_weights(self.model, tree["model"], self.home / LAST)
        self.optimizer.load_state_dict(tree["optimizer"])
        self.schedule.load_state_dict(tree.get("schedule") or {})
        self.sparsifier.load_state_dict(tree["sparsifier"])
        self.position = Position(**tree["position"])
        self._take_share(tree)
        before = tree.get("settings", self.began_with)  # not in those from before they were kept
        self.edited, self.began_with = edited(before, self.recipe, self.home), before
        self.shares = list(tree.get("shares") or ())  # not in those from before several processes could train
        self.log_bytes = tree["history"]["metrics_bytes"]

    def _take_share(self, share: Mapping[str, Json]) -> None:
        self.boundary.load_state_dict(share["boundary"])
        self.task.load_state_dict(share.get("task") or {})
        self.carried = moved(share["carried"], self.device)
        set_generator_states(share["generators"], self.device)

    def rewind(self) -> None:
        """Before training goes on: forget the records after the restored state, they will be written again.

        Not in `restore`, which also serves those who only want to look at a finished run.
        """
        if self.log_bytes is not None:
            self.events.truncate(self.log_bytes)

    def load_best(self) -> dict[str, Json]:
        """Put the best weights into the model; returns what else `best` says (valid, averaged, position)."""
        source = self.home / BEST
        tree = load_checkpoint(source)
        check_best(tree, source)
        masks = {n: m for n, m in tree["sparsifier"]["masks"].items() if not _is_empty(m)}
        check_tensors(masks, self.sparsifier.masks(), source)
        load_weights(self.model, tree.pop("model"), source)
        self.task.load_state_dict({})  # what was added up is of other weights
        return tree


def _is_empty(mask: object) -> bool:
    """Of a tensor that lost all its rows or columns when units were removed: it has no mask any more."""
    return isinstance(mask, torch.Tensor) and mask.numel() == 0


def check_best(tree: Mapping[str, Json], source: Path) -> None:
    """Raise InputError unless `tree` is what `Run.save_best` writes."""
    check_keys(tree, BEST_KEYS, source)
    check_keys(tree["sparsifier"], {"masks": Mapping}, source)
    check_keys(tree["position"], {"epoch": int}, source)
    check_position(tree["position"], Position, source)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters (tied ones once) and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@torch.no_grad()
def load_weights(model: nn.Module, saved: Mapping[str, torch.Tensor], source: Path | str) -> None:
    """Copy saved weights into a model of the same shapes.

    Raises:
        InputError: a tensor is missing, unknown, of another type or shape, or not finite; the model is as it was.
    """
    own = weights(model)
    check_tensors(saved, own, source)
    for name, tensor in own.items():
        tensor.copy_(saved[name])
