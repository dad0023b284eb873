"""Every shipped recipe is assembled from its own settings and trained two steps, on tiny data and at tiny widths."""

import json
import random
from copy import deepcopy
from dataclasses import replace

import pytest

from sparsernn import catalogue
from sparsernn.runs.assembly import create
from sparsernn.runs.loop import train
from sparsernn.runs.recipe import list_recipes, load_recipe

WORDS = ["a", "cat", "the", "dog", "sees", "hears", "runs", "sleeps", "old", "young", "fast", "slow", "in"]
TAGS = ("DET", "NOUN", "VERB", "ADJ")
SERIES = {"target": "kind", "group": "id"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A text and tagged sentences, just long enough for two windows of four streams."""
    folder, generator = tmp_path_factory.mktemp("tiny"), random.Random(0)
    for split, lines in (("train", 8), ("valid", 4), ("test", 4)):
        sentences = [[generator.choice(WORDS) for _ in range(4)] for _ in range(lines)]
        (folder / f"{split}.txt").write_text("\n".join(map(" ".join, sentences)) + "\n", encoding="utf-8")
        tagged = ["\n".join(f"{w}\t{TAGS[WORDS.index(w) % 4]}" for w in words) for words in sentences]
        (folder / f"{split}.conll").write_text("\n\n".join(tagged) + "\n", encoding="utf-8")
        numbers = [f"{generator.random():.3f},{k}" for k in range(40)]
        rows = [f"{k % lines},{numbers[k]},{numbers[-k]},{'ab'[k % 2]}" for k in range(3 * lines - 2)]
        (folder / f"{split}.csv").write_text("\n".join(["id,a,b,c,d,kind", *rows]) + "\n", encoding="utf-8")
    (folder / "dev-v1.1.json").write_text(json.dumps({"data": [squad_article(generator)]}), encoding="utf-8")
    return folder


def squad_article(generator):
    """Four sentences with a question about each, as SQuAD has them."""
    paragraphs = []
    for number in range(4):
        words = [generator.choice(WORDS) for _ in range(6)]
        answers = [{"text": words[0], "answer_start": 0}]
        asked = {"id": str(number), "question": f"What {words[1]}?", "answers": answers}
        paragraphs.append({"context": " ".join(words), "qas": [asked]})
    return {"title": "tiny", "paragraphs": paragraphs}


def tiny_task(task, folder):
    """The recipe's task on the tiny data, two steps long."""
    if task["name"] == "recall":
        return {**task, "batch_size": 2, "iterations": 2, "eval_sequences": 3, "eval_length": 5}
    if task["name"] in ("copying", "denoising", "adding"):
        lengths = {"delay": 5, "length": 2} if "delay" in task else {"length": 6}
        return {**task, **lengths, "batch_size": 2, "iterations": 2, "eval_sequences": 3}
    if task["name"] == "series":
        return {**task, "corpus": {"name": "table", "path": str(folder), **SERIES}, "batch_size": 4}
    if task["name"] == "tagging":
        return {**task, "corpus": {"name": "conll", "path": str(folder)}, "batch_size": 4}
    if task["name"] == "question_answering":
        corpus = {"name": "squad-articles", "path": str(folder), "held_out": [0, 0]}
        return {**task, "corpus": corpus, "batch_size": 4, "min_count": {"word": 1, "character": 1}}
    if "corpus" not in task:  # it makes its data itself
        known = {setting.name for setting in catalogue.settings("task", task["name"])}
        small = {"batch_size": 2, "iterations": 2, "eval_sequences": 3}
        return {**task, **{key: value for key, value in small.items() if key in known}}
    corpus = {"name": "folder", "path": str(folder)}
    given = task["corpus"]
    corpus |= {key: given[key] for key in ("level", "order") if key in given}
    sizes = {"batch_size": 4, "window": 5} | ({"eval_batch_size": 2} if "eval_batch_size" in task else {})
    tiny = {**task, "corpus": corpus, **sizes}
    return {**tiny, "tokens": 40} if task.get("tokens") else tiny


def tiny_model(model):
    """Widths of 10, 20 ... in the order of the recipe's own; equal ones stay equal.

    Layers and embeddings made of blocks keep their widths: their geometry follows from them.
    """
    if "block" in str(model.get("layer")) + str(model.get("embedding")):
        return model
    keys = [key for key in ("embedding_size", "hidden_size") if key in model]
    hidden = model.get("hidden_sizes", [])
    widths = sorted({*hidden, *(model[key] for key in keys)})
    power = "fft" in str(model.get("layer"))  # whose width is a power of two
    small = {width: 16 if power else 10 * (rank + 1) for rank, width in enumerate(widths)}
    tiny = deepcopy(model) | {key: small[model[key]] for key in keys}
    if hidden:
        tiny["hidden_sizes"] = [small[h] for h in hidden]
    rotations = tiny["layer"].get("map", {}) if isinstance(tiny.get("layer"), dict) else {}
    if "capacity" in rotations:
        rotations["capacity"] = 4
    if isinstance(tiny.get("head"), dict) and tiny["head"].get("splits"):
        tiny["head"]["splits"] = [3, 7]
    return tiny


def trainable(name):
    """Pixels are trained in the tests of their task: their images have a fixed size."""
    return load_recipe(name).task["name"] != "pixels"


def at_full_width(name):
    """Blocks whose widths stay: seconds each. One recipe of every set-up is trained in tests/device at once."""
    model = load_recipe(name).model
    return tiny_model(model) == model and model.get("embedding_size", 0) >= 400


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if at_full_width(name) else ())
        for name in list_recipes()
        if trainable(name)
    ],
)
def test_every_recipe_trains_two_steps(name, data, tmp_path):
    recipe = load_recipe(name, ["epochs=2", "log_every=1", "threads=1", "checkpoint_seconds=3600"])
    settings = {"task": tiny_task(recipe.task, data), "model": tiny_model(recipe.model)}
    if "block" in recipe.sparsity:  # whose blocks do not divide so small tensors
        settings["sparsity"] = {**recipe.sparsity, "block_fallback": True}
    run = create(replace(recipe, **settings), tmp_path / "run")
    scores = train(run)
    assert run.position.step >= 2
    assert scores["loss"] > 0
