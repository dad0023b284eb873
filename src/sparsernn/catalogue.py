"""Every kind of component that a recipe can name, and the settings of each, from their signatures."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from sparsernn.core.forms import Form, check_known
from sparsernn.core.registry import Registry
from sparsernn.core.signature import Setting, settings_of
from sparsernn.data import CORPORA
from sparsernn.data.corpus_list import listed
from sparsernn.data.digit_images import IMAGES
from sparsernn.gradients import BOUNDARIES
from sparsernn.gradients.synthesizer import SYNTHESIZERS
from sparsernn.models import MODELS
from sparsernn.nn import EMBEDDINGS, HEADS, LAYERS
from sparsernn.nn.maps import MAPS
from sparsernn.optim import OPTIMIZERS
from sparsernn.optim.ema import AVERAGED
from sparsernn.optim.learning_rate import LEARNING_RATES
from sparsernn.sparsity import SPARSIFIERS
from sparsernn.sparsity.presets import preset_defaults
from sparsernn.tasks import TASKS
from sparsernn.tasks.evaluation_modes import MODES

HEADINGS = ("setting", "allowed", "default", "meaning")


class Shelf(NamedTuple):
    """A registry, and what the program supplies to its members instead of the recipe."""

    registry: Registry
    supplied: frozenset[str]


def _shelf(registry: Registry, *supplied: str) -> Shelf:
    return Shelf(registry, frozenset(supplied))


_DATA = ("data_dir", "vocabulary", "vocabularies")
_SIZES = ("input_size", "hidden_size", "output_size", "vocabulary_size", "characters", "fixed_words", "tags")
_RUN = ("model", "optimizer", "total_steps", "steps_per_epoch", "epochs", "seed")

KINDS: dict[str, Shelf] = {
    "model": _shelf(MODELS, *(size for size in _SIZES if size != "hidden_size")),
    "layer": _shelf(LAYERS, *_SIZES),
    "cell": _shelf(LAYERS, *_SIZES),
    "map": _shelf(MAPS, *_SIZES),
    "head": _shelf(HEADS, "tied", "embedding_size", *_SIZES),
    "embedding": _shelf(EMBEDDINGS, "embedding_size", "dropout", *_SIZES),
    "task": _shelf(TASKS, *_DATA),
    "corpus": _shelf(CORPORA, *_DATA),
    "images": _shelf(IMAGES, *_DATA),
    "optimizer": _shelf(OPTIMIZERS, "params"),
    "averaged": _shelf(AVERAGED, "params", "lr"),
    "schedule": _shelf(LEARNING_RATES),
    "sparsity": _shelf(SPARSIFIERS, *_RUN),
    "boundary": _shelf(BOUNDARIES, *_RUN),
    "synthesizer": _shelf(SYNTHESIZERS, "size"),
    "evaluation": _shelf(MODES),
}
"""What a recipe's spec can be of; a synthesizer calls its layers cells."""


def known(kind: str, name: str | None = None) -> None:
    """Refuse a kind, or a member of it, that does not exist.

    >>> known("optimiser")
    Traceback (most recent call last):
    sparsernn.core.errors.InputError: kind 'optimiser' is unknown; known: model, ... Did you mean 'optimizer'?
    """
    check_known("kind", kind, KINDS)
    if name is not None:
        check_known(kind, name, KINDS[kind].registry)


def members(kind: str) -> Mapping[str, Callable[..., object]]:
    """The components of a kind by name."""
    known(kind)
    return KINDS[kind].registry


def settings(kind: str, name: str) -> list[Setting]:
    """What a recipe may set of a component, with the defaults of a preset where it is one.

    >>> [(s.name, str(s.form), s.shown_default) for s in settings("map", "orthogonal")][:2]
    [('map', 'exp or cayley', 'exp'), ('init', 'one of random, henaff, ...', 'henaff')]
    """
    known(kind, name)
    shelf = KINDS[kind]
    preset = preset_defaults(name) if kind == "sparsity" else {}
    return [
        setting._replace(default=preset.get(setting.name, setting.default))
        for setting in settings_of(shelf.registry[name], shelf.supplied)
    ]


def rows(kind: str, name: str) -> list[tuple[str, str, str, str]]:
    """The settings of a component as a table, under `HEADINGS`."""
    return [(s.name, _allowed(s.form), s.shown_default, s.meaning) for s in settings(kind, name)]


def _allowed(form: Form) -> str:
    return str(form) or "(see the meaning)"


def markdown(kind: str, name: str) -> str:
    """The same as a table of a page; a component without settings has one line that says so."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---|---|---|---|"]
    lines += [f"| `{n}` | {_cell(a)} | `{d}` | {_cell(m)} |" for n, a, d, m in rows(kind, name)]
    return "\n".join(lines) if len(lines) > 2 else "No settings."


def corpora() -> str:
    """The corpora as a table of a page: what each is, what tasks read it as, and its settings."""
    lines = ["| corpus | read as | what it is | settings |", "|---|---|---|---|"]
    for row in listed():
        kind = "corpus" if row.name in CORPORA else "images"
        names = ", ".join(f"`{setting.name}`" for setting in settings(kind, row.name))
        lines.append(f"| `{row.name}` | {row.read_as} | {_cell(row.about)} | {names} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
