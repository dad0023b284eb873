"""Synthetic gradients: what they must equal, exactly."""

import itertools
from copy import deepcopy

import pytest
import torch
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.core.states import tensors
from sparsernn.gradients import SyntheticGradient, Truncate
from sparsernn.gradients.synthesizer import Synthesizer
from sparsernn.models import LanguageModel, SequenceModel

LAYERS = {
    "lstm": {"name": "lstm"},
    "gru": {"name": "gru"},
    "onlstm": {"name": "onlstm", "chunk_size": 2},
    "rhn": {"name": "rhn", "depth": 2},
    "elman": {"name": "elman"},
    "qrnn": {"name": "qrnn"},
    "qrnn of window 2": {"name": "qrnn", "window": 2},
}
T, B, INPUTS, H = 4, 3, 2, 6


def built(layer, layers=2):
    torch.manual_seed(0)
    return SequenceModel(INPUTS, 1, [H] * layers, layer).double()


def windows(count):
    torch.manual_seed(1)
    return [(torch.randn(T, B, INPUTS).double(), torch.randn(T, B, 1).double()) for _ in range(count)]


def window_loss(model, window, state):
    features = model(window[0], state)
    return (model.read_out(features.raw) - window[1]).square().mean(), features.state


def one_window(model, boundary, window, state, first=False, last=False):
    """What the training loop does with a window, up to the gradients."""
    entered = boundary.enter(state, first)
    loss, after = window_loss(model, window, entered)
    model.zero_grad()
    roots, gradients = boundary.roots(after, T * B, last)
    torch.autograd.backward([loss, *roots], [None, *gradients])
    boundary.learn()
    return after


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


def trained(model, boundary, steps=6):
    """Weights after a few optimizer steps, the state carried, two epochs."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in (1, 2):
        boundary.begin(epoch)
        state, row = model.initial_state(B), windows(steps)
        for k, window in enumerate(row):
            state = one_window(model, boundary, window, state, first=k == 0, last=k == steps - 1)
            optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


class Constant(Synthesizer):
    """Always the same answer, whatever it reads."""

    def __init__(self, answer):
        super().__init__()
        self.answer = nn.Parameter(answer.clone())

    def forward(self, x, memory=None):
        return self.answer.expand_as(x).clone(), None


def with_answer(boundary, answer):
    boundary.synthesizer = Constant(answer)
    boundary.optimizer = torch.optim.SGD(boundary.synthesizer.parameters(), lr=1.0)
    return boundary


@pytest.mark.parametrize(
    "kind", ["mlp", {"name": "elementwise", "cell": "gru", "axis": "time", "noise": 0.5}]
)
def test_without_gamma_it_is_truncated_backpropagation_to_the_bit(kind):
    plain = trained(built("lstm"), Truncate())
    model = built("lstm")
    for gamma in (0.0, 1.0):  # that far it also holds that an estimate of zero, which does not learn, is none
        model = built("lstm")
        boundary = SyntheticGradient(model, 3, 2, synthesizer=kind, gamma=gamma, learn=gamma == 0)
        assert all(map(torch.equal, trained(model, boundary), plain))


def test_real_epochs_are_truncated_backpropagation_to_the_bit():
    plain = trained(built("lstm"), Truncate())
    for target in ("bootstrapped", "window"):
        model = built("lstm")
        boundary = SyntheticGradient(model, 3, 2, start="real", real_target=target, lr=0.05)
        assert all(map(torch.equal, trained(model, boundary), plain))
        model = built("lstm")
        boundary = SyntheticGradient(
            model, 3, 2, start="real", real_target=target, lr=0.05, switch_epochs=[2]
        )
        assert not all(map(torch.equal, trained(model, boundary), plain))


def future_gradient(model, row, state):
    """The gradient, with respect to a state, of the losses of all windows of a row."""
    parts = [t for t in tensors(state) if t.is_floating_point()]
    total = 0.0
    for window in row:
        loss, state = window_loss(model, window, state)
        total = total + loss
    return torch.autograd.grad(total, parts)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_true_future_gradient_makes_it_full_backpropagation(layer):
    model, row = built(LAYERS[layer]), windows(4)
    whole = sum_of_losses(model, row)
    boundary = SyntheticGradient(model, 1, 1, gamma=1.0, scale="tokens", learn=False)
    added = [torch.zeros_like(p) for p in model.parameters()]
    state = model.initial_state(B)
    for k, window in enumerate(row):
        last = k == len(row) - 1
        if not last:
            after = window_loss(model, window, boundary.enter(state, k == 0))[1]
            ahead = boundary.parts.leaves(after)
            true = future_gradient(model, row[k + 1 :], ahead[0])
            with_answer(boundary, boundary.parts.join(true) * T * B)
        state = one_window(model, boundary, window, state, k == 0, last)
        added = [a + g for a, g in zip(added, gradients(model), strict=True)]
    assert [float((a - w).abs().max()) for a, w in zip(added, whole, strict=True)] == pytest.approx(
        [0.0] * len(whole), abs=1e-14
    )


def test_windows_of_different_lengths_add_up_to_the_gradient_of_all_tokens():
    """Estimates are about summed losses: with T tokens in a window its mean loss counts T times."""
    model, rows = built("qrnn"), windows(3)
    row = [(x[:length], y[:length]) for (x, y), length in zip(rows, (4, 1, 3), strict=True)]
    model.zero_grad()
    total, state = 0.0, model.initial_state(B)
    for window in row:
        loss, state = window_loss(model, window, state)
        total = total + len(window[0]) * B * loss
    total.backward()
    whole, added = gradients(model), [torch.zeros_like(p) for p in model.parameters()]
    boundary, state = SyntheticGradient(model, 1, 1, scale="tokens", learn=False), model.initial_state(B)
    for k, window in enumerate(row):
        after, leaves = boundary.parts.leaves(window_loss(model, window, boundary.enter(state, k == 0))[1])
        ahead = 0.0
        for later in row[k + 1 :]:
            loss, after = window_loss(model, later, after)
            ahead = ahead + len(later[0]) * B * loss
        if k < 2:
            with_answer(boundary, boundary.parts.join(torch.autograd.grad(ahead, leaves)))
        state = boundary.enter(state, k == 0)
        loss, after = window_loss(model, window, state)
        tokens = len(window[0]) * B
        model.zero_grad()
        roots, found = boundary.roots(after, tokens, k == 2)
        torch.autograd.backward([loss, *roots], [None, *found])
        added = [a + tokens * g for a, g in zip(added, gradients(model), strict=True)]
        state = after
    for a, w in zip(added, whole, strict=True):
        torch.testing.assert_close(a, w, rtol=1e-12, atol=1e-13)


def sum_of_losses(model, row):
    """Gradients of full backpropagation through all windows."""
    model.zero_grad()
    total, state = 0.0, model.initial_state(B)
    for window in row:
        loss, state = window_loss(model, window, state)
        total = total + loss
    total.backward()
    return gradients(model)


def test_previous_inputs_belong_to_what_is_estimated():
    """Without the second tensor of its state a QRNN of window 2 lets history leak past the estimate."""
    model, row = built({"name": "qrnn", "window": 2}, layers=2), windows(2)
    whole = sum_of_losses(model, row)
    errors = {}
    for parts in ([0, 2], None):
        boundary = SyntheticGradient(model, 1, 1, learn=False, parts=parts)
        state = boundary.enter(model.initial_state(B), True)
        after = boundary.parts.leaves(window_loss(model, row[0], state)[1])
        true = torch.autograd.grad(window_loss(model, row[1], after[0])[0], after[1])
        with_answer(boundary, boundary.parts.join(true) * T * B)
        state = one_window(model, boundary, row[0], model.initial_state(B), first=True)
        added = gradients(model)
        one_window(model, boundary, row[1], state, last=True)
        pairs = zip(added, gradients(model), whole, strict=True)
        errors[parts is None] = max(float((a + b - w).abs().max()) for a, b, w in pairs)
    assert errors[True] < 1e-14 < 1e-5 < errors[False]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("source", ["synthetic", "real"])
def test_target_is_the_window_gradient_and_what_arrives_from_the_estimate(layer, source):
    """Also in real epochs, where the weights' gradient must not see the estimate."""
    model, (window,) = built(LAYERS[layer]), windows(1)
    start = [torch.randn_like(t) for t in tensors(model.initial_state(B))]
    state = nested(model.initial_state(B), iter(start))
    boundary = SyntheticGradient(model, 1, 1, start=source, gamma=0.5, loss="sum", clip=None)
    answer = torch.randn(B, boundary.parts.width).double()
    with_answer(boundary, answer)

    entered, leaves = boundary.parts.leaves(state)
    loss, after = window_loss(model, window, entered)
    of_loss = torch.autograd.grad(loss, [*leaves, *model.parameters()], retain_graph=True, allow_unused=True)
    ends = [(e, g) for e, g in zip(boundary.parts.of(after), boundary.parts.split(answer), strict=True)]
    arriving = torch.autograd.grad(
        [e for e, _ in ends], [*leaves, *model.parameters()], [0.5 * g for _, g in ends], allow_unused=True
    )
    ours, theirs = T * B * join(boundary, of_loss, leaves), join(boundary, arriving, leaves)

    one_window(model, boundary, window, state)
    slope = boundary.synthesizer.answer.grad
    torch.testing.assert_close(slope, 2 * (answer - (ours + theirs)), rtol=1e-10, atol=1e-10)
    injected = [0.0 if source == "real" or g is None else g / (T * B) for g in arriving[len(leaves) :]]
    expected = [a + b for a, b in zip(of_loss[len(leaves) :], injected, strict=True)]
    torch.testing.assert_close(gradients(model), expected, rtol=1e-10, atol=1e-12)


def join(boundary, found, leaves):
    pairs = zip(found[: len(leaves)], leaves, strict=True)
    return boundary.parts.join(torch.zeros_like(leaf) if g is None else g for g, leaf in pairs)


def nested(like, flat):
    return next(flat) if isinstance(like, torch.Tensor) else tuple(nested(part, flat) for part in like)


def test_two_passes_regress_on_each_part_of_the_target():
    """2 (p - loss part) + 2 (p - injected part): the optimum is half of the target."""
    model, (window,) = built("gru"), windows(1)
    slopes, state = {}, tuple((torch.randn(B, H).double(),) for _ in range(2))
    for name, settings in {
        "one": {},
        "two": {"two_pass": True},
        "loss": {"gamma": 0.0},
    }.items():
        boundary = SyntheticGradient(model, 1, 1, **{"gamma": 0.5, "loss": "sum", "clip": None, **settings})
        torch.manual_seed(5)
        answer = torch.randn(B, boundary.parts.width).double()
        with_answer(boundary, answer)
        one_window(model, boundary, window, state)
        slopes[name] = boundary.synthesizer.answer.grad.clone()
    of_injected = slopes["one"] - slopes["loss"]  # -2 times the injected part
    assert of_injected.abs().max() > 1e-3
    torch.testing.assert_close(slopes["two"], slopes["loss"] + (2 * answer + of_injected))
    real = SyntheticGradient(model, 1, 1, start="real", two_pass=True, gamma=0.5, loss="sum", clip=None)
    with_answer(real, answer)
    one_window(model, real, window, state)  # one backward pass only: nothing is counted twice
    torch.testing.assert_close(real.synthesizer.answer.grad, slopes["one"])


class Counter(Synthesizer):
    """Carries how often it was asked, and answers with its memory."""

    carries = True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()).double())
        self.asked = []

    def forward(self, x, memory=None):
        memory = torch.zeros(()).double() if memory is None else memory
        self.asked.append((int(memory), self.training))
        return self.weight * memory.expand_as(x), memory + 1


@pytest.mark.parametrize("source", ["real", "synthetic"])
@pytest.mark.parametrize("target", ["bootstrapped", "window"])
def test_memory_moves_on_once_per_boundary(source, target):
    """A boundary is estimated and later learnt from the same memory, in both kinds of epochs."""
    model = built("gru")
    boundary = SyntheticGradient(model, 1, 2, start=source, real_target=target)
    for _ in range(2):  # the second epoch begins anew
        boundary.synthesizer = Counter()
        trained_once(model, boundary, 4)
        assert boundary.synthesizer.asked == [
            (0, False),
            (1, False),
            (0, True),
            (2, False),
            (1, True),
            (2, True),
        ]


def trained_once(model, boundary, steps):
    state = model.initial_state(B)
    for k, window in enumerate(windows(steps)):
        state = one_window(model, boundary, window, state, first=k == 0, last=k == steps - 1)


def test_published_behaviour_moves_on_twice_and_knows_no_edges():
    model = built("gru")
    for start, asked in {
        "synthetic": [(k, True) for k in range(6)],
        "real": [(k, True) for k in range(3)],
    }.items():
        boundary = SyntheticGradient(model, 1, 2, start=start, faithful=True)
        boundary.synthesizer = Counter()
        trained_once(model, boundary, 3)
        assert boundary.synthesizer.asked == asked


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_estimate_that_is_learnt_has_the_noise_of_the_one_injected(mode):
    """Injected in training mode, the numbers drawn at the boundary come back when it is learnt."""
    model = built("gru")
    spec = {"name": "elementwise", "cell": "gru", "noise": 0.5, "zero_init": False, "axis": "units"}
    boundary = SyntheticGradient(model, 1, 1, synthesizer=spec, injection=mode, lr=1e-30)
    first, second = windows(2)
    state = one_window(model, boundary, first, model.initial_state(B), first=True)
    injected = boundary._injected.clone()
    one_window(model, boundary, second, state)
    assert torch.allclose(boundary._estimated, injected) == (mode == "training")


@pytest.mark.parametrize("scale", ["tokens", "rms", "none"])
def test_units_cancel(scale):
    """Whatever the unit, an estimate that is right in it enters as the gradient of the mean loss."""
    model, (window,) = built("gru"), windows(1)
    boundary = SyntheticGradient(model, 1, 1, scale=scale, learn=False, gamma=1.0)
    boundary.rms = 0.25
    unit = {"tokens": T * B, "rms": 4.0, "none": 1.0}[scale]
    true = torch.randn(B, boundary.parts.width).double()
    with_answer(boundary, true * unit)
    state = boundary.enter(tuple((torch.randn(B, H).double(),) for _ in range(2)), False)
    after = window_loss(model, window, state)[1]
    _, found = boundary.roots(after, T * B, False)
    torch.testing.assert_close(found, boundary.parts.split(true))


def test_running_size_starts_with_the_first_gradient_and_nothing_is_injected_before():
    model, row = built("gru"), windows(3)
    boundary = with_answer(SyntheticGradient(model, 1, 1, scale="rms"), torch.ones(1, 2 * H).double())
    state = one_window(model, boundary, row[0], model.initial_state(B), first=True)
    assert boundary._injected is None
    assert boundary.rms is None
    state = one_window(model, boundary, row[1], state)
    assert boundary.rms > 0
    one_window(model, boundary, row[2], state)
    assert boundary._injected is not None


def test_wordy_models_and_unused_roots():
    """Words, tied weights, an embedding in between; the state of the last layer is not all that there is."""
    torch.manual_seed(0)
    model = LanguageModel(11, 6, [6, 6], layer=[{"name": "lstm"}, {"name": "rhn"}], tied=True)
    boundary = SyntheticGradient(model, 1, 1, synthesizer={"name": "mlp", "zero_init": False})
    words = torch.randint(11, (5, B))
    features = model(words, boundary.enter(model.initial_state(B), True))
    nats = model.head.nll(features.dropped, words).mean()
    plain = torch.autograd.grad(nats, model.embedding.weight, retain_graph=True)[0]
    roots, found = boundary.roots(features.state, words.numel(), False)
    torch.autograd.backward([nats, *roots], [None, *found])
    assert len(roots) == 3
    assert not torch.allclose(model.embedding.weight.grad, plain)


def test_state_that_is_no_number_is_left_alone():
    class Counting(nn.Module):
        def initial_state(self, batch):
            return (torch.zeros(batch, 2), torch.zeros(batch, dtype=torch.long), None)

    boundary = SyntheticGradient(Counting(), 1, 1)
    assert boundary.parts.width == 2
    state = boundary.enter(Counting().initial_state(3), False)
    assert [t.requires_grad for t in tensors(state)] == [True, False]
    assert state[2] is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gamma": 1.5}, r"gamma is 1.5; it must be .* in \[0, 1\]"),
        ({"scale": "words"}, "scale is 'words'; it must be one of tokens, rms, none"),
        ({"gama": 0.1}, "boundary has no setting 'gama'.*Did you mean 'gamma'"),
        ({"lr": 0.0}, "lr is 0.0; it must be .* above 0"),
        ({"clip": -1.0}, "clip is -1.0; it must be .* above 0"),
        ({"lr": "fast"}, "boundary.lr is 'fast'; it must be a finite number"),
        ({"lr_end": -1.0}, "lr_end is -1.0; it must be .* at least 0"),
        (
            {"synthesizer": {"name": "mlp", "context_size": 2}},
            "context_size is 2, but nothing gives it a context",
        ),
        ({"parts": [7]}, r"parts is \[7\]; it must be a list of some of \[0, 1, 2, 3\]"),
        ({"switch_epochs": 2}, "switch_epochs is 2; it must be a list"),
        ({"switch_epochs": [0]}, "switch_epochs is .0."),
        ({"start": "false"}, "start is 'false'; it must be real or synthetic"),
        ({"synthesizer": "oracle"}, "synthesizer 'oracle' is unknown; known: elementwise, mlp"),
    ],
)
def test_what_is_wrong_is_said(settings, words):
    with pytest.raises(InputError, match=words):
        SyntheticGradient(built("lstm"), 1, 1, **settings)


def test_task_without_a_carried_state_is_refused():
    with pytest.raises(InputError, match="carries no state from batch to batch"):
        SyntheticGradient(built("gru"), 1, 1).roots(None, 3, False)


def test_state_dict_continues_to_the_bit():
    spec = {"name": "elementwise", "cell": "gru", "axis": "time", "noise": 0.3}
    settings = {"synthesizer": spec, "scale": "rms", "injection": "training"}
    row, models = windows(5), [built("gru"), built("gru")]
    a, b = (SyntheticGradient(m, seed, 1, **settings) for m, seed in zip(models, (1, 2), strict=True))
    state = models[0].initial_state(B)
    for k in range(2):
        state = one_window(models[0], a, row[k], state, first=k == 0)
    b.load_state_dict(deepcopy(a.state_dict()))
    states = [state, state]
    for window, which in itertools.product(row[2:], (0, 1)):
        states[which] = one_window(models[which], (a, b)[which], window, states[which])
    assert all(map(torch.equal, a.synthesizer.parameters(), b.synthesizer.parameters()))
    assert a.records() == b.records() != {}


def test_rate_of_the_synthesizer_stays_or_falls_in_a_line():
    stays, falls = (SyntheticGradient(built("gru"), 1, 5, lr=0.4, lr_end=lr_end) for lr_end in (None, 0.2))
    rates = [[], []]
    for epoch in range(1, 6):
        for boundary, found in zip((stays, falls), rates, strict=True):
            boundary.begin(epoch)
            found.append(boundary.optimizer.param_groups[0]["lr"])
    assert rates[0] == [0.4] * 5
    assert rates[1] == pytest.approx([0.4, 0.35, 0.3, 0.25, 0.2])
