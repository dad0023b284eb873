"""A run that is saved in the middle and continued elsewhere equals the uninterrupted one, bit for bit."""

import copy
import io

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.core.registry import make
from sparsernn.sparsity import (
    DEFAULTS,
    PRUNED_ON_THE_WAY,
    SPARSIFIERS,
    Chain,
    DynamicSparse,
    Sparsifier,
    parse,
)

STEPS = 3
UPDATES = {  # of 12 steps in a run of 30
    "rigl": {"update": {"every": 2, "unit": "step"}},
    "gradual": {"update": {"every": 2, "unit": "step", "stop": 0.35}},
    "one_shot": {"update": {"stop": 0.15}},  # after 5 steps
    "rewind": {"update": {"start": 0.1, "stop": 0.3}},  # from step 9 to step 3
}


def start(trainer, name):
    t = trainer("adam")
    spec = {"name": name, "density": 0.4, **UPDATES.get(name, {})}
    context = {"model": t.model, "optimizer": t.optimizer, "total_steps": 30, "epochs": 10, "seed": 4}
    return t, make("sparsity", SPARSIFIERS, spec, **context)


def go(t, sparsifier, first, last):
    for k in range(first, last):
        t.step(k)
        sparsifier.after_step()
        if k % STEPS == STEPS - 1:
            sparsifier.end_epoch()


def saved(state):
    """Through a file and back, loading nothing but tensors and plain values."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", [*DEFAULTS, *PRUNED_ON_THE_WAY])
@pytest.mark.parametrize("at", [3, 7])
def test_resume_is_bitwise(name, at, trainer):
    t, straight = start(trainer, name)
    go(t, straight, 0, at)
    state = saved({"m": t.model.state_dict(), "o": t.optimizer.state_dict(), "s": straight.state_dict()})
    go(t, straight, at, 12)

    other, resumed = start(lambda o: trainer(o, seed=77), name)
    other.model.load_state_dict(state["m"])
    other.optimizer.load_state_dict(state["o"])
    resumed.load_state_dict(state["s"])
    go(other, resumed, at, 12)

    assert all(map(torch.equal, t.model.parameters(), other.model.parameters()))
    one, two = straight.state_dict(), resumed.state_dict()
    for part in ("masks", "ever", "momentum", "gradients"):
        assert one[part].keys() == two[part].keys()
        assert all(torch.equal(one[part][n], two[part][n]) for n in one[part])
    assert torch.equal(one["generator"], two["generator"])
    assert (one["counts"], one["tau"]) == (two["counts"], two["tau"])
    assert straight.stage == resumed.stage
    if name in PRUNED_ON_THE_WAY:
        assert straight.stage == {"gradual": 5}.get(name, 1)
        assert straight.summary()["masked_density"] == pytest.approx(0.4, abs=0.01)


def test_gradient_growth_at_an_epochs_end_survives_a_resume_without_gradients(trainer):
    def engine(t):
        settings = parse({"density": 0.4, "grow": "gradient"})
        return DynamicSparse(t.model, settings, t.optimizer, seed=1)

    t = trainer("sgd")
    straight = engine(t)
    t.step(0)
    straight.after_step()
    state, weights = saved(straight.state_dict()), copy.deepcopy(t.model.state_dict())
    straight.end_epoch()

    fresh = trainer("sgd")  # has never seen a gradient
    resumed = engine(fresh)
    fresh.model.load_state_dict(weights)
    resumed.load_state_dict(state)
    resumed.end_epoch()
    assert all(torch.equal(straight.masks()[n], m) for n, m in resumed.masks().items())


def test_loading_keeps_the_live_masks_live(trainer):
    _, sparsifier = start(trainer, "selfish")
    masks, state = sparsifier.masks(), sparsifier.state_dict()
    sparsifier.end_epoch()
    sparsifier.load_state_dict(state)
    assert all(torch.equal(masks[n], m) for n, m in state["masks"].items())


def test_the_state_is_a_copy(trainer):
    _, sparsifier = start(trainer, "selfish")
    state = sparsifier.state_dict()
    before = {n: m.clone() for n, m in state["masks"].items()}
    sparsifier.end_epoch()
    assert all(torch.equal(before[n], m) for n, m in state["masks"].items())


def test_masks_of_another_model_are_refused(trainer):
    _, sparsifier = start(trainer, "selfish")
    other = DynamicSparse(trainer("sgd", width=10).model, parse({"density": 0.5}))
    with pytest.raises(InputError, match=r"'embedding.weight' is \(12, 8\) there and \(12, 10\) here"):
        other.load_state_dict(sparsifier.state_dict())


def test_dense_and_chain(trainer):
    t, sparsifier = start(trainer, "selfish")
    dense = make("sparsity", SPARSIFIERS, "dense", model=t.model, optimizer=t.optimizer, seed=1)
    assert (dense.masks(), dense.after_step(), dense.end_epoch(), dense.penalty()) == ({}, [], [], 0.0)
    assert dense.summary()["model_density"] == 1.0
    chain = Chain([dense, sparsifier])
    assert chain.masks().keys() == sparsifier.masks().keys()
    assert chain.summary() == sparsifier.summary()
    assert chain.after_step() == []
    assert len(chain.end_epoch()) == 1
    state = saved(chain.state_dict())
    chain.end_epoch()
    chain.load_state_dict(state)
    assert all(torch.equal(state["1"]["masks"][n], m) for n, m in chain.masks().items())
    chain.finalize()
    with pytest.raises(InputError, match="two sparsifiers mask 'embedding"):
        Chain([sparsifier, sparsifier])
    with pytest.raises(InputError, match="of another sparsifier"):
        Chain([Sparsifier()]).load_state_dict(state)
