"""Dynamic evaluation: an update by hand, the static limit, what stays as it was, masks, dropouts that are off."""

import math

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.data import CORPORA
from sparsernn.models import LanguageModel
from sparsernn.nn import HEADS, LAYERS
from sparsernn.sparsity import SPARSIFIERS
from sparsernn.tasks import LanguageModelling
from sparsernn.tasks.dynamic_evaluation import DynamicEvaluation

SMALL = {"statistics_batch": 20, "max_batches": 4}
KINDS = sorted({(layer, "linear") for layer in LAYERS} | {("lstm", head) for head in HEADS})
DROPOUT = {"embedding": 0.5, "input": 0.5, "hidden": 0.5, "output": 0.5}


@pytest.fixture(scope="module")
def task(tiny_corpus):
    return LanguageModelling(CORPORA["folder"](tiny_corpus), batch_size=4, eval_batch_size=2, window=9)


def build(task, **settings):
    torch.manual_seed(0)
    return LanguageModel(len(task.corpus.vocabulary), 20, [20, 20], **settings).double()


def contents(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(before, model):
    return all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("batch_size", [1, 3])
def test_without_rates_it_is_the_static_result(task, batch_size):
    model = build(task)
    found = DynamicEvaluation(lr=0, lamb=0, **SMALL).evaluate(task, model, "test", batch_size=batch_size)
    assert found == pytest.approx(task.evaluate(model, "test", batch_size), rel=1e-12)


def test_the_decay_alone_changes_nothing_for_weights_that_never_left(task):
    model = build(task)
    found = DynamicEvaluation(lr=0, lamb=0.5, **SMALL).evaluate(task, model, "valid")
    assert found["loss"] == pytest.approx(task.evaluate(model, "valid", 1)["loss"], rel=1e-12)


@pytest.mark.parametrize(("layer", "head"), KINDS)
def test_any_layer_and_any_head_can_learn_and_is_the_same_bits_afterwards(task, layer, head):
    model = build(task, layer=layer, head=head, tied=True)
    model.train()
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)
    before, generator = contents(model), torch.get_rng_state()
    found = DynamicEvaluation(lr=0.01, segment=20, **SMALL).evaluate(task, model, "valid")
    assert found["loss"] != pytest.approx(task.evaluate(model, "valid", 1)["loss"], rel=1e-6)
    assert same(before, model)
    assert model.training
    assert all(bool((p.grad == 7.0).all()) for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_every_dropout_is_off_weight_drop_too(task):
    """The twin without any dropout has the same weights: were one dropout on, the losses would differ."""
    plain = build(task, layer={"name": "lstm", "weight_drop": 0.0})
    dropped = build(task, layer={"name": "lstm", "weight_drop": 0.5}, dropout=DROPOUT)
    dropped.load_state_dict(plain.state_dict())
    mode = DynamicEvaluation(lr=0.01, **SMALL)
    for model in (plain, dropped):
        model.train()
    assert mode.evaluate(task, dropped, "valid") == mode.evaluate(task, plain, "valid")


def test_gradients_flow_to_every_parameter(task):
    """A weight that got no gradient would not move: hold the weights of the last forward pass against the trained."""
    model, last = build(task, layer={"name": "lstm", "weight_drop": 0.5}, dropout=DROPOUT), {}
    before = contents(model)
    model.register_forward_hook(lambda module, given, found: last.update(contents(module)))
    DynamicEvaluation(lr=0.01, **SMALL).evaluate(task, model, "valid")
    assert all(not torch.equal(before[name], last[name]) for name in before)


def naive(task, model, split, mode):
    """The formulas, with autograd's backward and one tensor after another; returns mean nats."""
    twin = build(task)
    twin.load_state_dict(model.state_dict())
    twin.eval()
    parameters = list(twin.parameters())
    trained = [p.detach().clone() for p in parameters]

    def segments(ids, streams):
        rows, state = ids[: len(ids) // streams * streams].view(streams, -1).t(), None
        for start in range(0, len(rows) - 1, mode.segment):
            words = rows[start : start + mode.segment + 1]
            features = twin(words[:-1], state)
            state = tuple(tuple(s.detach() for s in layer) for layer in features.state)
            loss = torch.nn.functional.nll_loss(
                twin.head.log_prob(features.raw).flatten(0, 1), words[1:].flatten()
            )
            twin.zero_grad()
            loss.backward()
            yield loss.item() * words[1:].numel(), [p.grad for p in parameters]

    squares, batches = [torch.zeros_like(p) for p in parameters], 0
    for _, gradients in segments(task.corpus.splits["train"], mode.statistics_batch):
        squares = [s + g**2 for s, g in zip(squares, gradients, strict=True)]
        batches += 1
        if batches == mode.max_batches:
            break
    ms = [(s / (batches if mode.statistics == "mean" else 1)) ** 0.5 for s in squares]
    scale = sum(m.mean().item() for m in ms) / (len(ms) if mode.normaliser == "mean" else 1)
    total, ids = 0.0, task.corpus.splits[split]
    for nats, gradients in segments(ids, 1):
        total += nats
        with torch.no_grad():
            for p, start, m, g in zip(parameters, trained, ms, gradients, strict=True):
                rate = (m / scale).clamp(max=1 / mode.lamb)
                p += mode.lamb * rate * (start - p) - mode.lr * g / (m + mode.epsilon)
    return total / (len(ids) - 1)


@pytest.mark.parametrize("max_batches", [3, None])
@pytest.mark.parametrize("normaliser", ["sum", "mean"])
@pytest.mark.parametrize("statistics", ["sum", "mean"])
def test_it_equals_the_formulas_written_out(task, statistics, normaliser, max_batches):
    mode = DynamicEvaluation(
        lamb=0.4,
        lr=0.02,
        epsilon=0.01,
        segment=6,
        statistics_batch=20,
        max_batches=max_batches,
        statistics=statistics,
        normaliser=normaliser,
    )
    model = build(task)
    expected = naive(task, model, "valid", mode)
    assert mode.evaluate(task, model, "valid")["loss"] == pytest.approx(expected, rel=1e-10)


def test_rates_by_hand():
    """MS (1, 3) and (0, 8): means 2 and 4, G = 6; lamb 3: lamb R = (0.5, 1.5 -> 1) and (0, 4 -> 1)."""
    rms = [torch.tensor([1.0, 3.0]), torch.tensor([0.0, 8.0])]
    decay, step = DynamicEvaluation(lamb=3.0, lr=2.0, epsilon=1.0).rates(rms, [None, None])
    assert [d.tolist() for d in decay] == [[0.5, 1.0], [0.0, 1.0]]
    torch.testing.assert_close(torch.cat(step), torch.tensor([1.0, 0.5, 2.0, 2 / 9]))
    decay, _ = DynamicEvaluation(lamb=0.3, normaliser="mean").rates(rms, [None, None])  # G = 3
    torch.testing.assert_close(torch.cat(decay), torch.tensor([0.1, 0.3, 0.0, 0.8]))


def test_rates_under_masks_by_hand():
    """The absent weight (MS 9) counts nowhere: the mean of the rest is 2, and it has neither pull nor step."""
    rms, present = [torch.tensor([1.0, 3.0, 9.0])], [torch.tensor([True, True, False])]
    decay, step = DynamicEvaluation(lamb=0.5, lr=1.0, epsilon=1.0).rates(rms, present)
    torch.testing.assert_close(decay[0], torch.tensor([0.25, 0.75, 0.0]))
    torch.testing.assert_close(step[0], torch.tensor([0.5, 0.25, 0.0]))


def test_a_model_without_gradients_has_no_pull():
    decay, _ = DynamicEvaluation().rates([torch.zeros(2)], [None])
    assert decay[0].tolist() == [0.0, 0.0]


def test_absent_weights_stay_zero_while_the_others_move(task):
    model, last = build(task), {}
    masks = SPARSIFIERS["static"](model, density=0.3).masks()
    before = contents(model)
    model.register_forward_hook(lambda module, given, found: last.update(contents(module)))
    DynamicEvaluation(lr=0.05, **SMALL).evaluate(task, model, "valid", masks=masks)
    assert masks
    for name, mask in masks.items():
        assert bool((last[name][~mask] == 0).all()), name
        assert bool((last[name] != before[name]).any()), name
    assert same(before, model)


def test_it_helps_a_model_that_has_not_learnt_the_text(task):
    model = build(task)
    found = DynamicEvaluation(lr=0.02, **SMALL).evaluate(task, model, "test")
    assert found["loss"] < task.evaluate(model, "test", 1)["loss"]


def test_weights_come_back_when_it_is_interrupted(task):
    model = build(task)
    before = contents(model)

    def stop(fraction):
        if fraction > 0.9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DynamicEvaluation(lr=0.05, **SMALL).evaluate(task, model, "valid", tick=stop)
    assert same(before, model)
    assert model.training


def test_ticks_rise_to_the_end_statistics_included(task):
    told = []
    DynamicEvaluation(**SMALL).evaluate(task, build(task), "valid", tick=told.append)
    segments = math.ceil((len(task.corpus.splits["valid"]) - 1) / 5)
    assert len(told) == 4 + segments
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lamb": -0.1}, "lamb is -0.1; it must be a finite number of at least 0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"epsilon": 0}, "epsilon is 0; it must be a finite number above 0"),
        ({"segment": 0}, "segment is 0"),
        ({"statistics_batch": True}, "statistics_batch is True"),
        ({"max_batches": 0}, "max_batches is 0"),
        ({"statistics": "median"}, "statistics is 'median'; it must be sum or mean"),
        ({"normaliser": "max"}, "normaliser is 'max'"),
    ],
)
def test_bad_settings_are_answered_in_one_sentence(settings, words):
    with pytest.raises(InputError, match=words):
        DynamicEvaluation(**settings)


def test_a_foreign_model_a_short_text_and_a_loss_without_bounds_are_answered(task):
    with pytest.raises(InputError, match="needs a language model"):
        DynamicEvaluation().evaluate(task, torch.nn.Linear(2, 2), "valid")
    with pytest.raises(InputError, match="statistics_batch is 100000"):
        DynamicEvaluation(statistics_batch=100_000).evaluate(task, build(task), "valid")
    model = build(task)
    before = contents(model)
    with pytest.raises(InputError, match="take a smaller lr"):
        DynamicEvaluation(lr=1e300, **SMALL).evaluate(task, model, "valid")
    assert same(before, model)
