"""Which device a run gets, how things are moved there, and what is the same on every device."""

import json
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from pretended_cuda import DEVICE, is_here, pretended
from test_every_recipe import tiny
from torch import Tensor, nn
from typer.testing import CliRunner

from sparsernn.cli.app import app
from sparsernn.cli.console_tables import plan_lines
from sparsernn.core import devices
from sparsernn.core.errors import InputError
from sparsernn.core.streams import stream
from sparsernn.data import CORPORA
from sparsernn.deploy import compact, pack, runtime, unpack
from sparsernn.experiments import load
from sparsernn.experiments import train as train_whole
from sparsernn.models import LanguageModel
from sparsernn.numbering import crew
from sparsernn.report import load_run
from sparsernn.runs.artifacts import generate, measure_together, take_best
from sparsernn.runs.assembly import create, open_run, open_weights, read_environment
from sparsernn.runs.checkpoint import load_checkpoint
from sparsernn.runs.divergence import Diverged
from sparsernn.runs.evaluation import evaluate_run
from sparsernn.runs.loop import train
from sparsernn.runs.plan import plan
from sparsernn.runs.recipe import Recipe, load_recipe
from sparsernn.runs.run import LAST, weights
from sparsernn.sparsity import sparsify
from sparsernn.tasks import LanguageModelling
from sparsernn.tasks.cache_pointer import NeuralCache
from sparsernn.tasks.dynamic_evaluation import DynamicEvaluation
from test_recipes_train import data  # noqa: F401 - a fixture

NONE_HERE = not torch.cuda.is_available()


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CPU", "", "cuda:0 ", 0, None])
def test_a_misspelt_device_is_quoted(name):
    with pytest.raises(InputError, match=f"{name!r}; it must be auto, cpu, cuda"):
        devices.chosen(name)


@pytest.mark.skipif(not NONE_HERE, reason="there is a CUDA device")
def test_without_an_accelerator_auto_is_the_cpu_and_cuda_an_error():
    assert devices.chosen("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:3"):
        with pytest.raises(InputError, match=f"the device is '{name}', but torch finds no CUDA device here"):
            devices.chosen(name)


def test_with_one_auto_takes_it_and_numbers_are_counted():
    with pretended():
        assert {devices.chosen(name) for name in ("auto", "cuda", "cuda:0")} == {DEVICE}
        assert devices.chosen("cpu") == torch.device("cpu")
        assert devices.described(DEVICE) == "cuda:0 (a pretended device)"
        with pytest.raises(
            InputError, match="the device is 'cuda:1', but torch finds 1 here, counted from 0"
        ):
            devices.chosen("cuda:1")


@pytest.mark.parametrize("setting", ["device=gpu", "device=0", "deterministic=1"])
def test_a_recipe_refuses_what_is_no_device(setting):
    key, _, value = setting.partition("=")
    with pytest.raises(InputError, match=f"{key} is '?{value}'?; it must be"):
        load_recipe("demo/dense", [setting])


class Pair(NamedTuple):
    words: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class Nested:
    pair: Pair
    others: list[Tensor]
    scale: float = 1.0


def test_trees_are_moved_whole_and_lengths_stay():
    one = torch.ones(2)
    tree = {"batch": Nested(Pair(one, one), [one]), "state": (one, None, (one,)), "plain": "text"}
    with pretended() as device:
        moved = devices.moved(tree, DEVICE)
        batch = moved["batch"]
        assert isinstance(batch, Nested)
        assert isinstance(batch.pair, Pair)
        assert is_here(batch.pair.words)
        assert batch.pair.lengths is one
        assert is_here(batch.others[0])
        assert batch.scale == 1.0
        assert is_here(moved["state"][0])
        assert moved["state"][1] is None
        assert is_here(moved["state"][2][0])
        assert moved["plain"] == "text"
        assert not device.waits  # nothing is waited for on the way there
        assert devices.moved(one, torch.device("cpu")) is one


def test_a_text_that_is_too_large_stays_where_it_is(monkeypatch):
    ids = torch.arange(10)
    with pretended():
        found = devices.resident({"train": ids, "valid": ids}, DEVICE)
        assert is_here(found["train"])
        assert found["valid"] is found["train"]  # one text under two names is one text there
        monkeypatch.setattr(devices, "RESIDENT_UP_TO", 79)
        assert devices.resident({"train": ids}, DEVICE)["train"] is ids


@pytest.mark.parametrize("fits", [True, False])
def test_windows_of_a_mapped_text_arrive_there(monkeypatch, tmp_path, fits):
    monkeypatch.setenv("SPARSERNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(crew, "cores", lambda: 0)
    (tmp_path / "enwik8").write_bytes(bytes(range(64)) * 8)
    if not fits:
        monkeypatch.setattr(devices, "RESIDENT_UP_TO", 1)
    task = LanguageModelling(CORPORA["enwik8"](data_dir=tmp_path), batch_size=2, eval_batch_size=1, window=5)
    expected = [batch.words.tolist() for batch in task.batches(0, 0)]
    with pretended():
        model = LanguageModel(64, 4, [4]).to(DEVICE)
        task.settle(DEVICE)
        assert is_here(task.corpus.splits["train"]) is fits
        found = [devices.moved(batch, DEVICE).words for batch in task.batches(0, 0)]
        assert all(map(is_here, found))
        assert task.evaluate(model, "valid")["tokens"] == 25
        assert [words.cpu().tolist() for words in found] == expected


def finished(recipe, folder, device=None):
    run = create(recipe, folder, device=device)
    train(run)
    return run


NAME = "selfish/lstm-ptb-small"
"""With dropouts, masks that move, a carried state and averages."""


def test_a_run_goes_on_there_to_the_bit(data, tmp_path):  # noqa: F811
    recipe, shorter = tiny(NAME, data, "log_every=3"), tiny(NAME, data, "log_every=3", "epochs=1")
    with pretended():
        whole = finished(recipe, tmp_path / "whole")
        begun = create(recipe, tmp_path / "begun")
        begun.recipe = shorter  # one epoch, planned as the first of two
        train(begun)
        torch.cuda.set_rng_state(stream("whatever", 5, device=DEVICE).get_state())  # whatever drew meanwhile
        again = open_run(tmp_path / "begun")
        assert is_here(next(again.model.parameters()))
        train(again)
        for name, tensor in weights(whole.model).items():
            assert torch.equal(tensor.cpu(), weights(again.model)[name].cpu()), name
        assert again.sparsifier.masks().keys() == whole.sparsifier.masks().keys()
        for name, mask in whole.sparsifier.masks().items():
            assert torch.equal(mask.cpu(), again.sparsifier.masks()[name].cpu())
    texts = [load_run(tmp_path / run).of("step") for run in ("whole", "begun")]
    clock = ("time", "tokens_per_second")
    left, right = ([{k: v for k, v in e.items() if k not in clock} for e in events] for events in texts)
    assert left == right


def saved(folder):
    """The last weights, as the file has them: a finished run holds the best."""
    return load_checkpoint(folder / LAST)["model"]


def test_checkpoints_open_on_the_other_device(data, tmp_path):  # noqa: F811
    recipe = tiny(NAME, data)
    with pretended():
        finished(recipe, tmp_path / "there")
        here = finished(recipe, tmp_path / "here", device="cpu")
        assert not is_here(next(here.model.parameters()))
        back = open_run(tmp_path / "there", device="cpu")
        for name, tensor in weights(back.model).items():
            assert not is_here(tensor)
            assert torch.equal(tensor, saved(tmp_path / "there")[name])
        over = open_run(tmp_path / "here")
        for name, tensor in weights(over.model).items():
            assert is_here(tensor)
            assert torch.equal(tensor.cpu(), saved(tmp_path / "here")[name])
        for run in (back, over):
            run.recipe = tiny(NAME, data, "epochs=3")
            train(run)
            assert run.position.epoch == 3
    kept = load_checkpoint(tmp_path / "there" / LAST)["generators"]
    assert sorted(kept) == ["cuda", "torch"] or sorted(kept) == ["torch"]


def test_without_dropouts_it_is_the_run_of_the_cpu(data, tmp_path):  # noqa: F811
    changes = ["model.dropout=drop", "model.layer=lstm"]
    recipe = tiny(NAME, data, *changes)
    cpu = finished(recipe, tmp_path / "cpu", device="cpu")
    with pretended():
        gpu = finished(recipe, tmp_path / "gpu")
        for name, mask in cpu.sparsifier.masks().items():
            assert torch.equal(gpu.sparsifier.masks()[name].cpu(), mask), name
        for name, tensor in weights(cpu.model).items():
            torch.testing.assert_close(weights(gpu.model)[name].cpu(), tensor, rtol=1e-3, atol=1e-4)


def test_plan_environment_and_resumed_records_say_the_device(data, tmp_path):  # noqa: F811
    with pretended():
        run = finished(tiny("demo/dense", data), tmp_path / "run")
        assert read_environment(run.home)["device"] == "cuda:0 (a pretended device)"
        again = open_run(run.home, device="cpu")
        again.recipe = tiny("demo/dense", data, "epochs=3")
        train(again)
    record = load_run(run.home)
    assert record.last("start")["plan"]["device"] == "cuda:0 (a pretended device)"
    assert record.last("resume")["device"] == "cpu"


def test_a_run_is_completed_and_its_weights_serve_on_the_cpu(data, tmp_path):  # noqa: F811
    with pretended():
        done = train_whole(tiny("demo/selfish", data), out=tmp_path / "run", progress=False)
        assert done.is_complete
        assert not is_here(next(done.model.parameters()))
        there = load(tmp_path / "run", device="cuda").evaluate("valid")
        here = load(tmp_path / "run", device="cpu").evaluate("valid")
        assert there["loss"] == pytest.approx(here["loss"], rel=1e-5)
        opened = open_weights(tmp_path / "run", device="cuda")
        take_best(opened)
        assert is_here(next(opened.model.parameters()))
        assert generate(opened, tokens=5)


@pytest.mark.parametrize("window", [None, 3])
def test_the_time_of_a_step_there_is_measured_beside_those_of_here(window, data, tmp_path):  # noqa: F811
    run = create(tiny("demo/selfish", data, "device=cpu"), tmp_path / "run")
    train(run)
    take_best(run)
    with pretended():
        (found,) = measure_together([run], (1, 2), 1, window=window, device=DEVICE)
        assert not is_here(next(run.model.parameters()))
    there = [row for row in found["latency"] if row["runtime"].startswith("torch on cuda")]
    assert [row["batch"] for row in there] == [1, 2]
    assert all(row["ms_per_token"] > 0 and row["bytes"] > 0 for row in there)


def test_a_divergence_that_is_read_late_leaves_a_state_that_a_loss_vouched_for(data, tmp_path):  # noqa: F811
    recipe = tiny("demo/dense", data, "optimizer.lr=1e30", "clip=null", "log_every=2", "checkpoint_seconds=0")
    with pretended():
        run = create(recipe, tmp_path / "run")
        with pytest.raises(Diverged, match="training has diverged"):
            train(run)
    tree = load_checkpoint(tmp_path / "run" / LAST)
    assert all(bool(torch.isfinite(t).all()) for t in tree["model"].values())
    assert max(float(t.abs().max()) for t in tree["model"].values()) < 1e3


@torch.no_grad()
def test_what_deploys_a_model_takes_it_from_the_device(tmp_path):
    model = LanguageModel(10, 4, [6, 5]).eval()
    model.units()[0].zero(torch.tensor([0, 2]))
    words = torch.randint(10, (7, 2))
    before, exists = model(words).raw, {"head.weight": torch.rand(10, 5) < 0.5}
    with pretended():
        moved = model.to(DEVICE)
        assert compact(moved).widths == [("layer 0", 6, 4), ("layer 1", 5, 5)]
        assert all(is_here(p) for p in moved.parameters())
        torch.testing.assert_close(moved(words.to(DEVICE)).raw.cpu(), before)
        said = runtime(moved).stream(2).read(words)
        found = torch.log_softmax(said, -1)
        exact = moved.head.log_prob(moved(words.to(DEVICE)).raw[-1]).cpu()
        torch.testing.assert_close(found[-1], exact, rtol=1e-4, atol=1e-5)
        masks = devices.moved(exists, DEVICE)
        moved.head.weight.mul_(masks["head.weight"])
        pack(weights(moved), masks, tmp_path / "packed.safetensors", recipe={"name": "x", "model": {}})
        kept = moved.head.weight.cpu()
    packed = unpack(tmp_path / "packed.safetensors")
    assert torch.equal(packed["head.weight"], kept)


def test_deterministic_asks_torch(data, tmp_path):  # noqa: F811
    with pretended():
        create(tiny("demo/dense", data, "deterministic=true"), tmp_path / "run")
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(not NONE_HERE, reason="there is a CUDA device")
def test_commands_take_a_device(data, tmp_path):  # noqa: F811
    file = tmp_path / "small.yaml"
    file.write_text(tiny("demo/dense", data, "device=auto").to_yaml(), encoding="utf-8")
    said = CliRunner().invoke(app, ["train", str(file), "--dry-run", "--device", "cpu"])
    assert said.exit_code == 0, said.output
    assert "device      cpu" in said.output
    for command in (
        ["train", str(file), "--dry-run"],
        ["sweep", str(file), "--seeds", "1", "--workers", "0"],
        ["demo", "--out", str(tmp_path / "demo")],
        ["bench", str(tmp_path)],
    ):
        refused = CliRunner().invoke(app, [*command, "--device", "tpu"])
        assert refused.exit_code != 0
        assert "it must be auto, cpu, cuda" in f"{refused.output}{refused.exception}"


def test_a_recipe_with_a_device_reads_back():
    recipe = load_recipe("demo/dense", ["device=cuda:1"])
    assert Recipe.from_settings(recipe.settings()).device == "cuda:1"
    assert json.loads(json.dumps(recipe.settings()))["device"] == "cuda:1"


def test_a_module_without_parameters_is_on_the_cpu():
    assert devices.device_of(nn.Tanh()) == torch.device("cpu")


@pytest.mark.parametrize("mode", [NeuralCache(window=7), DynamicEvaluation(segment=3, statistics_batch=2)])
def test_other_ways_to_evaluate_work_there(mode, data, tmp_path):  # noqa: F811
    run = finished(tiny("demo/dense", data, "model.dropout=drop"), tmp_path / "run", device="cpu")
    here = evaluate_run(run, "valid", mode=mode)
    with pretended():
        there = evaluate_run(open_run(run.home), "valid", mode=mode)
        assert there["loss"] == pytest.approx(here["loss"], rel=1e-4)
        if isinstance(mode, NeuralCache):
            mode.tuned(open_run(run.home).task, open_run(run.home).model)


def test_a_model_of_ones_own_is_made_sparse_where_it_lies():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)), torch.randn(5, 8)
    twin = deepcopy(model)

    def trained(model, x):
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        sparsifier = sparsify(
            model, optimizer, method="selfish", density=0.5, total_steps=8, steps_per_epoch=2, seed=3
        )
        for _ in range(6):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        return sparsifier.masks()

    expected = trained(twin, x)
    with pretended():
        masks = trained(model.to(DEVICE), x.to(DEVICE))
        assert masks.keys() == expected.keys() != set()
        for name, mask in masks.items():
            assert is_here(mask)
            assert torch.equal(mask.cpu(), expected[name])


def test_loops_are_sent_as_graphs_where_that_is_asked_for_and_there_are_some(data, tmp_path, monkeypatch):  # noqa: F811
    made = []
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda loop, samples: made.append(1) or loop)
    asked = ("cuda_graphs=true", "sparsity=dense", "boundary=truncate")
    with pytest.raises(
        InputError, match="cuda_graphs is True, but no layer of this model steps through time"
    ):
        create(tiny(NAME, data, *asked, "device=cpu"), tmp_path / "lstm")
    recipe = tiny("selfish/rhn-ptb", data, *asked)
    with pretended():
        run = create(recipe, tmp_path / "rhn")
        assert run.recipe.cuda_graphs
        assert "device      cuda:0 (a pretended device), loops as CUDA graphs" in plan_lines(
            plan(run, measure=False)
        )
        train(run)
        assert made
    here = open_run(tmp_path / "rhn", device="cpu")  # where it goes on without them
    assert not plan(here, measure=False)["cuda_graphs"]
    here.recipe = tiny("selfish/rhn-ptb", data, *asked, "epochs=3")
    train(here)
    assert here.position.epoch == 3
