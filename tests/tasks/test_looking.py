"""Records of the weights that tasks make: what arrives at the states, and that looking leaves no trace."""

import pytest
import torch
from torch.nn import functional

from sparsernn.data.text_corpus import Corpus
from sparsernn.models import LanguageModel, SequenceModel
from sparsernn.report.story.history import load_run
from sparsernn.runs.assembly import create
from sparsernn.runs.loop import train
from sparsernn.runs.recipe import load_recipe
from sparsernn.tasks import Adding, Copying, LanguageModelling
from sparsernn.tasks.gradient_record import LOOKED_AT

ELMAN = {"name": "elman", "map": "orthogonal", "nonlinearity": "modrelu"}
TASKS = [Copying(delay=5, length=3, eval_sequences=4), Adding(length=9, eval_sequences=4)]


def norms_of(records):
    return next(r["norms"] for r in records if r["event"] == "gradient")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.title)
@pytest.mark.parametrize("layer", ["lstm", ELMAN], ids=["lstm", "elman"])
def test_the_first_norm_is_that_at_the_scored_output(task, layer):
    model = SequenceModel(**task.sizes, hidden_sizes=[5, 4], layer=layer, dropout={"hidden": 0.5})
    inputs, targets, _ = task._part("valid", 0, LOOKED_AT)
    h = model.eval()(inputs).raw[-1].detach().requires_grad_()
    answer = model.read_out(h)
    loss = (
        functional.cross_entropy(answer, targets[-1])
        if targets.dim() == 2
        else (answer[:, 0] - targets).square().mean()
    )
    expected = torch.autograd.grad(loss, h)[0].norm(dim=1).mean()
    model.train()
    drawn = torch.get_rng_state()
    norms = norms_of(task.look(model, closely=True))
    assert len(norms) == len(inputs)
    assert norms[0] == pytest.approx(expected.item(), rel=1e-4)
    assert model.training
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def test_what_takes_long_is_done_closely_alone():
    model = SequenceModel(**TASKS[0].sizes, hidden_sizes=[4], layer=ELMAN)
    (brief,) = TASKS[0].look(model)
    assert brief["event"] == "recurrence"
    assert not brief["closely"]
    assert TASKS[0].look(SequenceModel(**TASKS[0].sizes, hidden_sizes=[4])) == []


def letters():
    generator = torch.Generator().manual_seed(0)
    splits = {s: torch.randint(0, 5, (400,), generator=generator) for s in ("train", "valid", "test")}
    return Corpus(vocabulary=["a"] * 5, splits=splits, info={})


def test_of_a_language_model_the_last_token_of_a_window_is_asked():
    task = LanguageModelling(letters(), batch_size=4, eval_batch_size=4, window=7, metric="bits")
    model = LanguageModel(5, 3, [4], layer=ELMAN, dropout={"embedding": 0.5, "input": 0.5, "output": 0.5})
    assert len(norms_of(task.look(model, closely=True))) == 7
    words = LanguageModelling(letters(), batch_size=4, eval_batch_size=4, window=7)
    assert words.look(LanguageModel(5, 3, [4]), closely=True) == []


def test_a_run_records_the_manifold_from_the_first_weights_to_the_tested_ones(tmp_path):
    """Of a language model too, whose scores do not say it."""
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("the old dog sees a cat\n" * 20, encoding="utf-8")
    settings = [
        "threads=1",
        "epochs=2",
        "model.hidden_sizes=[6]",
        "model.embedding_size=3",
        "task.batch_size=4",
        "task.eval_batch_size=2",
        "task.window=10",
        f"task.corpus={{name: folder, level: char, path: {tmp_path}}}",
    ]
    run = create(load_recipe("nnrnn/ptb-char-small-exprnn", settings), tmp_path / "run")
    train(run)
    events = load_run(tmp_path / "run").of("recurrence")
    assert [event["closely"] for event in events] == [True, False, False, True]
    assert [event["epoch"] for event in events[:3]] == [0, 1, 2]
    assert all(0 < event["maps"][0]["manifold_error"] < 1e-5 for event in events)
    assert "memory" in events[-1]["maps"][0]
    assert "memory" not in events[1]["maps"][0]
