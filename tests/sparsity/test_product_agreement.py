"""With sparse products and stored values, every method under every optimizer is what it is with dense ones."""

import itertools

import pytest
import torch
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.core.registry import make
from sparsernn.nn import GRU, LSTM, Embedding
from sparsernn.nn.words.heads import LinearHead
from sparsernn.optim import OPTIMIZERS
from sparsernn.sparsity import SPARSIFIERS
from sparsernn.sparsity.presets import DEFAULTS, PRUNED_ON_THE_WAY

V, D, T, B = 16, 16, 4, 2
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
"""Half of the methods on blocks of 16 rows, the others on single weights."""
PAIRS = list(zip(METHODS, OPTIMIZERS, strict=False))
"""Every optimizer, and the methods that store values."""


class Words(nn.Module):
    """Embedding, one layer, head."""

    def __init__(self, product, kind):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = Embedding(V, D, dropout=0.1, product=product)
        self.layer = kind(D, D, weight_drop=0.1, product=product)
        self.head = LinearHead(V, D, product=product)

    def forward(self, words):
        return self.head.nll(self.layer(self.embedding(words))[0], words.roll(1, 0)).mean()


def made(method, optimizer, product, kind=LSTM):
    model = Words(product, kind).double()
    spec = {"name": optimizer, **MORE.get(optimizer, {})}
    steps = make("optimizer", OPTIMIZERS, spec, params=model.parameters(), lr=RATES[optimizer])
    block = [16, 1] if method in BLOCKS else [1, 1]
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
    dense = made(method, optimizer, "dense", kind)
    expected = losses(*dense)
    sparse = made(method, optimizer, "sparse", kind)
    with sparse[2].condensed():
        found = losses(*sparse)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    for name, mask in dense[2].masks().items():
        assert torch.equal(sparse[2].masks()[name], mask)
    for one, other in zip(dense[0].parameters(), sparse[0].parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("method", "optimizer", "kind"), [(*p, (LSTM, GRU)[k % 2]) for k, p in enumerate(PAIRS)]
)
def test_200_steps_agree(method, optimizer, kind):
    check(method, optimizer, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LSTM, GRU])
@pytest.mark.parametrize(
    ("method", "optimizer"), [p for p in itertools.product(METHODS, OPTIMIZERS) if p not in PAIRS]
)
def test_200_steps_agree_in_every_combination(method, optimizer, kind):
    check(method, optimizer, kind)


def test_every_optimizer_has_a_rate_here():
    assert set(RATES) == set(OPTIMIZERS)
    assert {optimizer for _, optimizer in PAIRS} == set(OPTIMIZERS)


@pytest.mark.parametrize("method", sorted(REFUSED))
def test_a_method_that_looks_at_all_gradients_always_is_refused(method):
    with pytest.raises(InputError, match="product: sparse"):
        made(method, "adam", "sparse")
