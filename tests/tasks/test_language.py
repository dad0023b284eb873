"""Language modelling: scores per token, whatever the windows; penalties by hand; windows as a pure function."""

import math

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.data import CORPORA
from sparsernn.models import LanguageModel
from sparsernn.tasks import LanguageModelling


@pytest.fixture
def corpus(tiny_corpus):
    return CORPORA["folder"](tiny_corpus)


@pytest.fixture
def model(corpus):
    torch.manual_seed(0)
    return LanguageModel(len(corpus.vocabulary), 6, [8, 8], dropout={"output": 0.5}).double()


def task(corpus, **settings):
    return LanguageModelling(corpus, **{"batch_size": 4, "eval_batch_size": 2, "window": 9, **settings})


def test_evaluation_does_not_depend_on_the_window(corpus, model):
    results = [task(corpus, window=w).evaluate(model, "valid") for w in (1, 7, 35, 10_000)]
    assert all(math.isclose(r["loss"], results[0]["loss"], rel_tol=1e-12) for r in results)
    assert {r["tokens"] for r in results} == {results[0]["tokens"]}


def test_evaluation_is_the_mean_over_predicted_tokens_computed_at_once(corpus, model):
    ids = corpus.splits["test"]
    with torch.no_grad():
        log_prob = model.eval().head.log_prob(model(ids[:-1, None]).raw).squeeze(1)
    expected = -log_prob.gather(1, ids[1:, None]).mean().item()
    scores = task(corpus).evaluate(model, "test", batch_size=1)
    assert scores["tokens"] == len(ids) - 1
    assert math.isclose(scores["loss"], expected, rel_tol=1e-12)
    assert math.isclose(scores["perplexity"], math.exp(expected), rel_tol=1e-12)
    assert math.isclose(scores["bits"], expected / math.log(2), rel_tol=1e-12)


def test_bits_come_with_the_share_of_right_tokens(corpus, model):
    ids = corpus.splits["test"]
    with torch.no_grad():
        said = model.eval().head.log_prob(model(ids[:-1, None]).raw).squeeze(1).argmax(-1)
    scores = task(corpus, metric="bits").evaluate(model, "test", batch_size=1)
    assert scores["accuracy"] == (said == ids[1:]).double().mean().item()
    assert "accuracy" not in task(corpus).evaluate(model, "test", batch_size=1)


def test_evaluation_leaves_mode_and_generator_alone(corpus, model):
    model.train()
    before = torch.get_rng_state()
    task(corpus).evaluate(model, "valid")
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_an_untrained_uniform_model_has_the_perplexity_of_the_vocabulary(corpus, model):
    for p in model.head.parameters():
        p.data.zero_()
    assert task(corpus).evaluate(model, "valid")["perplexity"] == pytest.approx(len(corpus.vocabulary))


def test_activation_penalties_by_hand(corpus, model):
    settings = task(corpus, alpha=2.0, beta=3.0)
    batch = next(settings.batches(seed=0, epoch=0))
    state = model.initial_state(4)
    torch.manual_seed(5)
    nats, objective, _ = settings.loss(model, batch, state)
    torch.manual_seed(5)
    features = model(batch.words, state)
    steps = features.raw[1:] - features.raw[:-1]
    expected = nats + 2 * (features.dropped**2).mean() + 3 * (steps**2).mean()
    torch.testing.assert_close(objective, expected)


def test_windows_can_be_entered_anywhere(corpus):
    settings = task(corpus, random_windows=True)
    whole = list(settings.batches(seed=3, epoch=2))
    tail = list(settings.batches(seed=3, epoch=2, start=4))
    assert all(torch.equal(a.words, b.words) for a, b in zip(whole[4:], tail, strict=True))
    assert {b.lr_scale for b in whole} == {len(b.words) / 9 for b in whole}
    assert [len(b.words) for b in whole] != [len(b.words) for b in settings.batches(seed=3, epoch=3)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("random", [False, True])
def test_the_first_epoch_has_the_steps_that_are_planned_for_its_seed(corpus, seed, random):
    settings = task(corpus, random_windows=random)
    assert settings.steps_per_epoch(seed) == len(list(settings.batches(seed, epoch=0)))


def test_seeds_differ_in_their_number_of_random_windows(corpus):
    settings = task(corpus, random_windows=True)
    assert len({settings.steps_per_epoch(seed) for seed in range(8)}) > 1


def test_fixed_windows_do_not_scale_the_learning_rate(corpus):
    assert {b.lr_scale for b in task(corpus).batches(seed=0, epoch=0)} == {1.0}


def test_targets_are_the_next_words(corpus):
    batches = list(task(corpus).batches(seed=0, epoch=0))
    words, targets = (torch.cat([getattr(b, name) for b in batches]) for name in ("words", "targets"))
    assert torch.equal(words[1:], targets[:-1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"metric": "accuracy"}, "metric is 'accuracy'"),
        ({"window": 0}, "window"),
        ({"batch_size": 9999}, "batch_size 9999"),
        ({"alpha": -1.0}, "alpha is -1.0; it must be .* at least 0"),
        ({"beta": -0.5}, "beta is -0.5; it must be .* at least 0"),
        ({"beta": float("nan")}, "beta is nan; it must be .* at least 0"),
    ],
)
def test_bad_settings_are_answered_in_one_sentence(corpus, settings, words):
    with pytest.raises(InputError, match=words):
        task(corpus, **settings)
