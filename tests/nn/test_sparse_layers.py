"""Layers that multiply where weights exist train as they do with dense products."""

import copy
import pickle

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.nn import GRU, LSTM, ONLSTM, QRNN, RHN, Elman
from sparsernn.nn.cells.gru_gates import GRUGates
from sparsernn.nn.cells.lstm_gates import LSTMGates
from sparsernn.nn.drive import product_choice
from sparsernn.nn.words.heads import LinearHead
from sparsernn.nn.words.softmax import softmax_nll
from sparsernn.sparsity import sparsify

D, H, T, B = 20, 32, 12, 5  # inputs, units, steps, sequences
LAYERS = {
    "lstm": lambda product: LSTM(D, H, product=product),
    "lstm, dropped": lambda product: LSTM(D, H, product=product, weight_drop=0.3),
    "gru": lambda product: GRU(D, H, product=product),
    "rhn": lambda product: RHN(D, H, depth=2, state_dropout=0.2, product=product),
    "elman": lambda product: Elman(D, H, product=product),
    "elman, modrelu": lambda product: Elman(D, H, input_bias=False, nonlinearity="modrelu", product=product),
    "qrnn": lambda product: QRNN(D, H, window=2, weight_drop=0.2, product=product),
    "onlstm": lambda product: ONLSTM(D, H, chunk_size=4, weight_drop=0.3, product=product),
}
METHODS = {
    "set": {"update": {"every": 6, "unit": "step"}},
    "rigl": {"update": {"every": 6}},
    "rigl, blocks": {"update": {"every": 6}, "block": [12, 1]},  # 12, 12 and 8 rows of every gate
    "selfish": {"update": {"every": 6, "unit": "step"}},
    "selfish, blocks": {"update": {"every": 6, "unit": "step"}, "block": "auto"},
    "static": {},
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, weight_decay=1e-4),
    "adam": lambda p: torch.optim.Adam(p, lr=5e-3),
}


def make_run(layer, product, method, optimizer, kind):
    torch.manual_seed(0)
    model = LAYERS[layer](product).to(kind)
    opt = OPTIMIZERS[optimizer](model.parameters())
    settings = {"density": 0.3, "total_steps": 60, "steps_per_epoch": 20, **METHODS[method]}
    return model, opt, sparsify(model, opt, method=method.split(",")[0], **settings)


def windows(kind, count):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield tuple(torch.randn(T, B, n, generator=generator).to(kind) for n in (D, H))


def train(model, opt, steps, kind, skip=0):
    """The loss of every step; the state is carried from window to window."""
    losses, state = [], None
    for number, (x, target) in enumerate(windows(kind, skip + steps)):
        if number < skip:
            continue
        y, state = model(x, state)
        state = tuple(s.detach() for s in state)
        loss = (y - target).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


def sparse_calls(monkeypatch):
    """Counts the gradients that were taken at existing places only."""
    from sparsernn.nn.drive import sparse_weight

    calls, real = [], sparse_weight.value_gradient
    monkeypatch.setattr(sparse_weight, "value_gradient", lambda *given: calls.append(1) or real(*given))
    return calls


PAIRS = [
    pytest.param(method, optimizer, marks=[pytest.mark.slow] if (i + j) % 2 else [])
    for i, method in enumerate(METHODS)
    for j, optimizer in enumerate(OPTIMIZERS)
]
"""Each method with one optimizer at once, with the other one in the slow tests."""


@pytest.mark.parametrize(("method", "optimizer"), PAIRS)
@pytest.mark.parametrize("layer", LAYERS)
def test_losses_are_those_of_dense_products(layer, method, optimizer, monkeypatch):
    if (layer, method) == ("onlstm", "set"):
        pytest.skip("weights of units that stay 0 are roundings of 0, whose signs decide what is pruned")
    calls = sparse_calls(monkeypatch)
    runs = {p: make_run(layer, p, method, optimizer, torch.float64) for p in ("dense", "sparse")}
    losses = {}
    for product, (model, opt, _) in runs.items():
        assert not calls
        torch.manual_seed(7)
        losses[product] = train(model, opt, 50, torch.float64)
    assert len(calls) >= 40  # each weight, but at updates by gradient
    torch.testing.assert_close(losses["sparse"], losses["dense"], rtol=0, atol=1e-10)
    dense, sparse = (runs[p][2] for p in ("dense", "sparse"))
    assert len(sparse.reports) == (0 if method == "static" else 7 if "rigl" in method else 8)
    for name, mask in dense.masks().items():
        assert torch.equal(sparse.masks()[name], mask)


@pytest.mark.parametrize("layer", LAYERS)
def test_losses_in_single_precision(compiled_or_twin, layer):
    losses = []
    for product in ("dense", "sparse"):
        model, opt, _ = make_run(layer, product, "selfish, blocks", "adam", torch.float32)
        torch.manual_seed(7)
        losses.append(train(model, opt, 50, torch.float32))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lengths", [None, [3, 12, 7, 1, 12]])
def test_outputs_states_and_gradients(lengths):
    given = {} if lengths is None else {"lengths": torch.tensor(lengths)}
    found = []
    for product in ("dense", "sparse"):
        model, _, sparse = make_run("lstm", product, "static", "sgd", torch.float64)
        ((x, target),) = windows(torch.float64, 1)
        x.requires_grad_()
        state = tuple(torch.full((B, H), v, dtype=torch.float64, requires_grad=True) for v in (0.1, -0.2))
        y, after = model(x, state, **given)
        ((y - target).square().sum() + sum(s.sin().sum() for s in after)).backward()
        masks = sparse.masks()
        gradients = [p.grad * masks.get(n, True) for n, p in model.named_parameters()]
        found.append([y, *after, x.grad, *(s.grad for s in state), *gradients])
        if product == "sparse":
            assert not model.weight_hh.grad[~masks["weight_hh"]].any()
    for dense, sparse in zip(*found, strict=True):
        torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-10)


@pytest.mark.parametrize("layer", ["lstm", "gru"])
def test_a_run_goes_on_to_the_bit(layer):
    whole, opt, _ = make_run(layer, "sparse", "rigl", "adam", torch.float32)
    state_losses = train(whole, opt, 20, torch.float32)
    first, opt, sparse = make_run(layer, "sparse", "rigl", "adam", torch.float32)
    train(first, opt, 10, torch.float32)
    kept = copy.deepcopy((first.state_dict(), opt.state_dict(), sparse.state_dict()))
    second, opt2, sparse2 = make_run(layer, "sparse", "rigl", "adam", torch.float32)
    train(second, opt2, 3, torch.float32)
    for part, state in zip((second, opt2, sparse2), kept, strict=True):
        part.load_state_dict(state)
    third = pickle.loads(pickle.dumps(first))
    assert torch.equal(third.weight_hh, second.weight_hh)
    again = train(second, opt2, 10, torch.float32, skip=10)
    straight = train(first, opt, 10, torch.float32, skip=10)
    assert torch.equal(again, straight)
    assert len(state_losses) == 20


def test_growth_by_gradient_sees_the_dense_gradient_only_when_it_is_due(monkeypatch):
    calls = sparse_calls(monkeypatch)
    model, opt, _ = make_run("lstm", "sparse", "rigl", "sgd", torch.float32)
    train(model, opt, 5, torch.float32)
    assert len(calls) == 10
    train(model, opt, 1, torch.float32)  # the sixth step: an update
    assert len(calls) == 10
    train(model, opt, 1, torch.float32)
    assert len(calls) == 12


def test_an_update_that_is_not_due_is_refused_where_gradients_are_missing():
    model, opt, sparse = make_run("lstm", "sparse", "rigl", "sgd", torch.float32)
    train(model, opt, 1, torch.float32)
    y, _ = model(torch.ones(T, B, D))
    y.sum().backward()
    with pytest.raises(InputError, match="'weight_ih' that do not exist"):
        sparse.update()


@pytest.mark.parametrize(
    ("method", "settings"),
    [("snfs", {}), ("rigl", {"update": {"unit": "epoch", "every": 1}, "manual_epochs": True})],
)
def test_rules_that_look_at_all_gradients_always(method, settings):
    for product in ("sparse", "auto"):
        model = LSTM(D, H, product=product)
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        if product == "sparse":
            with pytest.raises(InputError, match=r"product: sparse computes no gradients .* 'weight_ih'"):
                sparsify(model, opt, method=method, density=0.3, **settings)
        else:
            sparsify(model, opt, method=method, density=0.3, **settings)
            assert not model.multiplies_sparsely(torch.ones(T, B, D))


def test_sparse_products_are_for_training_with_masks():
    model, _, _ = make_run("lstm", "sparse", "static", "sgd", torch.float32)
    x = torch.ones(T, B, D)
    assert model.multiplies_sparsely(x)
    with torch.no_grad():
        assert not model.multiplies_sparsely(x)
    assert not model.eval().multiplies_sparsely(x)
    assert not LSTM(D, H, product="sparse").multiplies_sparsely(x)
    dense, _, _ = make_run("lstm", "dense", "static", "sgd", torch.float32)
    assert not dense.multiplies_sparsely(x)
    with pytest.raises(InputError, match="product"):
        LSTM(D, H, product="thin")


@pytest.mark.parametrize(("times", "chosen"), [((1.0, 0.5), True), ((1.0, 0.95), False), ((0.5, 1.0), False)])
def test_auto_takes_what_was_measured(times, chosen, monkeypatch):
    monkeypatch.setattr(product_choice, "seconds", lambda window: times)
    model, _, _ = make_run("lstm", "auto", "static", "sgd", torch.float32)
    assert model.multiplies_sparsely(torch.ones(T, B, D)) is chosen


def test_measuring_happens_once(monkeypatch):
    monkeypatch.setattr(product_choice, "_measured", {})
    counted, real = [], product_choice.least_seconds
    monkeypatch.setattr(product_choice, "least_seconds", lambda *args: counted.append(1) or real(*args))
    for _ in range(2):
        model, _, _ = make_run("lstm", "auto", "static", "sgd", torch.float32)
        assert model.multiplies_sparsely(torch.ones(T, B, D)) in (True, False)
    assert len(counted) == 4  # two weights, two ways


def test_a_copy_has_places_of_its_own():
    model, opt, _ = make_run("lstm", "sparse", "selfish", "sgd", torch.float32)
    twin = copy.deepcopy(model)
    train(model, opt, 7, torch.float32)  # moves the masks of the original
    y, _ = twin(torch.ones(T, B, D))
    expected, _ = twin.eval()(torch.ones(T, B, D))
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_blocks_in_triton_train_like_dense_products(interpreted, monkeypatch):
    monkeypatch.setitem(globals(), "T", 2)  # the interpreter takes its time
    losses = []
    for product in ("dense", "sparse"):
        model, opt, _ = make_run("lstm", product, "rigl, blocks", "sgd", torch.float32)
        losses.append(train(model, opt, 2, torch.float32))
        assert ("_gradient" in interpreted.launched) == (product == "sparse")
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=1e-5)


def test_a_cuda_device_has_products_of_blocks_alone(interpreted):
    device = torch.device("cuda")
    for method, offered in (("rigl, blocks", True), ("rigl", False)):
        model, _, _ = make_run("lstm", "sparse", method, "sgd", torch.float32)
        assert model._has_products(device) is offered


def test_where_there_are_no_sparse_products_it_is_said():
    model, _, _ = make_run("lstm", "sparse", "selfish", "sgd", torch.float32)
    assert model.product_choice().sparse
    with torch.autocast("cpu", dtype=torch.bfloat16):  # for which there are no kernels
        model(torch.randn(T, B, D))
    assert model.product_choice().sparse is False
    model(torch.randn(T, B, D))
    assert model.product_choice().sparse


@pytest.mark.parametrize(("rule", "parts"), [(LSTMGates(), 2), (GRUGates(), 1)])
def test_the_rule_is_its_equations(rule, parts, compiled_or_twin):
    for kind, atol in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        torch.manual_seed(0)
        pre, *rest = (torch.randn(3, n, dtype=kind) for n in (4 * 7, *[7] * 2 * parts))
        before, arriving = rest[:parts], rest[parts:]
        for tensor in (pre, *before):
            tensor.requires_grad_()
        after = rule.equations(pre, tuple(before))
        torch.autograd.backward(after, arriving)
        out, d_pre = torch.empty(3, 7, dtype=kind), torch.empty(3, 28, dtype=kind)
        state, kept = rule.forward(pre.detach().clone(), tuple(s.detach() for s in before), out)
        direct, others = rule.backward(tuple(arriving), kept, d_pre)
        got = (*state, d_pre, *([] if direct is None else [direct]), *others)
        wanted = (*after, pre.grad, *(s.grad for s in before if s.grad is not None))
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=atol)
        assert state[0].data_ptr() == out.data_ptr()


@pytest.mark.parametrize("method", ["rigl", "selfish", "rigl, blocks"])
def test_a_head_multiplies_at_its_places(method):
    losses = []
    for product in ("dense", "sparse"):
        torch.manual_seed(0)
        head = LinearHead(48, D, product=product).double()
        opt = torch.optim.SGD(head.parameters(), lr=2.0)
        settings = {"density": 0.3, "total_steps": 60, "steps_per_epoch": 20, **METHODS[method]}
        sparsify(head, opt, method=method.split(",")[0], **settings)
        found = []
        for x, _ in windows(torch.float64, 40):
            words = (x[..., :7].argmax(-1) * 6).clamp(max=47)
            loss = head.nll(x.requires_grad_(), words).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            found += [loss.item(), x.grad.abs().sum().item()]
        losses.append(torch.tensor(found, dtype=torch.float64))
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=1e-10)
    assert losses[0][-2] < losses[0][0]


def test_a_tied_head_multiplies_sparsely_too():
    weight = torch.nn.Parameter(torch.randn(48, D))
    head = LinearHead(48, D, tied=weight, product="sparse")
    sparsify(head, torch.optim.SGD(head.parameters(), lr=0.1), method="static", density=0.3)
    y, words = torch.randn(3, D), torch.tensor([1, 2, 3])
    torch.testing.assert_close(head.nll(y, words), softmax_nll(y, head.weight, head.bias, words))
    assert head.multiplies_sparsely(y[None])


@pytest.mark.parametrize("layer", LAYERS)
def test_a_model_that_is_copied_alone_multiplies_with_all_that_is_loaded_into_it(layer):
    model, _, sparsifier = make_run(layer, "sparse", "static", "sgd", torch.float32)
    alone, (together, theirs) = copy.deepcopy(model), copy.deepcopy((model, sparsifier))
    sparsely = [getattr(twin, "cell", twin).multiplies_sparsely for twin in (alone, together)]
    assert [ask(torch.ones(T, B, D)) for ask in sparsely] == [False, True]
    assert theirs.masks().keys() == sparsifier.masks().keys()
    torch.manual_seed(3)
    dense = LAYERS[layer]("dense")
    alone.load_state_dict(dense.state_dict())
    x, _ = next(iter(windows(torch.float32, 1)))
    outputs = []
    for twin in (alone, dense):
        torch.manual_seed(4)  # dropouts draw
        outputs.append(twin(x)[0])
    torch.testing.assert_close(*outputs)
