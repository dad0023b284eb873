"""Every published number of parameters of predefined sparseness and of AWD, from the recipe that has it."""

import pytest
import torch
from typer.testing import CliRunner

from sparsernn.cli.app import app
from sparsernn.core.registry import make
from sparsernn.models import MODELS
from sparsernn.runs.recipe import load_recipe

PTB, WIKITEXT = {"vocabulary_size": 10_000}, {"vocabulary_size": 33_278}
# about as many words and exactly as many tags as the authors' files of the Wall Street Journal have
WSJ = {"vocabulary_size": 44_000, "tags": 49}
# (recipe, what its data fix, parameters, of which idle)
TOTALS = [
    ("blocks/lstm-ptb-dense", PTB, 24_222_000, 400),
    ("blocks/lstm-ptb", PTB, 23_823_300, 400),
    ("recite/ptb-dense", PTB, 24_222_000, 400),
    ("recite/ptb-half", PTB, 7_068_500, 200),
    ("recite/ptb-sparse", PTB, 7_068_504, 200),
    ("recite/ptb-sparse-all", PTB, 7_070_560, 400),
    ("recite/ptb-third", PTB, 3_585_861, 133),
    ("recite/ptb-third-sparse", PTB, 3_590_101, 133),
    ("recite/ptb-third-sparse-all", PTB, 3_594_680, 400),
    ("awd/qrnn-ptb", PTB, 24_020_150, 0),
    ("awd/qrnn-wt2", WIKITEXT, 33_354_628, 0),
    ("selfish/mos-ptb-dense", PTB, 21_500_620, 0),
    ("selfish/mos-wt2-dense", WIKITEXT, 34_909_528, 0),
    # 44,000 x 5 numbers of word vectors, and by hand 2 x 4 x (in 10 + 10 10 + 20), 210 and 539 behind them
    ("pos/wsj-dense", WSJ, 220_000 + 1_360 + 210 + 539, 0),
    ("pos/wsj-sparse-up", WSJ, 220_000 + 3_309, 0),
    ("pos/wsj-sparse-down", WSJ, 220_000 + 3_309, 0),
]


@pytest.mark.parametrize(("name", "sizes", "total", "idle"), TOTALS, ids=[row[0] for row in TOTALS])
def test_the_recipe_has_the_published_total(name, sizes, total, idle):
    with torch.device("meta"):
        model = make("model", MODELS, load_recipe(name).model, **sizes)
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == idle


def test_the_characters_of_the_treebank():
    """4 (I H + H H + 2 H) for 200-1000-1000-200, 50 characters of 200 numbers, tied, and their bias."""
    with torch.device("meta"):
        model = make("model", MODELS, load_recipe("awd/lstm-ptb-char").model, vocabulary_size=50)
    layers = 4 * (200_000 + 1_000_000 + 2_000) + 4 * 2_002_000 + 4 * (200_000 + 40_000 + 400)
    assert sum(p.numel() for p in model.parameters()) == layers + 50 * 201


def test_a_dry_run_prints_total_and_idle_weights(tmp_path):
    words = [f"w{k}" for k in range(10_000 - 1)]
    for split, few in (("train", len(words)), ("valid", 40), ("test", 40)):
        (tmp_path / f"{split}.txt").write_text(" ".join(words[:few]) + "\n")
    more = ["task.batch_size=1", "task.window=5", "task.random_windows=null", "threads=1"]
    result = CliRunner().invoke(
        app, ["train", "recite/ptb-third", *more, "--data", str(tmp_path), "--dry-run"], prog_name="sparsernn"
    )
    assert result.exit_code == 0, result.output
    assert "parameters  3,585,861 dense" in result.output
    assert "idle        133 of them are counted but never change" in result.output


def test_the_commands_of_the_quasi_recurrent_and_character_models():
    ptb, wt2 = load_recipe("awd/qrnn-ptb"), load_recipe("awd/qrnn-wt2")
    assert (ptb.seed, ptb.epochs, ptb.clip, ptb.task["batch_size"]) == (9001, 550, 0.2, 20)
    assert (wt2.seed, wt2.epochs, wt2.clip, wt2.task["batch_size"]) == (4002, 500, 0.25, 40)
    kept = {"embedding": 0.1, "input": 0.4, "output": 0.4, "locked": True}
    assert ptb.model["dropout"] == kept | {"hidden": 0.3}
    assert wt2.model["dropout"] == kept | {"hidden": 0.2}
    char = load_recipe("awd/lstm-ptb-char")
    assert (char.task["batch_size"], char.task["window"], char.task["alpha"]) == (128, 150, 0)
    assert char.optimizer == {
        "name": "adam",
        "lr": {"name": "milestones", "start": 2e-3, "epochs": [300, 400]},
        "weight_decay": 1.2e-6,
    }
