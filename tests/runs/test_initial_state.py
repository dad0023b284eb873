"""A learnt initial state is trained by the loop, whose cut between windows must not reach it."""

from sparsernn.runs.assembly import assemble, create
from sparsernn.runs.loop import train


def test_the_loop_trains_a_learnt_initial_state(tiny_recipe, tmp_path):
    model = {
        "name": "language_model",
        "embedding_size": 8,
        "hidden_sizes": [8],
        "layer": {"name": "rhn", "depth": 2, "learn_initial_state": True},
    }
    recipe = tiny_recipe(model=model, sparsity="dense", epochs=1)
    before = assemble(recipe).model.layers.members[0].start[0]
    run = create(recipe, tmp_path / "run")
    train(run)
    assert not before.any()
    assert run.model.layers.members[0].start[0].abs().max() > 0
