"""Every member of every registry: what its signature says is shown, held to, and true of its own defaults."""

import re
import subprocess
import sys

import pytest

from sparsernn import catalogue
from sparsernn.core.errors import InputError
from sparsernn.core.forms import ANYTHING, Form
from sparsernn.core.registry import make
from sparsernn.core.signature import REQUIRED, meanings_of
from sparsernn.runs.recipe import list_recipes, load_recipe

MEMBERS = [(kind, name) for kind in catalogue.KINDS for name in catalogue.members(kind)]
SETTINGS = [(kind, name, setting) for kind, name in MEMBERS for setting in catalogue.settings(kind, name)]
JUDGED = [(kind, name, s) for kind, name, s in SETTINGS if s.form is not ANYTHING]
STRANGE = (
    None,
    True,
    "no such word",
    -7,
    -0.5,
    1.5,
    1e9,
    float("nan"),
    [],
    [-1],
    ["zz"],
    {"zz": 1},
    object(),
)
"""Of each of these, what a setting does not allow is refused."""


def said(kind: str, name: str, setting: str) -> str:
    return f"{kind}-{name}-{setting}"


@pytest.mark.parametrize(
    ("kind", "name", "setting"), [pytest.param(*row, id=said(row[0], row[1], row[2].name)) for row in JUDGED]
)
def test_what_is_not_allowed_is_refused_in_one_sentence(kind, name, setting):
    refused = [value for value in STRANGE if not setting.form.fits(value)]
    assert refused
    for value in refused:
        with pytest.raises(InputError) as caught:
            setting.form.refuse(setting.name, value)
        assert_one_sentence(str(caught.value), setting.name, value, setting.form)


@pytest.mark.parametrize(
    ("kind", "name", "setting"),
    [
        pytest.param(*row, id=said(row[0], row[1], row[2].name))
        for row in JUDGED
        # a corpus with a wrong path or a task without a corpus is answered before its other settings
        if row[2].name not in ("data_dir",)
    ],
)
def test_recipes_are_held_to_it_before_anything_is_built(kind, name, setting):
    value = next(value for value in STRANGE if not setting.form.fits(value))
    registry, supplied = catalogue.KINDS[kind]
    given = {s.name: _some(s) for s in catalogue.settings(kind, name) if s.default is REQUIRED}
    context = dict.fromkeys(supplied)
    with pytest.raises(InputError) as caught:
        make(kind, registry, {"name": name, **given, setting.name: value}, **context)
    assert setting.name in str(caught.value)
    assert "\n" not in str(caught.value)


def _some(setting) -> object:
    """A value that the setting allows."""
    choices = (1, 0.5, [1], *setting.form.words(), "x", {"name": "x"}, None, [{"name": "l1"}])
    return next((value for value in choices if setting.form.fits(value)), None)


def assert_one_sentence(message: str, name: str, value: object, form: Form) -> None:
    assert "\n" not in message
    assert message.startswith(name)
    body = re.sub(r" Did you mean '.*'\?$", "", message)
    assert body.endswith(".")
    if isinstance(value, dict):  # a group names the setting that it does not know, or those that are missing
        assert "zz" in message
    else:
        assert f"{name} is " in message
        assert f"must be {form}." in message


@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_defaults_are_allowed(kind, name):
    for setting in catalogue.settings(kind, name):
        if setting.default is not REQUIRED and setting.form is not ANYTHING:
            assert setting.form.fits(setting.default), (setting.name, setting.default)


@pytest.mark.parametrize("kind", catalogue.KINDS)
def test_tables_have_a_row_for_each_setting(kind):
    for name in catalogue.members(kind):
        table = catalogue.markdown(kind, name)
        for setting in catalogue.settings(kind, name):
            assert f"| `{setting.name}` |" in table


@pytest.mark.parametrize(
    "kind",
    [
        *(
            "model",
            "layer",
            "map",
            "head",
            "embedding",
            "task",
            "boundary",
            "synthesizer",
            "corpus",
            "images",
        ),
        *("evaluation", "schedule"),
    ],
)
def test_every_setting_has_a_meaning(kind):
    silent = [
        (name, s.name)
        for name in catalogue.members(kind)
        for s in catalogue.settings(kind, name)
        if not s.meaning and not s.name.startswith("_")
    ]
    assert silent == []


def test_meanings_are_first_sentences():
    from sparsernn.nn import RHN

    assert meanings_of(RHN)["depth"] == "sub-steps L per time step, at least 1"


def test_a_meaning_that_stands_elsewhere_is_fetched_from_there():
    from sparsernn.data import CORPORA
    from sparsernn.tasks import Adding
    from sparsernn.tasks.generated_task import Synthetic

    assert meanings_of(Adding)["iterations"] == meanings_of(Synthetic)["iterations"] != "see `Synthetic`"
    assert meanings_of(CORPORA["file"])["min_count"] == meanings_of(CORPORA["folder"])["min_count"]
    assert meanings_of(CORPORA["ud-ewt"])["tag"] == meanings_of(CORPORA["conll"])["tag"]


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_has_only_settings_that_are_listed(name):
    recipe = load_recipe(name)
    parts = {
        "model": recipe.model,
        "sparsity": recipe.sparsity,
        "boundary": recipe.boundary,
        "task": recipe.task,
    }
    for kind, spec in {**parts, "optimizer": recipe.optimizer}.items():
        listed = {setting.name for setting in catalogue.settings(kind, spec["name"])}
        assert spec.keys() - {"name", "groups", "lr", "corpus"} <= listed, kind


def test_the_command_prints_them(capsys):
    from sparsernn.cli.recipes import settings

    settings()
    assert "boundary" in capsys.readouterr().out
    settings("map", "orthogonal")
    out = capsys.readouterr().out
    assert "rebase_every" in out
    assert "exp or cayley" in " ".join(out.split())
    with pytest.raises(InputError, match=r"kind 'mapp' is unknown.*Did you mean 'map'\?"):
        settings("mapp")
    with pytest.raises(InputError, match=r"map 'dens' is unknown.*Did you mean 'dense'\?"):
        settings("map", "dens")


def test_help_needs_no_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from sparsernn.cli import app as m; "
        "made = m if not hasattr(m, 'app') else m.app; "
        "result = CliRunner().invoke(made, ['recipes', 'settings', '--help']); "
        "assert 'torch' not in sys.modules, 'torch was imported'; print(result.output)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "default" in run.stdout
