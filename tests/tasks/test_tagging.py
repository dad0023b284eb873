"""Tagging: numbers worked by hand, orders of the vocabulary, unknown words, exact batches, whole runs."""

import json
from collections import Counter

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.data import CORPORA, Sentence, TaggedCorpus
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.loop import train
from sparsernn.runs.recipe import Recipe, load_recipe
from sparsernn.tasks import LanguageModelling, Tagging

TRAIN = "a/X b/Y a/X c/Z a/X b/Y | b/X d/Y"
VALID = "a/X e/Y"
TEST = "e/Z f/Y b/X | a/Y"


def corpus():
    def parse(text):
        pairs = [[item.split("/") for item in part.split()] for part in text.split("|")]
        return [Sentence(*map(tuple, zip(*sentence, strict=True))) for sentence in pairs]

    splits = {"train": parse(TRAIN), "valid": parse(VALID), "test": parse(TEST)}
    return TaggedCorpus(splits, {"sha256": dict.fromkeys(splits, "")})


class ByWord(torch.nn.Module):
    """A model that gives each word a fixed tag, with certainty."""

    def __init__(self, task, tags):
        super().__init__()
        self.scores = torch.zeros(len(task.words), len(task.tags))
        for word, tag in tags.items():
            self.scores[task.words.index[word], task.tags.index[tag]] = 50.0

    def forward(self, words, lengths=None):
        return self.scores[words]


# --- the vocabulary


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ("up", "<pad> <unk> c d a b"),
        ("down", "a b c d <pad> <unk>"),
        ("first", "<pad> <unk> a b c d"),
    ],
)
def test_orders_of_the_vocabulary(order, words):
    assert " ".join(Tagging(corpus(), order=order).words.tokens) == words


def test_a_random_order_is_always_the_same_one():
    one, other = (Tagging(corpus(), order="random").words.tokens for _ in range(2))
    assert one == other
    assert sorted(one) == sorted(Tagging(corpus()).words.tokens)
    assert one != Tagging(corpus(), order="first").words.tokens


def test_an_earlier_runs_vocabularies_hold():
    first = Tagging(corpus(), order="down")
    assert Tagging(corpus(), order="up", vocabularies=first.vocabularies).words == first.words


# --- scores


def test_scores_of_a_hand_made_file():
    """Test has e/Z f/Y b/X and a/Y; the model says Y, Y (both unknown), Y, X: only f is right."""
    task = Tagging(corpus(), eval_batch_size=1)
    model = ByWord(task, {"a": "X", "b": "Y", "c": "Z", "d": "Y", "<unk>": "Y"})
    found = task.evaluate(model, "test")
    assert (found["tokens"], found["unknown"]) == (4, 2)
    assert (found["accuracy"], found["known_accuracy"], found["unknown_accuracy"]) == (0.25, 0.0, 0.5)
    assert found["loss"] == pytest.approx(3 * 50 / 4)
    (record,) = task.records(model, "test")
    tags = {tag: k for k, tag in enumerate(record["tags"])}
    expected = Counter({("Z", "Y"): 1, ("Y", "Y"): 1, ("X", "Y"): 1, ("Y", "X"): 1})
    assert all(
        record["counts"][tags[right]][tags[given]] == expected[right, given]
        for right in tags
        for given in tags
    )
    json.dumps(record)
    assert task.criterion(found) == 0.75
    assert task.evaluate(model, "valid")["accuracy"] == 1


def test_scores_do_not_depend_on_how_many_sentences_are_read_at_once():
    task = Tagging(python_sentences())
    torch.manual_seed(0)
    model = tagger_for(task).train()
    one, many = task.evaluate(model, "test", 1), task.evaluate(model, "test", 64)
    assert one == pytest.approx(many, rel=1e-5)
    assert model.training


# --- batches


def test_an_epoch_has_every_word_once_and_its_order_is_a_function_of_seed_and_epoch():
    task = Tagging(python_sentences(), batch_size=7)
    batches = list(task.batches(3, 1))
    assert len(batches) == task.steps_per_epoch()
    assert sum(batch.targets.numel() for batch in batches) == task.examples["train"]
    read = Counter(torch.cat([batch.words[batch.inside] for batch in batches]).tolist())
    assert read == Counter(task.data["train"].words.tolist())
    resumed = list(task.batches(3, 1, start=4))
    assert all(torch.equal(a.words, b.words) for a, b in zip(batches[4:], resumed, strict=True))
    assert not torch.equal(next(task.batches(3, 2)).words, batches[0].words)
    assert not torch.equal(next(task.batches(4, 1)).words, batches[0].words)


def test_tags_stay_with_their_words():
    task = Tagging(corpus())
    (batch,) = task.batches(0, 0)
    words, tags = task.words.decode(batch.words[batch.inside]), task.tags.decode(batch.targets)
    assert Counter(zip(words, tags, strict=True)) == Counter(
        tuple(p.split("/")) for p in TRAIN.split() if p != "|"
    )


def test_only_words_that_training_has_once_are_replaced():
    task = Tagging(corpus(), replace_singletons=1.0)
    (batch,) = task.batches(0, 0)
    read = Counter(task.words.decode(batch.words[batch.inside]))
    assert read == {"a": 3, "b": 3, "<unk>": 2}
    assert (task.data["train"].words == task.words.unknown).sum() == 0


# --- whole runs


def python_sentences():
    return CORPORA["python-roles"](sentences=60)


def tagger_for(task, **settings):
    from sparsernn.models import MODELS

    return MODELS["tagger"](**task.sizes, **{"embedding_size": 6, "hidden_size": 5, **settings})


def recipe(**task):
    settings = {
        "name": "tiny",
        "seed": 3,
        "epochs": 2,
        "threads": 1,
        "task": {
            "name": "tagging",
            "corpus": {"name": "python-roles", "sentences": 60},
            "batch_size": 16,
            **task,
        },
        "model": {
            "name": "tagger",
            "embedding_size": 6,
            "hidden_size": 5,
            "embedding": {"name": "block", "blocks": 6, "density": 0.5},
        },
        "optimizer": {"name": "adam", "lr": 0.02},
    }
    return Recipe.from_settings(settings)


def test_a_run_keeps_both_vocabularies_and_opens_again(tmp_path):
    run = create(recipe(replace_singletons=0.5), tmp_path / "run")
    scores = train(run)
    assert {path.name for path in (tmp_path / "run").glob("*.txt")} == {"vocabulary.txt", "tags.txt"}
    again = open_run(tmp_path / "run")
    assert again.task.words == run.task.words
    again.load_best()
    assert again.task.evaluate(again.model, "test") == scores


def test_the_loss_falls():
    task = Tagging(python_sentences())
    torch.manual_seed(0)
    model = tagger_for(task)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for epoch in range(6):
        for batch in task.batches(0, epoch):
            nats, objective, state = task.loss(model, batch, None)
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
            losses.append(nats.item())
    assert state is None
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "none"}, "order is 'none'; it must be one of first, up, down, random"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"replace_singletons": 2}, "replace_singletons is 2; it must be .* in"),
    ],
)
def test_a_fault_is_one_sentence(settings, message):
    with pytest.raises(InputError, match=message):
        Tagging(corpus(), **settings)


def test_a_corpus_of_the_other_kind_is_refused(tiny_corpus):
    with pytest.raises(InputError, match="tagging needs a corpus of tagged sentences"):
        Tagging(CORPORA["folder"](tiny_corpus))
    with pytest.raises(InputError, match="language modelling needs a corpus of running text"):
        LanguageModelling(corpus())


def test_the_shipped_recipes_differ_in_what_they_compare_alone():
    for family in ("pos/wsj", "pos/ewt"):
        up, down = (load_recipe(f"{family}-sparse-{order}").settings() for order in ("up", "down"))
        dense = load_recipe(f"{family}-dense").settings()
        assert (up["task"].pop("order"), down["task"].pop("order"), dense["task"].pop("order")) == (
            "up",
            "down",
            "up",
        )
        same = ("task", "optimizer", "seed", "epochs")
        assert all(up[key] == down[key] == dense[key] for key in same)
        assert up["model"] == down["model"]
        # the same number of parameters in the word vectors
        assert (
            up["model"]["embedding_size"] * up["model"]["embedding"]["density"]
            == dense["model"]["embedding_size"]
        )
