"""Learning to recite: what is counted, against a loop that really recites; slices; the end at perfection."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.core.registry import make
from sparsernn.data import CORPORA, TaggedCorpus
from sparsernn.models import MODELS, LanguageModel
from sparsernn.runs.assembly import create, open_run
from sparsernn.runs.loop import train
from sparsernn.runs.recipe import load_recipe
from sparsernn.tasks.recite import Recitation, recite_aloud, text_to_learn


@pytest.fixture
def corpus(tiny_corpus):
    return CORPORA["folder"](tiny_corpus, order="up")


def task_and_model(corpus, **settings):
    task = Recitation(corpus, **{"tokens": 120, "batch_size": 3, "window": 8, **settings})
    torch.manual_seed(0)
    return task, LanguageModel(**task.sizes, embedding_size=12, hidden_sizes=[24])


def learn(task, model, epochs, lr=0.02):
    """A few epochs of Adam, the state carried; returns nothing."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for epoch in range(epochs):
        state = None
        for batch in task.batches(0, epoch):
            _, objective, state = task.loss(model, batch, state)
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
            state = tuple(tuple(part.detach() for part in layer) for layer in state)


# --- what is learnt


def test_all_splits_are_the_beginning_of_the_training_text(corpus):
    task = Recitation(corpus, tokens=100, batch_size=3)
    text = corpus.vocabulary.decode(corpus.splits["train"][:100])
    assert task.examples == {"train": 100, "valid": 100, "test": 100}
    assert all(task.corpus.vocabulary.decode(ids) == text for ids in task.corpus.splits.values())
    assert set(task.corpus.vocabulary.tokens) == {*text, "<unk>"}
    assert task.sizes == {"vocabulary_size": len({*text, "<unk>"})}
    assert "learnt by heart" in task.info["note"]


def test_a_slice_has_its_own_order_of_counts_and_keeps_it_when_cut_again(corpus):
    part = text_to_learn(corpus, 100)
    counts = torch.bincount(part.splits["train"], minlength=len(part.vocabulary))
    assert torch.equal(counts, counts.sort().values)
    again = text_to_learn(part, 100)
    assert again.vocabulary == part.vocabulary
    assert torch.equal(again.splits["train"], part.splits["train"])


def test_the_whole_text_is_learnt_by_default(corpus):
    task = Recitation(corpus, batch_size=3)
    assert torch.equal(task.corpus.splits["test"], corpus.splits["train"])
    assert task.corpus.vocabulary == corpus.vocabulary


# --- what is counted


def test_scores_are_those_of_a_naive_pass(corpus):
    task, model = task_and_model(corpus)
    learn(task, model, epochs=5)
    model.eval()
    rows = task.corpus.splits["train"].view(3, 40).t()
    log_prob = model.head.log_prob(model(rows[:-1], model.initial_state(3)).raw)
    right = log_prob.argmax(-1) == rows[1:]
    nats = -log_prob.gather(-1, rows[1:].unsqueeze(-1)).mean()
    found = task.evaluate(model, "test")
    assert found["tokens"] == 117
    assert found["accuracy"] == pytest.approx(right.double().mean().item())
    assert found["loss"] == pytest.approx(nats.item(), rel=1e-5)
    assert 0.1 < found["accuracy"] < 1


@pytest.mark.parametrize("epochs", [0, 6, 14])
def test_the_recital_is_what_the_model_says_when_it_hears_only_itself(corpus, epochs):
    task, model = task_and_model(corpus)
    learn(task, model, epochs)
    model.eval()
    rows = task.corpus.splits["train"].view(3, 40).t()
    right = (recite_aloud(model, rows[0], steps=39) == rows[1:]).tolist()
    lengths = [next((t for t in range(39) if not right[t][b]), 39) for b in range(3)]
    assert task.evaluate(model, "test")["recital"] == pytest.approx(sum(lengths) / 3)


def test_the_accuracy_in_training_is_counted_before_each_step(corpus):
    task, model = task_and_model(corpus, random_windows=True)
    hits = total = 0
    state = None
    for batch in task.batches(0, 0):
        features = model(batch.words, state)
        hits += int((model.head.log_prob(features.dropped).argmax(-1) == batch.targets).sum())
        total += batch.targets.numel()
        _, _, state = task.loss(model, batch, state)
        with torch.no_grad():
            model.head.bias += torch.randn(len(model.head.bias))
    assert task.evaluate(model, "valid")["accuracy_in_training"] == hits / total
    assert "accuracy_in_training" not in task.evaluate(model, "test")


def test_half_an_epoch_has_no_accuracy_in_training(corpus):
    task, model = task_and_model(corpus)
    for batch in task.batches(0, 0, start=2):
        task.loss(model, batch, None)
    assert "accuracy_in_training" not in task.evaluate(model, "valid")


@given(st.integers(2, 12), st.integers(1, 9))
def test_windows_of_any_length_give_the_same_scores(window, seed):
    torch.manual_seed(seed)
    corpus = text_to_learn(SMALL, 60)
    model = LanguageModel(len(corpus.vocabulary), 6, [8])
    with torch.no_grad():
        model.head.weight *= 20
    one, other = (Recitation(corpus, batch_size=3, window=w).evaluate(model, "test") for w in (window, 60))
    assert one == pytest.approx(other, rel=1e-4)


SMALL = CORPORA["embedded"](max_vocabulary=50)


# --- the end


def test_a_tiny_text_is_learnt_by_heart_and_training_ends(tiny_recipe, tiny_corpus, tmp_path):
    """Test n of the specification: perfection, and the end with it."""
    corpus = {"name": "folder", "path": str(tiny_corpus), "order": "up"}
    recipe = tiny_recipe(
        epochs=300,
        checkpoint_seconds=1000,
        task={"name": "recitation", "corpus": corpus, "tokens": 60, "batch_size": 2, "window": 10},
        model={"name": "language_model", "embedding_size": 16, "hidden_sizes": [32]},
        optimizer={"name": "adam", "lr": 0.02},
        sparsity={"name": "dense"},
    )
    scores = train(create(recipe, tmp_path / "run"))
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    records = [record for record in lines if record["event"] in ("epoch", "end")]
    assert records[-1]["why"] == "the task is solved"
    assert len(records) < 300
    assert [record["valid"]["accuracy"] < 1 for record in records[:-1]] == [True] * (len(records) - 2) + [
        False
    ]
    assert (scores["accuracy"], scores["recital"]) == (1.0, 29.0)
    again = open_run(tmp_path / "run")
    again.load_best()
    assert again.task.evaluate(again.model, "test") == scores


def test_the_tolerance_says_when_it_is_good_enough(corpus):
    task = Recitation(corpus, batch_size=3, tolerance=0.25)
    assert [task.solved({"accuracy": a}) for a in (0.74, 0.75, 1.0)] == [False, True, True]
    assert [Recitation(corpus, batch_size=3).solved({"accuracy": a}) for a in (0.999, 1.0)] == [False, True]


# --- the shipped recipes


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("dense", 24_222_000), ("half", 7_068_500), ("sparse", 7_068_504), ("sparse-all", 7_070_560)],
)
def test_published_numbers_of_parameters(name, parameters):
    model = make("model", MODELS, load_recipe(f"recite/ptb-{name}").model, vocabulary_size=10_000)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_small_recipes_are_the_published_ones_scaled_down():
    """The three smaller networks have equally many parameters, to a tenth of a per cent."""
    models = {
        name: make("model", MODELS, load_recipe(f"recite/small-{name}").model, vocabulary_size=3_000)
        for name in ("dense", "half", "sparse", "sparse-all")
    }
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    small = [counts[name] for name in ("half", "sparse", "sparse-all")]
    assert max(small) < 1.002 * min(small)
    assert counts["dense"] > 3 * max(small)
    tasks = [load_recipe(f"recite/small-{name}").task for name in models]
    assert all(task == tasks[0] for task in tasks)


# --- faults


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 1}, "tokens is 1; it must be a whole number of at least 2"),
        ({"tokens": 10**7}, "tokens is 10000000"),
        ({"tolerance": 1.0}, "tolerance is 1.0"),
        ({"tokens": 10, "batch_size": 20}, "too few for batch_size 20"),
    ],
)
def test_a_fault_is_one_sentence(corpus, settings, message):
    with pytest.raises(InputError, match=message):
        Recitation(corpus, **settings)


def test_tagged_sentences_are_refused():
    with pytest.raises(InputError, match="reciting needs a corpus of running text"):
        Recitation(TaggedCorpus({}, {}))
