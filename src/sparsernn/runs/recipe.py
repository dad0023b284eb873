"""A recipe: everything that decides a run, as plain data with a name.

A component (task, model, optimizer, sparsity, boundary) is `{name: ..., its constructor's arguments}`. The
constructor is the schema: this module checks the top level, `assemble` each component when it builds it.
Nothing here imports torch.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.registry import suggest
from sparsernn.core.settings import Tree, dump, merge, override, parse, split_assignment
from sparsernn.runs.validation import COMPONENTS, check

# These describe one recipe and are not passed on through `base:`, nor do they hold once a setting is changed.
DESCRIPTION = ("about", "source", "command", "published", "obtained")
# Changing these does not change what a run computes: its published numbers still belong beside it.
OPERATIONAL = (
    *("name", "log_every", "checkpoint_seconds", "threads", "device", "deterministic", "cuda_graphs", "log"),
    *DESCRIPTION,
)


@dataclass(frozen=True)
class Recipe:
    """The settings of one run. Build it with `load_recipe` or `Recipe.from_settings`, which check them.

    Args:
        name: how the run is called.
        task, model, optimizer: component specs, `{"name": ..., arguments}`.
        sparsity: component spec; `dense` when not given.
        boundary: component spec of what happens at a cut between two windows; `truncate` when not given.
        seed: of every generator of the run, >= 0.
        epochs: passes over the training data, >= 1.
        clip: largest global norm of the gradient, > 0, also written {"norm": ...}; {"value": ...} cuts off every
            single number of it instead; None does not clip.
        clip_over: what the norm of a clip is taken over, where products are dense: "all" weights, as the papers have
            it, or the "existing" ones; sparse products know of no others.
        log_every: steps between two `step` records, >= 1.
        checkpoint_seconds: seconds between two saves of `last`, >= 0 (0 saves after every step).
        threads: torch's threads; None leaves them to torch.
        device: where it computes, "auto" (a CUDA device where there is one, else the CPU), "cpu", "cuda", "cuda:N" or
            "mps".
        precision: of the products in training steps, "float32", "tf32" (on CUDA devices) or "bfloat16".
        deterministic: ask torch for algorithms that give the same bits every time, on accelerators too; slower.
        cuda_graphs: on a CUDA device, send training windows of layers that step through time as CUDA graphs.
        log: where the run can be watched besides, some of "tensorboard", "wandb", "mlflow"; each needs the extra of
            its name. metrics.jsonl is written in any case.
        about, source, command: one sentence, the paper, the command line of the original code.
        published, obtained: `{"valid_perplexity": ..., "test_perplexity": ..., "note": ...}`: the authors'
            numbers, and ours; shares such as `test_accuracy` between 0 and 1.
        overrides: the `key=value` settings that were changed when it was loaded.

    Example:
        >>> recipe = load_recipe("selfish/lstm-ptb", ["epochs=3", "optimizer.lr=20"])
        >>> recipe.epochs, recipe.optimizer["lr"], recipe.sparsity["density"]
        (3, 20, 0.33)
    """

    name: str
    task: Tree
    model: Tree
    optimizer: Tree
    sparsity: Tree = field(default_factory=lambda: {"name": "dense"})
    boundary: Tree = field(default_factory=lambda: {"name": "truncate"})
    seed: int = 1111
    epochs: int = 40
    clip: float | dict[str, float] | None = None
    clip_over: str = "all"
    log_every: int = 100
    checkpoint_seconds: float = 120
    threads: int | None = None
    device: str = "auto"
    precision: str = "float32"
    deterministic: bool = False
    cuda_graphs: bool = False
    log: list[str] = field(default_factory=list)
    about: str = ""
    source: str = ""
    command: str = ""
    published: Tree = field(default_factory=dict)
    obtained: Tree = field(default_factory=dict)
    overrides: tuple[str, ...] = ()

    @classmethod
    def from_settings(cls, settings: Tree, origin: str = "the recipe") -> "Recipe":
        """The recipe that a resolved tree of settings (one without `base`) describes.

        Raises:
            InputError: an unknown key, a value of the wrong type or out of range, a missing component. The
                message names `origin` and what is accepted.
        """
        settings = _components_as_mappings(copy.deepcopy(settings))
        check(settings, [f.name for f in fields(cls)], origin)
        if isinstance(settings.get("log"), str):
            settings["log"] = [settings["log"]]
        settings["overrides"] = tuple(settings.get("overrides") or ())
        return cls(**{key: value for key, value in settings.items() if value is not None})

    def settings(self) -> Tree:
        """The tree of settings, independent of this object, in the order in which a recipe is read."""
        tree = {key: copy.deepcopy(getattr(self, key)) for key in _ORDER}
        tree["overrides"] = list(self.overrides)
        return {key: value for key, value in tree.items() if value not in ("", {}, [])}

    def changed(self, overrides: Sequence[str]) -> "Recipe":
        """The same recipe with settings changed, as `load_recipe` changes them.

        Raises:
            InputError: as `load_recipe`.
        """
        return _changed(self.settings(), overrides, f"recipe '{self.name}'") if overrides else self

    def to_yaml(self) -> str:
        """The recipe as a YAML document: complete, without `base`; `load_recipe` reads it back unchanged."""
        return dump(self.settings())


_ORDER = (
    *("name", "about", "source", "command", "published", "obtained", "overrides"),
    *("task", "model", "optimizer", "sparsity", "boundary"),
    *(
        "seed",
        "epochs",
        "clip",
        "clip_over",
        "log_every",
        "checkpoint_seconds",
        "threads",
        "device",
        "precision",
        "deterministic",
        "cuda_graphs",
        "log",
    ),
)


def decisive(recipe: Recipe) -> Tree:
    """The settings that decide what a run computes, by dotted path; lists stay whole.

    Example:
        >>> found = decisive(load_recipe("selfish/lstm-ptb", ["log_every=7"]))
        >>> found["optimizer.name"], found["epochs"], "log_every" in found
        ('snt_asgd', 100, False)
    """
    tree = {k: v for k, v in recipe.settings().items() if k not in (*OPERATIONAL, "overrides")}
    return dict(_leaves(tree))


def _leaves(tree: Tree, above: str = "") -> Iterator[tuple[str, Json]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(dict(value), f"{above}{key}.")
        else:
            yield f"{above}{key}", list(value) if isinstance(value, tuple) else value


def edited(before: Mapping[str, Json], recipe: Recipe, folder: Path) -> str:
    """Why a run does not go on whose recipe was edited: half of it would be of other settings. "" where it was not.

    Args:
        before: `decisive` settings that the run was begun with.
        recipe: as the folder has it now.
        folder: of the run.

    Example:
        >>> recipe = load_recipe("selfish/lstm-ptb")
        >>> edited(decisive(recipe), recipe, Path("run"))
        ''
        >>> edited(decisive(recipe), recipe.changed(["epochs=7"]), Path("run")).partition(";")[0]
        'run/recipe.yaml was changed since the run began (epochs was 100 and is 7)'
    """
    now = decisive(recipe)
    odd = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    told = ", ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in odd[:3])
    return told and (
        f"{folder}/recipe.yaml was changed since the run began ({told}); put it back, or begin a run of the new "
        f"settings: sparsernn train {folder}/recipe.yaml."
    )


def list_recipes() -> list[str]:
    """The names of the recipes that come with the package, sorted.

    >>> "selfish/lstm-ptb" in list_recipes()
    True
    """
    return sorted(_shipped())


def recipe_file(name: str) -> Path:
    """The file of a shipped recipe.

    Raises:
        InputError: no recipe has that name.
    """
    return _find(name)


def recipe_text(name: str) -> str:
    """The file of a shipped recipe as it stands, `base:` and comments included.

    Raises:
        InputError: no recipe has that name.
    """
    return recipe_file(name).read_text(encoding="utf-8")


def load_recipe(name_or_file: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe, or one from a file, with settings changed.

    Args:
        name_or_file: a name from `list_recipes`, or the path of a YAML file.
        overrides: `a.b=value` each, the value in YAML. `sparsity=dense` and `task.corpus={name: file, path: x}` put
            another component in place of the whole one, `drop` as a value removes a setting.

    Raises:
        InputError: unknown name, unreadable file, unknown or misspelt top-level setting, value of the wrong
            type or out of range. What a component accepts is checked when it is built.

    Example:
        >>> load_recipe("selfish/lstm-ptb-dense").sparsity
        {'name': 'dense'}
    """
    path = _find(str(name_or_file))
    return _changed(_resolve(path, ()), overrides, str(name_or_file))


def _changed(tree: Tree, overrides: Sequence[str], origin: str) -> Recipe:
    """The recipe that a tree of settings describes once `overrides` are carried out."""
    for assignment in overrides:
        tree = override(_components_as_mappings(tree), [assignment])
        _known_place(tree, assignment)
    keys = {split_assignment(o)[0][0] for o in overrides}
    if keys - set(OPERATIONAL):  # a changed recipe is not the one that the numbers and the command belong to
        tree = {key: value for key, value in tree.items() if key not in ("command", "published", "obtained")}
    tree["overrides"] = [*tree.get("overrides", []), *overrides]
    return Recipe.from_settings(tree, origin)


def _known_place(tree: Tree, assignment: str) -> None:
    """Refuse a misspelt top-level key, with the place where a setting of that name does exist."""
    key = split_assignment(assignment)[0][0]
    known = [f.name for f in fields(Recipe)]
    if key in known:
        return
    inside = [f"{part}.{key}" for part in COMPONENTS if key in (tree.get(part) or {})]
    hint = f" Did you mean '{inside[0]}'?" if inside else suggest(key, known)
    raise InputError(f"'{assignment}': there is no setting '{key}'; known: {', '.join(sorted(known))}.{hint}")


@cache
def _shipped() -> dict[str, Path]:
    """Looked up once: the package does not change under a program, and every `base` asks."""
    root = Path(str(files("sparsernn"))) / "recipes"
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in root.rglob("*.yaml")}


@cache
def _names() -> dict[Path, str]:
    return {path: name for name, path in _shipped().items()}


def _find(name: str, beside: Path | None = None) -> Path:
    """The file of a shipped recipe, or the user's file of that path (relative to `beside` when given)."""
    shipped = _shipped()
    if name in shipped:
        return shipped[name]
    path = (beside or Path()) / Path(name).expanduser()
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml"):
        raise InputError(f"There is no recipe file '{path}'.")
    raise InputError(
        f"There is no recipe '{name}'; `sparsernn recipes` lists them, and a path to a .yaml file works too."
        f"{suggest(name, sorted(shipped))}"
    )


def _resolve(path: Path, above: tuple[Path, ...]) -> Tree:
    """The settings of a file merged over those of its base, and of the base's base."""
    return copy.deepcopy(_resolve_shipped(path)) if path in _names() else _merge_bases(path, above)


@cache
def _resolve_shipped(path: Path) -> Tree:
    """Read once, as each is the base of several."""
    return _merge_bases(path, ())


def _merge_bases(path: Path, above: tuple[Path, ...]) -> Tree:
    if path.resolve() in above:
        chain = " -> ".join(p.stem for p in (*above, path))
        raise InputError(f"The recipes inherit from each other in a circle: {chain}.")
    tree = _read(path)
    tree.setdefault("name", _names().get(path, path.stem))
    base = tree.pop("base", None)
    if base is None:
        return merge({}, tree)
    if not isinstance(base, str):
        raise InputError(f"{path}: base is {base!r}; it must be the name or the file of one recipe.")
    inherited = _resolve(_find(base, path.parent), (*above, path.resolve()))
    kept = {key: value for key, value in inherited.items() if key not in DESCRIPTION}
    return merge(_components_as_mappings(kept), tree)


def _read(path: Path) -> Tree:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' cannot be read as a recipe: {error}.") from None
    tree = parse(text, f"'{path}'")
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise InputError(f"'{path}' is not a recipe: it must be a mapping of settings such as `epochs: 6`.")
    return tree


def _components_as_mappings(tree: Tree) -> Tree:
    """`sparsity: dense` is short for `sparsity: {name: dense}`."""
    return {k: {"name": v} if k in COMPONENTS and isinstance(v, str) else v for k, v in tree.items()}
