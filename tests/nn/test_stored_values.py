"""What is stored of masked weights while they train: the existing ones, and what belongs to them."""

import copy
import pickle
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsernn.kernels.row_layout import RowLayout
from sparsernn.kernels.sparse_layout import Layout
from sparsernn.nn import LSTM, Embedding
from sparsernn.nn.drive import product_choice
from sparsernn.nn.words.heads import LinearHead
from sparsernn.report.progress import event_line
from sparsernn.sparsity import Chain, sparsify
from sparsernn.sparsity.dynamic.flags import Flags

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
V, D, T, B = 96, 32, 6, 3


class Words(nn.Module):
    """Embedding, one layer, head."""

    def __init__(self, product="sparse", tied=False, table=None):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = Embedding(V, D, dropout=0.2, product=table or product)
        self.layer = LSTM(D, D, product=product)
        tied_to = self.embedding.weight if tied else None
        self.head = LinearHead(V, D, tied_to, product=product)

    def forward(self, words):
        return self.head.nll(self.layer(self.embedding(words))[0], words.roll(1, 0)).mean()


def made(
    method="static", product="sparse", density=0.25, tied=False, table=None, kind=torch.float32, **settings
):
    model = Words(product, tied, table).to(kind)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sparse = sparsify(model, optimizer, method=method, density=density, total_steps=100, **settings)
    return model, optimizer, sparse


def take_steps(model, optimizer, count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(2)
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = model(torch.randint(V, (T, B), generator=generator))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def stored_bytes(model, optimizer):
    """Of weights, gradients and the optimizer's state."""
    held = [[p, p.grad, *optimizer.state.get(p, {}).values()] for p in model.parameters()]
    return sum(t.nbytes for row in held for t in row)


def test_bytes_shrink_with_density():
    sizes = {}
    for product in ("dense", "sparse"):
        model, optimizer, sparse = made(product=product, density=0.1)
        with sparse.condensed():
            take_steps(model, optimizer, 2)
            sizes[product] = stored_bytes(model, optimizer)
    biases = 4 * 4 * (8 * D + V)
    assert sizes["sparse"] - biases < 0.101 * (sizes["dense"] - biases)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("static", {}),
        ("rigl", {"update": {"every": 4}}),
        ("selfish", {"update": {"every": 4, "unit": "step"}}),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("block", [(1, 1), (20, 1)])
def test_it_computes_what_dense_storage_computes(method, settings, block, tied):
    found = []
    for storing in (False, True):
        model, optimizer, sparse = made(method, block=block, tied=tied, **settings)
        if storing:
            with sparse.condensed():
                losses = take_steps(model, optimizer, 12)
                assert all(p.dim() == 1 for p in model.parameters())
                assert (model.embedding.held("weight") is model.head.held("weight")) == tied
        else:
            losses = take_steps(model, optimizer, 12)
        state = [optimizer.state[p][k] for p in model.parameters() for k in ("exp_avg", "exp_avg_sq")]
        found.append([torch.tensor(losses), *model.parameters(), *state, *sparse.masks().values()])
    for dense, values in zip(*found, strict=True):
        torch.testing.assert_close(values, dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("table", ["dense", "sparse"])
def test_growth_sees_the_gradients_of_both_that_hold_a_tied_weight(table):
    """Stored or not, as dense products have it."""
    grown = []
    for product, storing in (("dense", False), ("sparse", False), ("sparse", True)):
        model, optimizer, sparse = made(
            "rigl", product, tied=True, table=table, update={"every": 3}, include=["embedding.*"]
        )
        with sparse.condensed() if storing else nullcontext():
            take_steps(model, optimizer, 3)
        grown.append(sparse.masks()["embedding.weight"])
    assert torch.equal(grown[0], grown[1])
    assert torch.equal(grown[0], grown[2])


FROM_DENSE = {
    "gradual": {"update": {"every": 3, "unit": "step", "stop": 0.09}},
    "one_shot": {"update": {"every": 1, "unit": "step", "stop": 0.08}},
    "rewind": {"update": {"every": 1, "unit": "step", "start": 0.02, "stop": 0.08}},
}


@pytest.mark.parametrize("method", FROM_DENSE)
def test_what_begins_dense_is_stored_once_its_density_is_reached(method):
    found = []
    for product in ("dense", "sparse"):
        how = {"kind": torch.float64, "block": "auto", **FROM_DENSE[method]}
        model, optimizer, sparse = made(method, product, **how)
        with sparse.condensed():
            losses = take_steps(model, optimizer, 7)
            assert model.layer.held("weight_hh").shape == (4 * D, D)
            losses += take_steps(model, optimizer, 8, seed=3)
            assert (model.layer.held("weight_hh").dim() == 1) == (product == "sparse")
            assert sparse.update_count == len(sparse.times)
        state = [optimizer.state[p][k] for p in model.parameters() for k in ("exp_avg", "exp_avg_sq")]
        found.append([torch.tensor(losses), *model.parameters(), *state, *sparse.masks().values()])
    for dense, values in zip(*found, strict=True):
        torch.testing.assert_close(values, dense, rtol=0, atol=1e-9)


@pytest.mark.parametrize("pays", [True, False])
def test_products_are_chosen_anew_at_the_final_density_and_told(monkeypatch, pays):
    def seconds(window):
        return (2.0, 1.0) if pays and window.layout.density < 1 else (1.0, 2.0)

    monkeypatch.setattr(product_choice, "seconds", seconds)
    model, _, sparse = made("one_shot", "auto", **FROM_DENSE["one_shot"])
    optimizer = sparse.optimizer
    told = []
    monkeypatch.setattr(sparse, "after_step", lambda real=sparse.after_step: told.append(real()))
    with sparse.condensed():
        for number in range(11):
            optimizer.zero_grad()
            model(torch.full((T, B), number)).backward()
            optimizer.step()
            stored = model.layer.held("weight_hh").dim() == 1
            assert stored == (pays and number > 7)
    events = [[event["event"] for event in events] for events in told]
    assert events == [*[[]] * 7, ["rewire"], ["products"], [], []]
    ((event,),) = told[8:9]
    assert {row["module"] for row in event["products"]} == {"layer", "head"}
    assert all(row["sparse"] is pays for row in event["products"])
    line = event_line(event, "perplexity", 1)
    assert ("2.0 times as fast" in line) == pays
    assert "products at the final density: " in line


def test_rows_of_any_layout_are_those_of_the_matrix():
    for tall in (1, 16):
        grid = torch.rand(9, 300, generator=torch.Generator().manual_seed(tall)) < 0.3
        mask = grid.repeat_interleave(tall, 0)[: 9 * tall - 5 * (tall > 1)]
        weight = torch.randn(mask.shape) * mask
        layout, which = Layout(mask), torch.tensor([0, len(mask) - 1, 3, 3])
        assert layout.blocks == (tall > 1)
        rows = layout.rows(which)
        assert torch.equal(rows.matrix(layout.take(weight)), weight[which])
        once = layout.rows(which[:3])
        back = layout.put(once.back(torch.ones(3, 300), layout.size))
        assert torch.equal(back.bool(), mask & torch.isin(torch.arange(len(mask)), which).unsqueeze(1))


def test_a_parameter_reads_as_its_matrix_with_its_gradient():
    model, _, sparse = made()
    before, mask = model.layer.weight_hh.detach().clone(), sparse.masks()["layer.weight_hh"].clone()
    with sparse.condensed():
        assert dict(model.named_parameters())["layer.weight_hh"].shape == (int(mask.sum()),)
        assert torch.equal(model.layer.weight_hh, before)
        assert (model.layer.hidden_size, model.embedding.vocabulary_size) == (D, V)
        factor = torch.randn(4 * D, D)
        (model.layer.weight_hh * factor).sum().backward()
        held = model.layer.held("weight_hh")
        assert torch.equal(sparse.layouts()["layer.weight_hh"].put(held.grad), factor * mask)
        assert torch.equal(sparse.masks()["layer.weight_hh"], mask)
    assert torch.equal(model.layer.weight_hh, before)
    assert sparse.layouts() == {}


def test_evaluation_reads_dense_matrices():
    model, _, sparse = made()
    words = torch.randint(V, (T, B))
    model.eval()
    with torch.no_grad():
        expected = model(words)
        with sparse.condensed():
            assert torch.equal(model(words), expected)


def test_lent_weights_are_dense_and_come_back_as_they_were():
    model, optimizer, sparse = made()
    with sparse.condensed():
        take_steps(model, optimizer, 2)
        values = model.layer.held("weight_ih").detach().clone()
        with sparse.lent():
            assert all(p.shape == sparse.masks().get(n, p).shape for n, p in model.named_parameters())
        assert torch.equal(model.layer.held("weight_ih"), values)
        assert (
            sparse.summary()["parameters_total"]
            == sum(m.numel() for m in sparse.masks().values()) + 8 * D + V
        )
        take_steps(model, optimizer, 1)


def test_an_error_inside_leaves_dense_weights():
    model, optimizer, sparse = made()

    def broken():
        with sparse.condensed():
            take_steps(model, optimizer, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert model.layer.held("weight_hh").shape == (4 * D, D)
    take_steps(model, optimizer, 1)


def test_a_loss_that_is_kept_does_not_keep_old_shapes():
    model, optimizer, sparse = made("selfish", redistribute="magnitude", update={"every": 2, "unit": "step"})
    words, kept, sizes = torch.randint(V, (T, B)), [model(torch.randint(V, (T, B)))], []
    with sparse.condensed():
        for _ in range(6):
            optimizer.zero_grad()
            kept.append(model(words))
            kept[-1].backward()
            optimizer.step()
            sizes.append(model.layer.held("weight_hh").numel())
    assert len(set(sizes)) > 1
    model(words).backward()


def test_copies_and_pickles_stand_by_themselves():
    model, optimizer, sparse = made()
    with sparse.condensed():
        twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        values = model.layer.weight_hh.detach().clone()
        take_steps(model, optimizer, 1)
    for twin in twins:
        assert torch.equal(twin.layer.weight_hh, values)


def test_what_is_tied_or_needed_dense_stays_dense():
    model, _, sparse = made(tied=True, table="dense")
    with sparse.condensed():
        assert model.embedding.held("weight").shape == (V, D)
        assert model.layer.held("weight_hh").dim() == 1
    model, _, sparse = made()
    with sparse.condensed([model.layer.weight_hh]):
        assert model.layer.held("weight_hh").shape == (4 * D, D)
    model, _, sparse = made(state_at_growth="keep")
    with sparse.condensed():
        assert sparse.layouts() == {}


def test_a_chain_stores_what_no_other_member_touches():
    model, optimizer, sparse = made(exclude=["head.*"])
    penalty = sparsify(model, optimizer, method="l1", include=["layer.weight_ih"], strength=0.1)
    chain = Chain([sparse, penalty])
    with chain.condensed():
        assert set(chain.layouts()) == {"embedding.weight", "layer.weight_hh"}
        with chain.lent():
            assert model.layer.held("weight_hh").shape == (4 * D, D)
    assert chain.layouts() == {}


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_words_are_looked_up_among_values(dropout):
    torch.manual_seed(0)
    table = Embedding(7, 5, dropout=dropout, product="sparse").double()
    optimizer = torch.optim.SGD(table.parameters(), lr=1.0)
    sparse = sparsify(table, optimizer, method="static", density=0.4)
    words, found = torch.tensor([[1, 6, 1], [0, 1, 6]]), []
    weight = torch.randn(2, 3, 5, dtype=torch.float64)
    for storing in (False, True):
        table.weight.grad = None
        torch.manual_seed(3)
        if storing:
            with sparse.condensed():
                vectors = table(words)
                (vectors * weight).sum().backward()
                gradient = sparse.layouts()["weight"].put(table.held("weight").grad)
        else:
            vectors = table(words)
            (vectors * weight).sum().backward()
            gradient = table.weight.grad * sparse.masks()["weight"]
        found.append((vectors.detach(), gradient))
    for dense, values in zip(*found, strict=True):
        torch.testing.assert_close(values, dense, rtol=0, atol=1e-12)


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_rows_of_a_table(density):
    generator = torch.Generator().manual_seed(4)
    mask = torch.rand(6, 4, generator=generator) < density
    mask[1], mask[2] = False, True
    layout, table = RowLayout(mask), torch.randn(6, 4, generator=generator) * mask
    values = layout.take(table)
    assert torch.equal(layout.put(values), table)
    which = torch.tensor([2, 1, 5])
    rows = layout.rows(which)
    assert torch.equal(rows.matrix(values), table[which])
    expected = torch.zeros(6, 4).index_copy_(0, which, table[which])
    assert torch.equal(layout.put(rows.back(table[which], layout.size)), expected)
    assert functional.embedding(which, layout.put(values)).shape == (3, 4)


def test_flags_are_the_same_in_bits():
    tensor = torch.rand(5, 3) < 0.5
    flags, kept = Flags(tensor), tensor.clone()
    assert flags.tensor is tensor
    flags.put_away()
    flags.put_away()
    assert torch.equal(flags.tensor, kept)
    flags.take_out()
    flags.tensor.fill_(True)
    assert flags.tensor.all()


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is Linux's to tell"
)
def test_most_memory_in_steps_against_dense(monkeypatch):
    """Of processes that train the benchmark's language model; measured: 37 % and 40 %."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sys.modules.pop("sparse_training", None)
    import sparse_training

    names = [sparse_training.DENSE, "blocks 16x1 .1"]
    found = sparse_training.measure(names, width=1500, threads=1, rounds=1)
    dense, blocks = (found[name][1] for name in names)
    assert blocks < 0.45 * dense


@pytest.mark.parametrize("tied", [False, True])
def test_a_state_dict_is_dense_and_means_the_same_after_an_update(tied):
    """The vector of values has one length under all masks: weights that were kept would come back in other places."""
    model, optimizer, sparse = made("set", tied=tied, update={"every": 5, "unit": "step"})
    plain, ordinary, other = made("set", tied=tied, update={"every": 5, "unit": "step"})
    with sparse.condensed():
        assert model.layer.weight_hh is not dict(model.layer.named_parameters())["weight_hh"]
        for one, its in ((model, optimizer), (plain, ordinary)):
            take_steps(one, its, 3)
        kept, wanted = (copy.deepcopy(one.state_dict()) for one in (model, plain))
        wrapped = nn.ModuleDict({"inner": model}).state_dict(prefix="outer.")
        for name, tensor in wanted.items():
            torch.testing.assert_close(kept[name], tensor)
            torch.testing.assert_close(wrapped[f"outer.inner.{name}"], tensor)
        twin = copy.deepcopy(model)
        assert all(twin.state_dict()[name].equal(tensor) for name, tensor in kept.items())
        assert pickle.loads(pickle.dumps(model)).state_dict()["head.weight"].equal(kept["head.weight"])
        for one, its in ((model, optimizer), (plain, ordinary)):
            take_steps(one, its, 3)
            one.load_state_dict(kept)
        assert len(sparse.reports) == 1
        sparse.step()
        other.step()
        for name, tensor in plain.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], tensor)
    assert not model._state_dict_hooks
    assert not model._load_state_dict_pre_hooks
