"""The neural cache: against a naive loop, whatever the chunks, layers, heads; conventions; tuning on valid only."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.data import CORPORA
from sparsernn.models import LanguageModel
from sparsernn.nn import HEADS, LAYERS
from sparsernn.tasks import LanguageModelling
from sparsernn.tasks.cache_pointer import PRESETS, NeuralCache, _Memory, chunk_length

KINDS = sorted({(layer, "linear") for layer in LAYERS} | {("lstm", head) for head in HEADS})


@pytest.fixture(scope="module")
def task(tiny_corpus):
    return LanguageModelling(CORPORA["folder"](tiny_corpus), batch_size=4, eval_batch_size=2, window=9)


def build(task, **settings):
    torch.manual_seed(0)
    dropout = {"embedding": 0.5, "input": 0.5, "hidden": 0.5, "output": 0.5}
    layer = {"name": "lstm", "weight_drop": 0.5}
    kind = {"layer": layer, "dropout": dropout, **settings}
    return LanguageModel(len(task.corpus.vocabulary), 20, [20, 20], **kind).double()


@pytest.fixture(scope="module")
def model(task):
    return build(task)


@torch.no_grad()
def naive(task, model, split, cache, batch_size=1):
    """The definition, one position after another; returns mean nats."""
    ids, nats = task.corpus.splits[split], []
    length = len(ids) // batch_size
    for stream in ids[: length * batch_size].view(batch_size, length):
        features = model.eval()(stream[:-1, None])
        probabilities = model.head.log_prob(features.raw).exp()[:, 0]
        hidden, following = features.raw[:, 0], stream[1:]
        for t in range(len(following)):
            p = probabilities[t]
            oldest = max(0, t - cache.window)
            usable = t > 0 if cache.partly_filled else t > cache.window
            if usable:
                attention = (cache.theta * hidden[oldest:t] @ hidden[t]).softmax(0)
                pointed = torch.zeros_like(p).index_add_(0, following[oldest:t], attention)
                p = cache.mixing * pointed + (1 - cache.mixing) * p
            nats.append(-p[following[t]].log().item())
    return math.fsum(nats) / len(nats)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("partly_filled", [True, False])
@pytest.mark.parametrize("window", [1, 7, 50, 10_000])
def test_the_cache_equals_the_naive_loop(task, model, window, partly_filled, batch_size):
    cache = NeuralCache(window, theta=0.7, mixing=0.3, partly_filled=partly_filled)
    found = cache.evaluate(task, model, "test", batch_size=batch_size)
    assert found["loss"] == pytest.approx(naive(task, model, "test", cache, batch_size), rel=1e-12)


@pytest.mark.parametrize(("layer", "head"), KINDS)
def test_any_layer_and_any_head_can_be_read_with_a_cache(task, layer, head):
    model, cache = build(task, layer=layer, head=head), NeuralCache(30, theta=2.0, mixing=0.2)
    found = cache.evaluate(task, model, "valid")
    assert found["loss"] == pytest.approx(naive(task, model, "valid", cache), rel=1e-12)


@settings(max_examples=25)
@given(chunk=st.integers(1, 400), window=st.integers(1, 250), partly_filled=st.booleans())
def test_the_result_does_not_depend_on_the_chunks(task, model, chunk, window, partly_filled):
    common = {"window": window, "theta": 1.5, "mixing": 0.4, "partly_filled": partly_filled}
    whole = NeuralCache(**common, chunk=10_000).evaluate(task, model, "valid", batch_size=2)
    found = NeuralCache(**common, chunk=chunk).evaluate(task, model, "valid", batch_size=2)
    assert found["loss"] == pytest.approx(whole["loss"], rel=1e-12)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_no_share_for_the_cache_is_the_static_result(task, model, batch_size):
    static = task.evaluate(model, "test", batch_size)
    found = NeuralCache(mixing=0.0).evaluate(task, model, "test", batch_size=batch_size)
    assert found == pytest.approx(static, rel=1e-12)
    assert found["tokens"] == (len(task.corpus.splits["test"]) // batch_size - 1) * batch_size


def test_a_cache_that_is_never_full_enough_is_not_used_where_the_original_would_not(task, model):
    rows = len(task.corpus.splits["test"]) - 1
    static = task.evaluate(model, "test", 1)["loss"]
    for window, used in ((rows - 1, False), (rows - 2, True)):
        found = NeuralCache(window, mixing=0.5, partly_filled=False).evaluate(task, model, "test")["loss"]
        assert (found != pytest.approx(static, rel=1e-9)) is used


def test_probabilities_by_hand():
    """Hidden vectors 0, 1, 2, then 1 once more; theta ln 2, so that a step of 1 in <h_i, h_t> doubles the weight."""
    memory = _Memory(window=2, partly_filled=True)
    hidden, following = torch.tensor([0.0, 1.0, 2.0, 1.0]).view(4, 1, 1), torch.tensor([[5], [6], [5], [5]])
    found, usable = memory.read(hidden, following, [math.log(2), 0.0])
    # t=1 sees (0 -> 5) alone and wants 6; t=2 sees 0 -> 5, 1 -> 6 with weights 1, 4; t=3 sees 1 -> 6, 2 -> 5: 2, 4
    torch.testing.assert_close(found[0, :, 0], torch.tensor([0.0, 0.0, 1 / 5, 2 / 3]))
    torch.testing.assert_close(found[1, :, 0], torch.tensor([0.0, 0.0, 1 / 2, 1 / 2]))
    assert usable.tolist() == [False, True, True, True]
    assert memory.keys.flatten().tolist() == [2.0, 1.0]


def test_huge_similarities_neither_overflow_nor_vanish(task):
    model = build(task)
    with torch.no_grad():
        model.layers[-1].weight_ih.mul_(1e4)
    found = NeuralCache(50, theta=1e6, mixing=0.1).evaluate(task, model.float(), "valid")
    assert math.isfinite(found["loss"])


def test_mode_and_generator_are_left_alone(task, model):
    model.train()
    before = torch.get_rng_state()
    NeuralCache(20).evaluate(task, model, "valid")
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_tuning_takes_the_best_of_the_grid_on_valid_and_reads_nothing_else(task, model):
    thetas, mixings = (0.0, 0.5, 3.0), (0.0, 0.1, 0.6)
    losses = {
        (theta, mixing): NeuralCache(40, theta, mixing).evaluate(task, model, "valid")["loss"]
        for theta in thetas
        for mixing in mixings
    }
    seen = []
    corpus, splits = task.corpus, dict(task.corpus.splits)

    class Watched(dict):
        def __getitem__(self, name):
            seen.append(name)
            return super().__getitem__(name)

    object.__setattr__(corpus, "splits", Watched(splits))
    try:
        tuned = NeuralCache(40).tuned(task, model, thetas=thetas, mixings=mixings)
    finally:
        object.__setattr__(corpus, "splits", splits)
    assert losses[tuned.theta, tuned.mixing] == min(losses.values())
    assert tuned.window == 40
    assert set(seen) == {"valid"}


def test_ticks_rise_to_the_end(task, model):
    told = []
    NeuralCache(20, chunk=30).evaluate(task, model, "valid", tick=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize("window", [1, 100, 3785, 500_000])
@pytest.mark.parametrize("streams", [1, 20])
def test_chunks_bound_the_memory(window, streams):
    length = chunk_length(window, streams)
    cells = streams * length * (window + length)
    assert length == 1 or cells <= 1 << 22


def test_published_settings():
    assert (PRESETS["ptb"].window, PRESETS["ptb"].theta, PRESETS["ptb"].mixing) == (500, 1.0, 0.1)
    wikitext = PRESETS["wikitext-2"]
    assert (wikitext.window, round(wikitext.theta, 4), round(wikitext.mixing, 4)) == (3785, 0.6626, 0.1279)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"window": 0}, "window is 0; it must be a whole number of at least 1"),
        ({"chunk": 2.5}, "chunk is 2.5"),
        ({"theta": -1.0}, "theta is -1.0"),
        ({"theta": math.inf}, "theta is inf"),
        ({"mixing": 1.0}, "mixing is 1.0"),
        ({"mixing": math.nan}, "mixing is nan"),
    ],
)
def test_bad_settings_are_answered_in_one_sentence(settings, words):
    with pytest.raises(InputError, match=words):
        NeuralCache(**settings)


def test_a_grid_out_of_range_and_a_foreign_model_are_refused(task, model):
    with pytest.raises(InputError, match=r"mixing is 2"):
        NeuralCache().tuned(task, model, thetas=(1.0,), mixings=(0.1, 2))
    with pytest.raises(InputError, match="needs a language model"):
        NeuralCache().evaluate(task, torch.nn.Linear(2, 2), "valid")
