"""Runs whose products leave out what does not exist are the runs with dense products, and are resumed to the bit."""

import json

import pytest
import torch
from test_resume import StopAt, assert_resumes

from sparsernn.cli.console_tables import plan_lines
from sparsernn.kernels.sparse_layout import Layout
from sparsernn.nn.drive import product_choice
from sparsernn.runs.assembly import create
from sparsernn.runs.loop import train
from sparsernn.runs.plan import plan

SPARSITIES = {
    "selfish": {"name": "selfish", "density": 0.4, "prune_rate": 0.5},
    "blocks": {"name": "selfish", "density": 0.4, "block": "auto"},
    "set": {"name": "set", "density": 0.4},
    "rigl": {"name": "rigl", "density": 0.4, "update": {"every": 7}},
    "tied, from dense": {"name": "one_shot", "density": 0.4, "block": "auto", "update": {"stop": 0.2}},
}
OPTIMIZERS = {
    "snt_asgd": {"name": "snt_asgd", "lr": 1.0, "switch_epoch": 1},
    "adam": {"name": "adam", "lr": 0.01},
    "momentum": {"name": "sgd", "lr": 0.2, "momentum": 0.9},
}


def make_recipe(tiny_recipe, product, sparsity, optimizer):
    tied = "tied" in sparsity
    model = {
        "name": "language_model",
        "embedding_size": 8,
        "hidden_sizes": [12, 8 if tied else 16],
        "tied": tied,
        "layer": {"name": "lstm", "product": product, "weight_drop": 0.2},
        "head": {"name": "linear", "product": product},
        "embedding": {"name": "dense", "product": product},
        "dropout": {"embedding": 0.1, "input": 0.2, "output": 0.2},
    }
    return tiny_recipe(model=model, sparsity=SPARSITIES[sparsity], optimizer=OPTIMIZERS[optimizer], clip=None)


def scores(folder, event, key):
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record[key] for record in records if record["event"] == event]


def shapes_in_steps(run):
    """For every step: name of a parameter -> shapes of itself, its gradient and the optimizer's buffers of it."""
    found, step, named = [], run.optimizer.step, dict(run.model.named_parameters())

    def stepped():
        step()
        kept = {n: [p, p.grad, *run.optimizer.state.get(p, {}).values()] for n, p in named.items()}
        found.append({n: [tuple(t.shape) for t in kept[n] if torch.is_tensor(t) and t.ndim] for n in kept})

    run.optimizer.step = stepped
    return found


@pytest.mark.parametrize(
    ("sparsity", "optimizer"),
    [
        ("selfish", "snt_asgd"),
        ("blocks", "adam"),
        pytest.param("set", "momentum", marks=pytest.mark.slow),
        pytest.param("rigl", "adam", marks=pytest.mark.slow),
        ("rigl", "momentum"),
        ("tied, from dense", "momentum"),
    ],
)
def test_a_run_is_the_dense_one_to_rounding(tiny_recipe, tmp_path, sparsity, optimizer):
    for product in ("dense", "sparse"):
        run = create(make_recipe(tiny_recipe, product, sparsity, optimizer), tmp_path / product)
        shapes = shapes_in_steps(run)
        train(run)
        masks = run.sparsifier.masks()
        for name, p in run.model.named_parameters():
            assert p.shape == masks.get(name, p).shape  # afterwards
            stored = tuple(p.shape)
            if name in masks and product == "sparse":
                # a table that only the embedding holds is stored row by row; low blocks of others are filled up
                rows = name.startswith("embedding") and "tied" not in sparsity
                stored = (int(masks[name].sum()) if rows else Layout(masks[name]).size,)
            assert shapes[-1][name] == [stored] * len(shapes[-1][name])
    for event, key in (("step", "loss"), ("epoch", "train_loss")):
        dense, sparse = (scores(tmp_path / p, event, key) for p in ("dense", "sparse"))
        assert len(dense) >= 3
        assert sparse == pytest.approx(dense, rel=2e-4)
    assert scores(tmp_path / "dense", "rewire", "step") == scores(tmp_path / "sparse", "rewire", "step")


@pytest.mark.parametrize(
    ("sparsity", "stop"),
    [
        ("blocks", StopAt(step=31)),
        ("rigl", StopAt(evaluation=2)),
        ("tied, from dense", StopAt(step=31)),
        pytest.param("blocks", StopAt(evaluation=2), marks=pytest.mark.slow),
        pytest.param("rigl", StopAt(step=31), marks=pytest.mark.slow),
    ],
)
def test_it_resumes_to_the_bit(tiny_recipe, tmp_path, sparsity, stop):
    assert_resumes(make_recipe(tiny_recipe, "sparse", sparsity, "adam"), tmp_path, stop)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ((3.0, 1.0), "sparse (auto), 3.0 times as fast as dense"),
        ((1.0, 3.0), "dense (auto); no gain: dense is faster at this size"),
        ((1.0, 0.95), "dense (auto); no gain: sparse products would save less than a tenth"),
    ],
)
def test_the_plan_says_what_was_chosen_and_what_for(tiny_recipe, tmp_path, monkeypatch, times, said):
    monkeypatch.setattr(product_choice, "seconds", lambda window: times)
    run = create(make_recipe(tiny_recipe, "auto", "blocks", "adam"), tmp_path / "run")
    before = {name: p.clone() for name, p in run.model.named_parameters()}
    intent = plan(run)
    assert [row["module"] for row in intent["products"]] == ["layers.0", "layers.1", "head"]
    assert f"products    layers.0, layers.1, head: {said}" in plan_lines(intent)
    assert all(torch.equal(p, before[name]) for name, p in run.model.named_parameters())
    assert run.model.layers[0].multiplies_sparsely(torch.ones(2, 3, 8)) is said.startswith("sparse")


def test_the_plan_says_what_clipping_sees(tiny_recipe, tmp_path):
    lines = {}
    for over in ("all", "existing"):
        recipe = make_recipe(tiny_recipe, "sparse", "selfish", "adam").changed(
            ["clip=1", f"clip_over={over}"]
        )
        lines[over] = plan_lines(plan(create(recipe, tmp_path / over), measure=False))
        assert "products    layers.0, layers.1, head: sparse, as set" in lines[over]
    assert any("clipping sees existing weights only" in line for line in lines["all"])
    assert not any("clipping" in line for line in lines["existing"])


def test_clipped_over_existing_weights_dense_products_are_the_sparse_ones(tiny_recipe, tmp_path):
    for product in ("dense", "sparse"):
        recipe = make_recipe(tiny_recipe, product, "rigl", "momentum")
        recipe = recipe.changed(["clip=0.3", "clip_over=existing", "epochs=1"])
        train(create(recipe, tmp_path / product))
    dense, sparse = (scores(tmp_path / p, "step", "loss") for p in ("dense", "sparse"))
    assert sparse == pytest.approx(dense, rel=2e-4)


def test_what_a_plan_tries_out_leaves_no_gradient_to_grow_by(tiny_recipe, tmp_path):
    run = create(make_recipe(tiny_recipe, "sparse", "rigl", "momentum"), tmp_path / "run")
    for places in run.sparsifier._places.values():
        places.expect(True)  # as where the masks are updated at the first step
    assert run.sparsifier.dense_gradients() == []
    plan(run)
    assert run.sparsifier.dense_gradients() == []
