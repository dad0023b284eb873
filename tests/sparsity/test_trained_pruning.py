"""Pruning after training: the formulas against hand, what each weight reads, and what is refused."""

import inspect
from dataclasses import MISSING, fields

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from sparsernn.core.errors import InputError
from sparsernn.models.language_model import LanguageModel
from sparsernn.sparsity import prune
from sparsernn.sparsity.dynamic.block_grid import BlockGrid
from sparsernn.sparsity.trained.brain_surgeon import damped, fitted, surgeon
from sparsernn.sparsity.trained.trained_pruning import PruneSettings, _by_rows
from sparsernn.sparsity.trained.weight_inputs import inputs_seen, moments_of


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(rows, columns, seed=0):
    """Inputs that know of each other and are of different sizes."""
    mixed = numbers(rows, columns, seed=seed) @ (numbers(columns, columns, seed=seed + 1) / columns**0.5)
    return mixed + numbers(rows, 1, seed=seed + 2) * torch.linspace(0.1, 2, columns, dtype=torch.float64)


def change(before, after, inputs):
    return float(((before - after) @ inputs.T).square().sum())


def largest(scores, keep):
    """The mask of the `keep` largest, by sorting."""
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().argsort(descending=True)[:keep]] = True
    return mask.view(scores.shape)


@pytest.mark.parametrize("gone", range(6))
def test_removing_one_weight_is_the_closed_form_update(gone):
    """d = -w_q / [H^-1]_qq [H^-1]_q,: for the weight with the smallest w_q^2 / [H^-1]_qq."""
    x = correlated(40, 6)
    hessian = damped(x.T @ x)
    inverse = torch.linalg.inv(hessian)
    w = numbers(1, 6, seed=9)
    cost = 0.01 * (0.5 + torch.arange(6)) / 6
    w[0] = w[0].sign() * (inverse.diagonal() * (1 + cost)).sqrt()  # costs of 1 and a little more
    w[0, gone] *= 0.5
    after, mask = surgeon(w, hessian, 1)
    wanted = w[0] - w[0, gone] / inverse[gone, gone] * inverse[gone]
    assert mask[0].tolist() == [k != gone for k in range(6)]
    assert torch.allclose(after[0], wanted, rtol=1e-9, atol=1e-9)
    assert after[0, gone] == 0


def test_where_nothing_is_correlated_it_is_magnitude():
    w = numbers(12, 300)
    after, mask = surgeon(w, torch.eye(300, dtype=torch.float64), 2000)
    assert torch.equal(mask, largest(w.abs(), 1600))
    assert torch.equal(after, w * mask)


@pytest.mark.parametrize("block", [(1, 1), (4, 1), (2, 3)])
@pytest.mark.parametrize("kept", [0.5, 0.2, 0.05])
def test_the_products_change_less_than_by_magnitude_or_activation(kept, block):
    x, w = correlated(400, 36), numbers(24, 36, seed=5)
    gram = x.T @ x
    cells = w.numel() // (block[0] * block[1])
    keep = round(kept * cells)

    def by(scores):
        grid = scores.view(24 // block[0], block[0], 36 // block[1], block[1]).sum((1, 3))
        return largest(grid, keep).repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)

    after, mask = surgeon(w, damped(gram), cells - keep, BlockGrid.of((24, 36), block))
    assert int(mask.sum()) == keep * block[0] * block[1]
    assert torch.equal(mask, by(mask.double()))  # whole blocks
    assert not after[~mask].any()
    for scores in (w.abs(), w.abs() * gram.diagonal().sqrt()):
        assert change(w, after, x) < change(w, w * by(scores), x)


def test_the_last_fit_is_the_least_squares_solution():
    x, w = correlated(50, 8), numbers(5, 8, seed=3)
    mask = torch.rand(5, 8, generator=torch.Generator().manual_seed(4)) < 0.5
    found = fitted(w, damped(x.T @ x, 1e-12), mask)
    for row, target, there in zip(found, w, mask, strict=True):
        wanted = torch.linalg.lstsq(x[:, there], x @ target).solution
        assert torch.allclose(row[there], wanted, rtol=1e-6, atol=1e-8)
        assert not row[~there].any()


def test_equally_many_in_each_row_and_the_rest_where_the_next_is_largest():
    scores = torch.tensor([[3.0, 2.0, 1.0], [9.0, 5.0, 4.0]])
    gone = _by_rows(scores, 3, torch.Generator())
    assert (~gone).tolist() == [[True, False, False], [True, True, False]]
    assert (~_by_rows(scores, 2, torch.Generator())).sum(1).tolist() == [1, 1]
    assert int((~_by_rows(scores, 1, torch.Generator())).sum()) == 1


def test_activation_weighs_with_the_norm_of_what_is_read():
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    x = torch.tensor([[0.1, 1.0, 10.0], [0.1, -1.0, 10.0]])
    pruned = prune(layer, [x], density=1 / 3, method="activation")
    assert layer.weight.tolist() == [[0, 0, 1], [0, 0, 3]]
    assert pruned.tensors[0].error == pytest.approx(1 - 2000 / (2000 + 2 * (4 + 4) + 0.02 * 10 + 0), rel=0.1)


LAYERS = {
    "lstm": ("weight_ih", "weight_hh"),
    "gru": ("weight_ih", "weight_hh"),
    "elman": ("cell.weight_ih", "cell.map.weight"),
}


@pytest.mark.parametrize("name", list(LAYERS))
def test_our_layers_read_what_comes_in_and_what_they_put_out_before(name):
    torch.manual_seed(0)
    model = LanguageModel(12, 5, [6, 4], layer=name)
    words = torch.randint(12, (7, 3))
    start = tuple(
        tuple(torch.randn_like(p) for p in (s if isinstance(s, tuple) else (s,)))
        for s in model.initial_state(3)
    )
    with torch.no_grad():
        x = model.embedding(words)
        y, _ = model.layers[0](x, start[0])
    before = torch.cat([start[0][0][None], y[:-1]])
    for own, read in zip(LAYERS[name], (x, before), strict=True):
        full = f"layers.0.{own}"
        found = moments_of(model, full, model.get_parameter(full), lambda: model(words, start))
        rows = read.reshape(21, -1).double()
        assert found.rows == 21
        assert torch.allclose(found.gram, rows.T @ rows, rtol=1e-4, atol=1e-5)
    assert model.training


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [False, True])
def test_torchs_layers_too_in_both_directions(kind, batch_first):
    torch.manual_seed(0)
    model = kind(4, 5, num_layers=2, bidirectional=True, batch_first=batch_first)
    x = torch.randn(6, 3, 4)
    given = x.transpose(0, 1) if batch_first else x
    with torch.no_grad():
        first = kind(4, 5, bidirectional=True)
        first.load_state_dict({n: p for n, p in model.state_dict().items() if "_l0" in n})
        y = first(x)[0]
    ahead, back = y.chunk(2, -1)
    zero = torch.zeros(1, 3, 5)
    wanted = {
        "weight_ih_l0": x,
        "weight_hh_l0": torch.cat([zero, ahead[:-1]]),
        "weight_ih_l0_reverse": x,
        "weight_hh_l0_reverse": torch.cat([back[1:], zero]),
        "weight_ih_l1": y,
        "weight_ih_l1_reverse": y,
    }
    for name, read in wanted.items():
        found = moments_of(model, name, model.get_parameter(name), lambda: model(given))
        rows = read.reshape(18, -1).double()
        assert torch.allclose(found.gram, rows.T @ rows, rtol=1e-4, atol=1e-5), name
    assert len(inputs_seen(model, dict(model.named_parameters()), lambda: model(given))) == 8


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_torchs_cells_read_the_input_and_the_state_that_they_are_given(kind):
    torch.manual_seed(0)
    model, x, h = kind(4, 5), torch.randn(3, 4), torch.randn(3, 5)
    state = (h, torch.randn(3, 5)) if kind is nn.LSTMCell else h
    for name, read in (("weight_ih", x), ("weight_hh", h)):
        found = moments_of(model, name, model.get_parameter(name), lambda: model(x, state))
        assert found.rows == 3
        assert torch.allclose(found.gram, read.double().T @ read.double(), atol=1e-5)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_packed_sequences_read_as_each_of_them_alone(kind):
    torch.manual_seed(0)
    model = kind(4, 5, bidirectional=True)
    x, lengths = torch.randn(6, 3, 4), [4, 6, 1]
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)

    def alone():
        for k, length in enumerate(lengths):
            model(x[:length, k : k + 1])

    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            one, other = (moments_of(model, name, weight, work) for work in (alone, lambda: model(packed)))
            assert one.rows == other.rows == 11
            assert torch.allclose(one.gram, other.gram, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize(
    "layer",
    [
        "lstm",
        "gru",
        "elman",
        {"name": "rhn", "depth": 3},
        {"name": "onlstm", "chunk_size": 2, "weight_drop": 0.3},
        {"name": "qrnn", "window": 2},
    ],
)
def test_every_layer_with_matrices_is_seen_and_only_the_embedding_is_looked_up(layer):
    torch.manual_seed(0)
    model = LanguageModel(20, 6, [8, 6], layer=layer)
    model = nn.ModuleList([model])  # as a part of something else
    words = torch.randint(20, (9, 4))

    class Scored(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model[0]

        def forward(self, words):
            return self.inner.head.nll(self.inner(words).dropped, words)

    scored = Scored()
    pruned = prune(scored, [words, words], density=0.5)
    assert list(pruned.by_magnitude) == ["inner.embedding.weight"]
    assert pruned.tensors[0].name == "inner.embedding.weight"
    assert pruned.summary()["masked_density"] == pytest.approx(0.5, abs=0.01)
    assert pruned.summary()["stray"] == 0
    assert all(getattr(m, "naive", False) is False for m in scored.modules())


def test_tied_weights_count_what_they_read_and_how_often_they_are_looked_up():
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    model[1].weight = model[0].weight
    words = torch.tensor([[0, 1, 2]])
    seen = inputs_seen(model, {"0.weight": model[0].weight}, lambda: model(words))
    assert (seen["0.weight"].rows, seen["0.weight"].lookups) == (3, 3)
    assert prune(model, [words], density=0.5).by_magnitude == {}


def test_layer_by_layer_each_sees_what_the_pruned_ones_before_it_put_out():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    first, second = (layer.weight.detach().clone().double() for layer in model)
    x = torch.randn(200, 8)
    prune(model, [x], density=0.4)
    with torch.no_grad():
        after = model[0](x).double()
    removed = (64 - 26, 64 - 25)  # 0.4 of each; of both together it is 51
    new, _ = surgeon(second, damped(after.T @ after), removed[1])
    assert torch.allclose(model[1].weight.double(), new, atol=1e-4)
    with torch.no_grad():
        unpruned = (x.double() @ first.T).float().double()
    other, _ = surgeon(second, damped(unpruned.T @ unpruned), removed[1])
    assert not torch.allclose(new, other, atol=1e-4)
    rows = x.double()
    assert torch.allclose(
        model[0].weight.double(), surgeon(first, damped(rows.T @ rows), removed[0])[0], atol=1e-4
    )


def test_blocks_of_sixteen_rows_are_whole_and_the_count_is_exact():
    torch.manual_seed(0)
    model = nn.LSTM(8, 16)
    pruned = prune(model, [torch.randn(30, 4, 8)], density=0.25, block=[16, 1])
    for name, mask in pruned.masks.items():
        grid = mask.view(4, 16, -1)
        assert torch.equal(grid.any(1), grid.all(1)), name
        assert int(mask.sum()) == mask.numel() // 4


def test_what_is_pruned_can_be_trained_on_and_stays_pruned():
    torch.manual_seed(0)
    model = nn.LSTM(8, 16)
    pruned = prune(model, [torch.randn(30, 4, 8)], density=0.25)
    adam = torch.optim.Adam(model.parameters())
    pruned.keep(adam)
    before = model.weight_hh_l0.detach().clone()
    for _ in range(3):
        adam.zero_grad()
        model(torch.randn(5, 2, 8))[0].square().sum().backward()
        adam.step()
    assert not torch.equal(before, model.weight_hh_l0)
    for name, mask in pruned.masks.items():
        assert not model.get_parameter(name)[~mask].any()


def test_the_model_is_as_it_was_but_for_its_weights():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    model[1].eval()
    running = model[2].running_mean.clone()
    prune(model, [torch.randn(9, 4)], density=0.5)
    assert (model[0].training, model[1].training, model.training) == (True, False, True)
    assert torch.equal(running, model[2].running_mean)
    assert all(p.grad is None for p in model.parameters())


def test_the_settings_and_the_function_have_the_same_defaults():
    given = {name: p.default for name, p in inspect.signature(prune).parameters.items()}
    own = {f.name: f.default for f in fields(PruneSettings) if f.default is not MISSING}
    assert len(own) > 4
    assert {name: default for name, default in own.items() if given[name] != default} == {}


def test_what_is_not_seen_falls_back_and_is_named():
    model = nn.Sequential(nn.Conv1d(4, 4, 3), nn.Linear(6, 8))
    pruned = prune(model, [torch.randn(2, 4, 8)], density=0.5)
    assert pruned.by_magnitude == {"0.weight": "its input is not seen"}
    assert pruned.summary()["masked_density"] == 0.5
    assert torch.equal(
        prune(nn.Linear(4, 4), density=1, method="magnitude").masks["weight"], torch.ones(4, 4) > 0
    )


BAD = {
    "density is 0": {"density": 0},
    "density is 1.5": {"density": 1.5},
    "density is nan": {"density": float("nan")},
    "method is 'obz'.*Did you mean 'obs'": {"density": 0.5, "method": "obz"},
    "block is 16": {"density": 0.5, "block": 16},
    r"block is \[0, 1\]": {"density": 0.5, "block": [0, 1]},
    "block is 'all'": {"density": 0.5, "block": "all"},
    "matches no weight": {"density": 0.5, "exclude": ["nothing"]},
    "no tensor is left": {"density": 0.5, "exclude": ["*"]},
    "needs batches": {"density": 0.5, "batches": []},
    "cannot read the batches": {"density": 0.5, "batches": [torch.ones(2, 5)]},
}


@pytest.mark.parametrize("sentence", list(BAD))
def test_what_cannot_be_is_refused_and_changes_nothing(sentence):
    layer = nn.Linear(4, 4)
    before = layer.weight.detach().clone()
    given = {"batches": [torch.ones(2, 4)], **BAD[sentence]}
    with pytest.raises(InputError, match=sentence):
        prune(layer, given.pop("batches"), **given)
    assert torch.equal(before, layer.weight)


def test_a_model_that_is_as_sparse_already_is_refused():
    layer = nn.Linear(8, 8)
    prune(layer, density=0.25, method="magnitude")
    with pytest.raises(InputError, match=r"only 0\.25 of the weights are left already"):
        prune(layer, density=0.25, method="magnitude")
    assert prune(layer, density=0.125, method="magnitude").summary()["masked_active"] == 8
    with pytest.raises(InputError, match="no tensor is left"):
        prune(nn.ReLU(), density=0.5, method="magnitude")


def test_weights_and_inputs_that_are_not_finite():
    layer = nn.Linear(4, 4)
    x = torch.ones(2, 4)
    x[0, 0] = torch.nan
    assert prune(layer, [x], density=0.5).by_magnitude == {"weight": "its input is not finite"}
    layer.weight.data[0, 0] = torch.inf
    with pytest.raises(InputError, match="not finite"):
        prune(layer, [torch.ones(2, 4)], density=0.25)
