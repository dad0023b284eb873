"""With sparse products and stored values, every method, optimizer and layer does as with dense ones."""

import ctypes
import inspect
import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.core.registry import make
from sparsernn.kernels.sparse_layout import MOST_FILLED
from sparsernn.nn import LAYERS, Embedding
from sparsernn.nn.words.heads import LinearHead
from sparsernn.optim import OPTIMIZERS
from sparsernn.sparsity import SPARSIFIERS, sparsify
from sparsernn.sparsity.presets import DEFAULTS, PRUNED_ON_THE_WAY

V, D, T, B = 18, 20, 4, 2
STEPS, EPOCH = 200, 40
RATES = {
    "sgd": 0.5,
    "adadelta": 1.0,
    "adam": 5e-3,
    "ema": 5e-3,
    "rmsprop": 1e-3,
    "nt_asgd": 0.5,
    "snt_asgd": 0.5,
}
MORE = {"sgd": {"momentum": 0.9}, "nt_asgd": {"switch_epoch": 0}, "snt_asgd": {"switch_epoch": 0}}
REFUSED = {"snfs"}
METHODS = [name for name in (*DEFAULTS, *PRUNED_ON_THE_WAY) if name not in REFUSED]
UPDATES = {"rigl": {"update": {"every": 30}}, "gradual": {"update": {"every": 30, "unit": "step"}}}
BLOCKS = {"static", "selfish", "rigl", "gradual"}
"""Half of the methods on blocks of 16 rows (and the 4 that are left of a gate), the others on single weights."""
MADE = {
    "lstm": partial(LAYERS["lstm"], weight_drop=0.1),
    "gru": partial(LAYERS["gru"], weight_drop=0.1),
    "rhn": partial(LAYERS["rhn"], depth=2),
    "elman": LAYERS["elman"],
    "qrnn": partial(LAYERS["qrnn"], weight_drop=0.1),
    "onlstm": partial(LAYERS["onlstm"], chunk_size=4, weight_drop=0.1),
}
"""Every layer that can multiply so."""
MAIN = ("lstm", "gru")
SLOWER = {"elman": 0.1}
"""Of the rate: a run that does not learn doubles the difference of two roundings every few steps."""
CHANCE = {("set", "onlstm")}
"""SET prunes positive and negative weights apart, and units of the last level of an ON-LSTM stay 0: from the second
update on, how many of their weights are positive is rounding."""
PAIRS = list(zip(METHODS, OPTIMIZERS, strict=False))
"""Every optimizer, and the methods that store values."""


class Words(nn.Module):
    """Embedding, one layer, head."""

    def __init__(self, product, kind, words=V, width=D):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = Embedding(words, width, dropout=0.1, product=product)
        self.layer = MADE[kind](width, width, product=product)
        self.head = LinearHead(words, width, product=product)

    def forward(self, words):
        return self.head.nll(self.layer(self.embedding(words))[0], words.roll(1, 0)).mean()


def made(method, optimizer, product, kind="lstm"):
    model = Words(product, kind).double()
    spec = {"name": optimizer, **MORE.get(optimizer, {})}
    rate = RATES[optimizer] * SLOWER.get(kind, 1)
    steps = make("optimizer", OPTIMIZERS, spec, params=model.parameters(), lr=rate)
    block = "auto" if method in BLOCKS else [1, 1]
    spec = {"name": method, "density": 0.3, "block": block, **UPDATES.get(method, {})}
    length = {
        "total_steps": STEPS,
        "steps_per_epoch": EPOCH,
        "epochs": STEPS // EPOCH,
        "seed": 0,
        "window": None,
    }
    return model, steps, make("sparsity", SPARSIFIERS, spec, model=model, optimizer=steps, **length)


def losses(model, optimizer, sparsifier, steps=STEPS):
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    found = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = model(torch.randint(V, (T, B), generator=generator))
        loss.backward()
        optimizer.step()
        sparsifier.after_step()
        found.append(loss.item())
        if step % EPOCH == 0:
            with optimizer.averaged(), torch.no_grad():
                found.append(model(torch.randint(V, (T, B), generator=generator)).item())
            sparsifier.end_epoch()
    sparsifier.finalize()
    return torch.tensor(found, dtype=torch.float64)


def check(method, optimizer, kind):
    steps = 2 * EPOCH - 1 if (method, kind) in CHANCE else STEPS
    dense = made(method, optimizer, "dense", kind)
    expected = losses(*dense, steps)
    sparse = made(method, optimizer, "sparse", kind)
    with sparse[2].condensed():
        found = losses(*sparse, steps)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    for name, mask in dense[2].masks().items():
        differ = sparse[2].masks()[name] != mask
        if kind != "onlstm":
            assert not differ.any()
        for run in (dense, sparse):  # units that stay 0: which of their weights is smallest is chance
            assert (run[0].get_parameter(name)[differ].abs() < 1e-12).all()
    for one, other in zip(dense[0].parameters(), sparse[0].parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("method", "optimizer", "kind"), [(*p, list(MADE)[k % len(MADE)]) for k, p in enumerate(PAIRS)]
)
def test_200_steps_agree(method, optimizer, kind):
    check(method, optimizer, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAIN)
@pytest.mark.parametrize(("method", "optimizer"), list(itertools.product(METHODS, OPTIMIZERS)))
def test_200_steps_agree_in_every_combination(method, optimizer, kind):
    check(method, optimizer, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in MADE if kind not in MAIN])
@pytest.mark.parametrize("method", METHODS)
def test_200_steps_agree_in_every_layer(method, kind):
    """Under an optimizer for each method, another one in each layer."""
    names = list(OPTIMIZERS)
    check(method, names[(METHODS.index(method) + list(MADE).index(kind)) % len(names)], kind)


def bytes_of(model, optimizer):
    """Of masked weights, their gradients and all that the optimizer keeps beside them."""
    matrices = [p for name, p in model.named_parameters() if "bias" not in name]
    held = [t for p in matrices for t in (p, p.grad, *optimizer.state.get(p, {}).values())]
    return sum(t.nbytes for t in held if torch.is_tensor(t) and t.ndim)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", MADE)
def test_what_is_stored_shrinks_with_density(kind, optimizer):
    """To the density, and what low blocks are filled up with: at most as much again."""
    sizes = []
    for product in ("dense", "sparse"):
        model, steps, sparsifier = made("static", optimizer, product, kind)
        with sparsifier.condensed():
            losses(model, steps, sparsifier, 3)
            model(torch.zeros(T, B, dtype=torch.int64)).backward()
            sizes.append(bytes_of(model, steps))
    assert sizes[1] < 0.3 * MOST_FILLED * sizes[0]


def peak(kind, product):
    """KiB that a process held at most in two steps; and of masked weights, gradients and momentum, all dense."""
    model = Words(product, kind, words=4000, width=608)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sparsify(model, optimizer, method="static", density=0.1, block="auto", total_steps=9)
    with sparsifier.condensed():
        for step in range(4):
            if step == 2:
                ctypes.CDLL(None).malloc_trim(0)
                Path("/proc/self/clear_refs").write_text("5")
            optimizer.zero_grad()
            model(torch.randint(4000, (T, B))).backward()
            optimizer.step()
        most = status("VmHWM")
    masks = sparsifier.masks().values()
    return most, 3 * 4 * sum(mask.numel() for mask in masks) / 1024


def status(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the most that was held")
@pytest.mark.parametrize("kind", MADE)
def test_most_memory_in_steps(kind):
    """At a tenth of the weights; what the libraries hold is in both."""
    found = []
    for product in ("dense", "sparse"):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found.append(pool.submit(peak, kind, product).result())
    (dense, size), (sparse, _) = found
    assert dense - sparse > 0.8 * 0.9 * size


def test_every_member_is_here():
    with_product = [n for n, kind in LAYERS.items() if "product" in inspect.signature(kind).parameters]
    assert set(MADE) == set(with_product)
    assert set(RATES) == set(OPTIMIZERS)
    assert {optimizer for _, optimizer in PAIRS} == set(OPTIMIZERS)


@pytest.mark.parametrize("method", sorted(REFUSED))
def test_a_method_that_looks_at_all_gradients_always_is_refused(method):
    with pytest.raises(InputError, match="product: sparse"):
        made(method, "adam", "sparse")
