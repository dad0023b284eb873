"""A trained run is the user's without its corpus: weights, recipe and vocabulary are enough for all but scores."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from sparsernn.cli.app import app
from sparsernn.core.errors import InputError
from sparsernn.core.settings import parse
from sparsernn.data.text_styles import style_of
from sparsernn.deploy.packed import read_packed
from sparsernn.experiments import load
from sparsernn.runs.artifacts import take_best
from sparsernn.runs.assembly import _task, _task_without_data, open_run, open_weights
from sparsernn.runs.evaluation import evaluate_run
from sparsernn.runs.loop import train
from sparsernn.runs.recipe import Recipe
from sparsernn.tasks import Pixels

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "the", "dog", "ran", "to", "it"]


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="sparsernn")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A finished language model's run, its text gone, and what it wrote while the text was there."""
    data = tmp_path_factory.mktemp("data")
    lines = "".join(" ".join(WORDS[(i * 7 + j) % 12] for j in range(9)) + "\n" for i in range(60))
    for split in ("train", "valid", "test"):
        (data / f"{split}.txt").write_text(lines)
    run = tmp_path_factory.mktemp("runs") / "a run"
    settings = ("epochs=1", "model.embedding_size=12", "model.hidden_sizes=[12, 12]", "sparsity.density=0.3")
    done = invoke(
        "train", "demo/selfish", "task.corpus={name: folder}", *settings, "--data", data, "--out", run
    )
    assert done.exit_code == 0, done.output
    before = invoke("generate", run, "--seed", 3).stdout
    shutil.rmtree(data)
    return run, before


def test_it_writes_what_it_wrote_with_its_data(kept):
    run, before = kept
    assert invoke("generate", run, "--seed", 3).stdout == before
    assert load(run).generate(seed=3) in before


@pytest.mark.parametrize("command", ["pack", "export", "bench", "inspect", "report", "compare", "generate"])
def test_commands_that_need_weights_alone(kept, command, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(kept[0], moved)
    done = invoke(command, moved)
    assert done.exit_code == 0, done.output
    assert invoke("compare", "--topology", moved).exit_code == 0


@pytest.mark.parametrize("command", ["evaluate", "finetune"])
def test_commands_that_need_data_say_so(kept, command):
    done = invoke(command, kept[0])
    assert done.exit_code == 2
    assert "evaluating and training on need them" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_resume_says_so(kept, tmp_path):
    shutil.copytree(kept[0], tmp_path / "cut")
    log = tmp_path / "cut" / "metrics.jsonl"
    log.write_text("".join(line for line in log.open() if '"complete"' not in line and '"test"' not in line))
    done = invoke("resume", tmp_path / "cut")
    assert (done.exit_code, "--data" in done.stderr) == (2, True)


def test_nothing_is_scored_or_trained_on_what_stands_in(kept):
    run = open_weights(kept[0])
    for action in (lambda: evaluate_run(run), lambda: train(run)):
        with pytest.raises(InputError, match="needs the data"):
            action()


def test_a_packed_file_carries_vocabulary_and_style(kept, tmp_path):
    file = tmp_path / "small.safetensors"
    assert invoke("pack", kept[0], "--out", file).exit_code == 0
    recipe = read_packed(file).recipe
    assert "cat" in recipe["tokens"]["vocabulary"]
    assert style_of(recipe).tokens("the cat") == ["the", "cat", "<eos>"]
    assert recipe["tokens"]["vocabulary"] == (kept[0] / "vocabulary.txt").read_text().split()


def test_an_exported_file_carries_them_too(kept, tmp_path):
    file = tmp_path / "model.pt2"
    assert invoke("export", kept[0], "--out", file).exit_code == 0
    told = {"tokens": "", "style": "", "start": ""}
    torch.export.load(file, extra_files=told)
    assert "cat" in json.loads(told["tokens"])["vocabulary"]
    assert json.loads(told["style"])["name"] == "whitespace"
    assert set(json.loads(told["start"])) == {"state.0", "state.1", "state.2", "state.3"}


def test_a_recipe_at_fault_is_not_blamed_on_the_data(kept, tmp_path):
    shutil.copytree(kept[0], tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("density: 0.3", "density: 1.3"))
    with pytest.raises(InputError, match=r"density is 1\.3"):
        open_run(tmp_path / "run")


def test_compact_proves_itself_on_random_input_and_says_so(kept, tmp_path):
    done = invoke("compact", kept[0], "--out", tmp_path / "small", "--repeats", 0)
    assert done.exit_code == 0, done.output
    assert "random ones, for the data were not at hand" in " ".join(done.stdout.split())
    plans = [
        [json.loads(line)["plan"] for line in (f / "metrics.jsonl").open() if '"start"' in line][-1]
        for f in (kept[0], tmp_path / "small")
    ]
    assert plans[0]["examples"] == plans[1]["examples"]
    assert plans[0]["steps"] == plans[1]["steps"]
    assert take_best(open_weights(tmp_path / "small"))


FAMILIES = {
    "tagging": ("tagging", "corpus: python-roles, batch_size: 50"),
    "questions": ("question_answering", "corpus: python-questions"),
    "recitation": ("recitation", "corpus: embedded, tokens: 300, batch_size: 4"),
    "adding": ("adding", ""),
    "series": (
        "series",
        "goal: regress, batch_size: 5, corpus: {name: table, path: DATA, target: y, split: time}",
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_task_has_something_that_stands_in(name, tmp_path):
    """Put together with stand-ins: sizes are those of the data, and a batch can be read."""
    kind, settings = FAMILIES[name]
    settings = settings.replace("DATA", str(tmp_path / "rows.csv"))
    (tmp_path / "rows.csv").write_text("x,y\n" + "".join(f"{k % 7},{k % 5}\n" for k in range(40)))
    task = {"name": kind, **parse("{" + settings + "}", name)}
    recipe = Recipe(name, task, {"name": "none"}, {"name": "none"})
    real = _task(recipe, None, None)
    made = _task_without_data(recipe, dict(real.vocabularies), real.info)
    assert made.sizes == real.sizes
    assert made.info == real.info
    assert {k: v.tokens for k, v in made.vocabularies.items()} == {
        k: v.tokens for k, v in real.vocabularies.items()
    }
    batch = next(iter(made.batches(1, 0)))
    assert batch.targets.numel() > 0


def test_pictures_have_something_that_stands_in():
    made = Pixels(**Pixels.stand_in({"name": "mnist"}, {}), permuted=True)
    assert made.sizes == {"input_size": 1, "output_size": 10}
    assert next(iter(made.batches(1, 0))).inputs.shape == (64, 100, 1)
