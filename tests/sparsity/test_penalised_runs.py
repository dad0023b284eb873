"""What runs with penalties record: zeros by epoch, sizes and reports that count them."""

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.core.registry import make
from sparsernn.deploy import read_packed
from sparsernn.experiments import complete
from sparsernn.report import load_run
from sparsernn.report.story.content import run_document
from sparsernn.report.story.facts import gather
from sparsernn.runs.artifacts import PACKED, present
from sparsernn.runs.assembly import assemble, create
from sparsernn.runs.finetuning import start
from sparsernn.runs.loop import train
from sparsernn.sparsity import SPARSIFIERS

ISS = {"name": "iss", "strength": 0.3, "lambda_scale": "per_sequence", "threshold": 0.02}
L1 = {"name": "l1", "strength": 0.003, "threshold": 0.02, "exclude": ["embedding.weight"]}
SGD = {"name": "sgd", "lr": {"name": "epoch_decay", "start": 1.0, "divide_by": 4}}


@pytest.fixture(params=[ISS, L1], ids=["iss", "l1"])
def run(request, tiny_recipe, tmp_path):
    """A finished and measured run with zeros."""
    made = create(tiny_recipe(sparsity=request.param, optimizer=SGD), tmp_path / "run")
    train(made)
    complete(made)
    return made


def test_zeros_are_counted_by_epoch_in_sizes_and_in_the_report(run):
    record = load_run(run.home)
    events = record.of("zeros")
    assert [event["epoch"] for event in events] == [1, 2, 3]
    there = {name: int((p != 0).sum()) for name, p in run.model.named_parameters()}
    sizes = record.last("sizes")
    assert {name: row["active"] for name, row in sizes["tensors"].items()} == {
        name: there[name] for name in sizes["tensors"]
    }
    owned = {name: p for name, p in run.model.named_parameters() if name in sizes["tensors"]}
    density = sum(there[name] for name in owned) / sum(p.numel() for p in owned.values())
    assert 0 < density < 0.95
    facts = gather(record)
    assert facts.size.density == pytest.approx(density)
    untouched = sum(p.numel() for name, p in run.model.named_parameters() if name not in owned)
    assert facts.size.active == sum(there[name] for name in owned) + untouched
    assert sizes["macs_per_token"] < sizes["macs_per_token_dense"]
    titles = [figure.title for section in run_document(record).sections for figure in section.figures]
    assert "Density per tensor" in titles


def test_the_packed_file_leaves_the_zeros_out(run):
    found = present(run)
    assert found
    assert all(not bool(mask.all()) for mask in found.values())
    state = dict(run.model.named_parameters())
    packed = read_packed(run.home / PACKED)
    assert packed.masks.keys() == found.keys()
    for name, mask in found.items():
        assert torch.equal(packed.masks[name], mask)
        assert torch.equal(packed.state[name], state[name].detach())


def test_penalties_add_up_and_are_recorded_once(tiny_recipe, tmp_path):
    """One run with both, in the middle of which each member's gradient is the whole of what the other lacks."""
    both = {"name": "together", "of": [ISS, {**L1, "include": ["head.bias"], "exclude": []}]}
    made = create(tiny_recipe(sparsity=both, optimizer=SGD, epochs=2), tmp_path / "both")
    alone = [make("sparsity", SPARSIFIERS, spec, model=made.model, window=5) for spec in both["of"]]
    together = make("sparsity", SPARSIFIERS, both, model=made.model, window=5)
    assert together.value() == pytest.approx(sum(penalty.value() for penalty in alone))
    found = []
    for penalties in ([together], alone):
        made.optimizer.zero_grad()
        for penalty in penalties:
            penalty.after_backward()
        found.append([p.grad for p in made.model.parameters()])
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)
    made.optimizer.zero_grad()
    train(made)
    record = load_run(made.home)
    assert (len(record.of("zeros")), len(record.of("units"))) == (2, 2)
    assert "head.bias" in record.last("zeros")["tensors"]
    assert start(made.home, tmp_path / "tuned", ["epochs=1"]).recipe.sparsity == {"name": "frozen"}


@pytest.mark.parametrize("of", [[], "iss", [{"name": "dense"}], [{"name": "l1"}]])
def test_impossible_sums(of, tiny_recipe):
    with pytest.raises(InputError):
        assemble(tiny_recipe(sparsity={"name": "together", "of": of}))
