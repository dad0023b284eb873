"""Two lines in anybody's training loop."""

import copy
import pickle

import pytest
import torch
from torch import nn

from sparsernn import sparsify
from sparsernn.core.errors import InputError
from sparsernn.sparsity import DEFAULTS


class Classifier(nn.Module):
    """A recurrent layer of torch's and two linear ones."""

    def __init__(self, cell):
        super().__init__()
        self.rnn = cell(6, 10, num_layers=2, bidirectional=True)
        self.hidden = nn.Linear(20, 12)
        self.out = nn.Linear(12, 3)

    def forward(self, x):
        return self.out(torch.relu(self.hidden(self.rnn(x)[0][-1])))


def plain_loop(model, optimizer, steps, after=lambda: None):
    """What a user has: nothing of this library in it."""
    g = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x, y = torch.randn(4, 5, 6, generator=g), torch.randint(0, 3, (5,), generator=g)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after()


def started(cell=nn.LSTM, optimizer=torch.optim.Adam):
    torch.manual_seed(0)
    model = Classifier(cell)
    return model, optimizer(model.parameters(), lr=0.01)


@pytest.mark.parametrize("method", list(DEFAULTS))
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_two_lines_are_enough(method, cell):
    model, optimizer = started(cell)
    sparsifier = sparsify(model, optimizer, method=method, density=0.3, total_steps=400)
    total = sparsifier.summary()["masked_active"]

    def check():
        assert sparsifier.summary()["masked_active"] == total
        for name, mask in sparsifier.masks().items():
            assert not model.get_parameter(name)[~mask].any()

    plain_loop(model, optimizer, 12, check)
    assert sparsifier.step_count == 12
    assert len(sparsifier.reports) == {"static": 0, "rigl": 0}.get(method, 3)  # every 400 / 100 steps


def test_bidirectional_layers_report_their_gates():
    model, optimizer = started()
    tensors = sparsify(model, optimizer, density=0.5).summary()["tensors"]
    assert list(tensors["rnn.weight_hh_l1_reverse"]["gates"]) == ["i", "f", "g", "o"]


def test_learning_goes_on_in_a_sparse_model():
    model, optimizer = started()
    sparsify(model, optimizer, density=0.3, total_steps=60)
    before = [p.detach().clone() for p in model.parameters()]
    plain_loop(model, optimizer, 5)
    assert all(not torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


def test_without_a_hook_the_loop_calls_step():
    runs = []
    for attach in (True, False):
        model, optimizer = started()
        sparsifier = sparsify(model, optimizer, density=0.3, total_steps=200, attach=attach)
        plain_loop(model, optimizer, 7, (lambda: None) if attach else sparsifier.step)
        runs.append(model.state_dict())
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


def test_without_an_optimizer_weights_are_masked():
    model, optimizer = started()
    sparsifier = sparsify(model, density=0.3)
    plain_loop(model, optimizer, 3, sparsifier.step)
    assert all(not model.get_parameter(n)[~m].any() for n, m in sparsifier.masks().items())


@pytest.mark.parametrize(
    ("known", "every", "total"),
    [
        ({}, 100, 10_000),
        ({"total_steps": 5000}, 50, 5000),
        ({"steps_per_epoch": 30}, 30, 3000),
        ({"total_steps": 5000, "steps_per_epoch": 70}, 70, 5000),
        ({"total_steps": 20}, 1, 20),
    ],
)
def test_what_is_assumed_about_an_unknown_run(known, every, total):
    sparsifier = sparsify(started()[0], density=0.5, **known)
    assert (sparsifier.settings.updates.unit, sparsifier.settings.updates.every) == ("step", every)
    assert sparsifier.length.total_steps == total
    assert sparsifier.prune_rate(0) == 0.5
    assert sparsifier.prune_rate(total) == pytest.approx(0.005)


def test_no_update_at_the_very_end():
    model, optimizer = started()
    sparsifier = sparsify(model, optimizer, density=0.5, total_steps=12, steps_per_epoch=4)
    plain_loop(model, optimizer, 12)
    assert [report["step"] for report in sparsifier.reports] == [4, 8]


def test_epochs_by_hand():
    model, optimizer = started()
    sparsifier = sparsify(model, optimizer, density=0.5, manual_epochs=True)
    plain_loop(model, optimizer, 5)
    assert sparsifier.reports == []
    assert sparsifier.end_epoch()[0]["step"] == 5
    assert len(sparsifier.reports) == 1


def test_the_model_stays_an_ordinary_model():
    model, optimizer = started()
    keys = list(model.state_dict())
    sparsifier = sparsify(model, optimizer, density=0.3, total_steps=100)
    plain_loop(model, optimizer, 3)
    assert list(model.state_dict()) == keys
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), model.parameters(), strict=True))
    pickle.loads(pickle.dumps(optimizer.state_dict()))
    twin, steps = copy.deepcopy(optimizer), sparsifier.step_count
    twin.step()  # a copy is not attached
    assert sparsifier.step_count == steps


def test_a_foreign_run_resumes_to_the_bit():
    model, optimizer = started()
    sparsifier = sparsify(model, optimizer, density=0.3, total_steps=200)
    plain_loop(model, optimizer, 5)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), sparsifier.state_dict()))
    plain_loop(model, optimizer, 6)

    torch.manual_seed(5)
    other = Classifier(nn.LSTM)
    again = torch.optim.Adam(other.parameters(), lr=0.01)
    resumed = sparsify(other, again, density=0.3, total_steps=200, seed=9)
    for part, state in zip((other, again, resumed), saved, strict=True):
        part.load_state_dict(state)
    plain_loop(other, again, 6)
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_schedulers_closures_accumulation_and_parameter_groups():
    model = Classifier(nn.GRU)
    groups = [
        {"params": model.rnn.parameters()},
        {"params": [*model.hidden.parameters(), *model.out.parameters()]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    sparsifier = sparsify(model, optimizer, method="rigl", density=0.3, update={"every": 2, "unit": "step"})
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(4):
        for _ in range(3):  # three batches for one step
            model(torch.randn(4, 5, 6)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    optimizer.step(lambda: model(torch.randn(4, 5, 6)).sum())
    assert sparsifier.step_count == 5
    assert len(sparsifier.reports) == 2
    assert all(not model.get_parameter(n)[~m].any() for n, m in sparsifier.masks().items())


def test_sparse_embedding_gradients():
    model = nn.Embedding(20, 6, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sparsify(model, optimizer, method="rigl", density=0.5, update={"every": 1, "unit": "step"})
    snfs = sparsify(nn.Embedding(20, 6), method="snfs", density=0.5)
    model(torch.tensor([1, 2, 3])).sum().backward()
    optimizer.step()
    snfs.tensors[0].parameter.grad = model.weight.grad
    snfs.step()
    assert int(sparsifier.masks()["weight"].sum()) == 60
    assert not model.weight[~sparsifier.masks()["weight"]].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "selfsh"}, "'selfsh' is unknown; known: .* Did you mean 'selfish'"),
        ({"total_steps": 0}, "total_steps is 0"),
        ({"steps_per_epoch": -3}, "steps_per_epoch is -3"),
        ({"prune_rates": 0.1}, "no setting 'prune_rates'.*Did you mean 'prune_rate'"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        sparsify(started()[0], density=0.5, **settings)


def test_prune_rates():
    def rate(step, **settings):
        return sparsify(started()[0], density=0.5, total_steps=132797, **settings).prune_rate(step)

    # the published cosine: .8 annealed to .005
    for step, value in ((0, 0.8), (1328, 0.799804), (66398, 0.402505), (131469, 0.005196), (140000, 0.005)):
        assert rate(step, prune_rate=0.8) == pytest.approx(value, abs=1e-6)
    assert rate(66398, prune_rate=0.5, anneal="linear", prune_rate_end=0.0) == pytest.approx(0.25, abs=1e-5)
    assert rate(66398, method="set") == 0.3
    assert rate(9, prune_rate={"name": "linear", "start": 1.0, "end": 0.0, "steps": 10}) == pytest.approx(0.1)
    assert rate(round(0.75 * 132797), method="rigl") == pytest.approx(0)
    assert rate(0, prune_rate=0.001) == 0.001  # below the usual end: stays
