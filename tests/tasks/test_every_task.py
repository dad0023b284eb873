"""What every task of the registry keeps to, on tiny data; one that is added is tested here by itself."""

import inspect
import itertools
import json
import math
import typing

import pytest
import torch

from sparsernn import catalogue
from sparsernn.core.errors import InputError
from sparsernn.core.metrics import METRICS
from sparsernn.core.peers import share_of
from sparsernn.core.registry import make
from sparsernn.data import stand_ins
from sparsernn.data.digit_images import Images
from sparsernn.data.questions import QuestionCorpus
from sparsernn.data.series_corpus import SeriesCorpus
from sparsernn.data.tagged_sentences import TaggedCorpus
from sparsernn.data.text_corpus import Corpus
from sparsernn.data.vocabulary import Vocabulary
from sparsernn.models import MODELS
from sparsernn.tasks import TASKS

WORDS = Vocabulary(["<pad>", "<unk>", "<eos>", "a", "dog", "barks", "x"])
HASHES = {"sha256": dict.fromkeys(("train", "valid", "test"), "0" * 64)}
FACTS = {"name": "random", "source": "this test", "note": "", **HASHES}
DATA = {
    Corpus: lambda: stand_ins.text(
        {**FACTS, "level": "word", "tokens": {"train": 120, "valid": 40, "test": 60}}, WORDS
    ),
    TaggedCorpus: lambda: few(stand_ins.sentences(FACTS, WORDS, Vocabulary(["NOUN", "VERB"]))),
    QuestionCorpus: lambda: few(stand_ins.paragraphs(FACTS, WORDS.tokens)),
    SeriesCorpus: lambda: few(stand_ins.series(FACTS, ["yes", "no"])),
    Images: lambda: few_pictures(stand_ins.pictures(FACTS)),
}
SMALL = {
    "batch_size": 4,
    "eval_batch_size": 5,
    "iterations": 3,
    "eval_sequences": 6,
    "eval_length": 7,
    "window": 5,
    "delay": 4,
    "length": 6,
    "min_count": {"word": 1, "character": 1},
}
"""By the names that settings have in this house; a new task that uses them needs nothing of its own here."""
SMALL_MODEL = {
    "embedding_size": 6,
    "hidden_sizes": [6],
    "hidden_size": 6,
    "word_size": 6,
    "character_cnn": {"embedding_size": 3, "filters": 4, "width": 3},
}


def few(corpus):
    return type(corpus)({split: found[:22] for split, found in corpus.splits.items()}, corpus.info)


def few_pictures(images):
    pixels = {split: found[:22, :16] for split, found in images.pixels.items()}
    return Images(
        pixels, {s: found[:22] for s, found in images.labels.items()}, images.brightest, images.info
    )


def tiny(name, **settings):
    """A task of the registry on a handful of random data, with `SMALL` settings under those given."""
    made = TASKS[name]
    known = {setting.name for setting in catalogue.settings("task", name)}
    hints = typing.get_type_hints(made.__init__ if inspect.isclass(made) else made)
    data = {
        key: DATA[kind]()
        for key, hint in hints.items()
        for kind in (typing.get_args(hint) or (hint,))
        if key != "return" and isinstance(kind, type) and kind in DATA
    }
    small = {key: value for key, value in SMALL.items() if key in known}
    return make("task", TASKS, {"name": name, **small, **data, **settings})


def model_for(task):
    """The first model of the registry that takes the sizes that a task's data fix, small."""
    for name, made in MODELS.items():
        parameters = inspect.signature(made).parameters
        supplied = catalogue.KINDS["model"].supplied & parameters.keys()
        if task.sizes.keys() <= supplied and _needed(parameters, supplied) <= task.sizes.keys():
            small = {key: value for key, value in SMALL_MODEL.items() if key in parameters}
            torch.manual_seed(1)
            return make("model", MODELS, {"name": name, **small}, **task.sizes)
    raise AssertionError(f"no model takes the sizes {sorted(task.sizes)}; a task needs one that does")


def _needed(parameters, supplied):
    return {name for name in supplied if parameters[name].default is inspect.Parameter.empty}


def plain(value):
    return json.loads(json.dumps(value)) == value


def assert_facts(task):
    """What the plan, the run folder and the reports read."""
    assert plain(dict(task.info)), "facts go into environment.json"
    assert task.info["sha256"], "by which a resumed run knows its data again"
    assert task.metric in METRICS
    assert task.counts
    assert {"train", "valid", "test"} <= task.examples.keys()
    assert all(count > 0 for count in task.examples.values())
    assert all(type(size) is int for size in task.sizes.values())


def assert_batches(task):
    """A pure function of seed, epoch and start, as many as are announced, nothing drawn from torch's generator."""
    before = torch.get_rng_state()
    for seed, epoch in ((0, 1), (3, 1), (3, 2)):
        whole = list(task.batches(seed, epoch))
        rest = list(task.batches(seed, epoch, start=1))
        assert len(rest) == len(whole) - 1
        for ours, theirs in zip(whole[1:], rest, strict=True):
            assert torch.equal(ours.targets, theirs.targets), "start leaves out batches and changes none"
            assert ours.lr_scale == theirs.lr_scale
    assert len(list(task.batches(3, 1))) == task.steps_per_epoch(3) > 1
    assert torch.equal(torch.get_rng_state(), before)


def assert_loss(task, model):
    """Mean nats, detached; something to minimise that reaches weights; a state that the next batch takes."""
    state = model.initial_state(task.batch_size)
    for batch in itertools.islice(task.batches(0, 1), 2):
        nats, objective, state = task.loss(model.train(), batch, state)
        assert not nats.requires_grad
        assert math.isfinite(nats)
        assert nats.dim() == objective.dim() == 0
    model.zero_grad()
    objective.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def assert_parts(task, model):
    """What the parts of a batch lose, each by its share of the targets, is what the whole loses."""
    model, parts = model.eval(), 2
    task.check_parts(parts)
    state, states = model.initial_state(task.batch_size), [None] * parts
    for batch in task.batches(0, 1):
        whole = task.loss(model, batch, state)
        total = scored = 0
        for number in range(parts):
            part = task.part(batch, number, parts)
            size = share_of(task.batch_size, number, parts)
            begun = states[number] or model.initial_state(size.stop - size.start)
            _, objective, states[number] = task.loss(model, part, begun)
            total = total + objective * part.targets.numel() / batch.targets.numel()
            scored += part.targets.numel()
        assert scored == batch.targets.numel()
        assert total.item() == pytest.approx(whole[1].item(), rel=1e-5)
        state = whole[2] or model.initial_state(task.batch_size)
    model.train()
    with pytest.raises(InputError, match="processes cannot share; it must be at least"):
        task.check_parts(task.batch_size + 1)


def assert_scores(task, model):
    """The same scores twice, of every split, in both modes of the model, which it leaves as it found it."""
    before, drawn = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    for split, training in itertools.product(("valid", "test"), (True, False)):
        told = []
        scores = task.evaluate(model.train(training), split, tick=told.append)
        assert model.training is training
        assert {"loss", task.metric} <= scores.keys()
        assert scores == task.evaluate(model, split)
        assert told == sorted(told)
        assert all(0 <= fraction <= 1 for fraction in told)
        assert math.isfinite(task.criterion(scores))
        assert isinstance(task.solved(scores), bool)
        assert plain(scores)
    for record in (*task.records(model, "test"), *task.look(model), *task.look(model, closely=True)):
        assert plain(record)
        assert record["event"]
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def assert_rebuilt(name, task):
    """With its data away, the task is put together again in the same sizes; what it adds up is plain."""
    given = type(task).stand_in(task.info, task.vocabularies)
    if given:
        known = {"vocabularies": task.vocabularies or None}
        again = make("task", TASKS, {"name": name, **_small(name), **given}, **known)
        assert again.sizes == task.sizes
    assert plain(task.state_dict())
    task.load_state_dict(task.state_dict())
    task.load_state_dict({})


def _small(name):
    known = {setting.name for setting in catalogue.settings("task", name)}
    return {key: value for key, value in SMALL.items() if key in known}


def assert_contract(name):
    """All that the training loop, the plan, the reports and a resumed run ask of a task."""
    task = tiny(name)
    model = model_for(task)
    task.check_model(model)
    assert_facts(task)
    assert_batches(task)
    assert_loss(task, model)
    assert_parts(task, model)
    assert_scores(task, model)
    assert_rebuilt(name, task)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_keeps_to_its_contract(name):
    assert_contract(name)


def forgets_start(task):
    whole = task.batches
    task.batches = lambda seed, epoch, start=0: whole(seed, epoch)


def draws_globally(task):
    whole = task.batches
    task.batches = lambda seed, epoch, start=0: (torch.rand(1), whole(seed, epoch, start))[1]


def leaves_training(task):
    whole = task.evaluate
    task.evaluate = lambda model, *given, **named: whole(model.eval(), *given, **named)


def announces_less(task):
    task.steps_per_epoch = lambda seed=0: 1


def keeps_the_graph(task):
    whole = task.loss
    task.loss = lambda *given: (lambda nats, goal, state: (goal, goal, state))(*whole(*given))


def has_facts_that_are_not_plain(task):
    task.info = {**task.info, "made": {1, 2}}


FAULTS = [
    forgets_start,
    draws_globally,
    leaves_training,
    announces_less,
    keeps_the_graph,
    has_facts_that_are_not_plain,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_registered_task_is_tested_and_its_faults_are_found(monkeypatch, fault):
    honest = TASKS["adding"]

    def made(length: int = 6, batch_size: int = 4, iterations: int = 3, eval_sequences: int = 6):
        task = honest(
            length=length, batch_size=batch_size, iterations=iterations, eval_sequences=eval_sequences
        )
        for break_it in broken:
            break_it(task)
        return task

    monkeypatch.setitem(TASKS, "summing", made)
    broken = []
    assert_contract("summing")
    broken = [fault]
    with pytest.raises((AssertionError, TypeError)):
        assert_contract("summing")
