"""The command line: what it prints, its exit codes, and that a fault is one sentence."""

import os
import random
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sparsernn
from sparsernn.cli.app import app
from sparsernn.cli.doctor import EXTRAS
from sparsernn.deploy import unpack
from sparsernn.runs.checkpoint import load_checkpoint

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(sparsernn.__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "100",
}
WORDS = ["the", "a", "cat", "dog", "bird", "sees", "hears", "follows", "old", "young", "red", "small"]
COMMANDS = ("demo", "recipes", "train", "resume", "evaluate", "finetune", "generate", "inspect")
COMMANDS += ("report", "compare", "data", "doctor", "pack", "export", "bench")
RECIPE = """
task: {name: language_modelling, corpus: folder, batch_size: 4, eval_batch_size: 2, window: 8}
model: {name: language_model, embedding_size: 12, hidden_sizes: [12, 12], dropout: {hidden: 0.2}}
optimizer: {name: snt_asgd, lr: 5, nonmono: 1, switch_epoch: 2}
sparsity: {name: selfish, density: 0.5, prune_rate: 0.5}
epochs: 3
clip: 0.25
log_every: 10
threads: 1
"""


def invoke(*words: object):
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="sparsernn")


def command(*words: object) -> list[str]:
    """The same as a process of its own."""
    return [sys.executable, "-m", "sparsernn", *map(str, words)]


def fault(*words: object) -> str:
    """The one sentence that a faulty command answers with, once it is checked that it is one."""
    result = invoke(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("sparsernn: ")
    return lines[0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A folder with a small made-up corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(1)
    for split, lines in (("train", 150), ("valid", 20), ("test", 20)):
        text = "\n".join(" ".join(draw.choices(WORDS, k=9)) for _ in range(lines))
        (folder / f"{split}.txt").write_text(text + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """A recipe that trains in a second."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(corpus, recipe, tmp_path_factory):
    """A finished run: its folder, and what was printed meanwhile."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    result = invoke("train", recipe, "--data", corpus, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder, result.output


@pytest.fixture
def spoiled(trained, tmp_path):
    """A copy of the finished run that a test may damage."""
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", trained[0], copy], check=True)
    return copy


# --- help and lists


def test_help_lists_the_commands():  # that it does not wait for torch: test_architecture
    shown = subprocess.run(command("--help"), env=ENVIRONMENT, capture_output=True, text=True, check=True)
    for name in COMMANDS:
        assert f" {name} " in shown.stdout


def test_version():
    assert invoke("--version").output.strip() == f"sparsernn {sparsernn.__version__}"


def test_recipes_are_listed_with_what_was_published():
    output = invoke("recipes").output
    line = next(line for line in output.splitlines() if " selfish/lstm-ptb " in line)
    assert "71.72" in line
    assert "The published stacked LSTM" in line


def test_a_recipe_is_shown_as_written_or_resolved():
    assert invoke("recipes", "show", "selfish/lstm-ptb-set").output.startswith("base: selfish/lstm-ptb")
    assert (
        "hidden_sizes: [1500, 1500]" in invoke("recipes", "show", "selfish/lstm-ptb-set", "--resolved").output
    )


def test_a_copied_recipe_is_complete_and_nothing_is_overwritten(tmp_path):
    target = tmp_path / "mine.yaml"
    assert invoke("recipes", "copy", "selfish/lstm-ptb-static", target).exit_code == 0
    copied = sparsernn.load_recipe(target)
    assert copied.name == "mine"
    assert copied.sparsity == {"name": "static", "density": 0.33}
    assert copied.model["hidden_sizes"] == [1500, 1500]
    assert "exists already" in fault("recipes", "copy", "demo/static", target)


def test_doctor_knows_every_extra_of_a_user():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    for_people_who_work_on_it = {"dev", "docs", "mutants", "release"}
    told = {name: {need.split(">")[0] for need in needs} for name, needs in extras.items()}
    assert {name: set(packages) for name, packages in EXTRAS.items()} == {
        name: packages for name, packages in told.items() if name not in for_people_who_work_on_it
    }
    output = invoke("doctor").output
    assert all(f"\n{name:<12}" in output for name in EXTRAS)


def test_doctor_and_data_say_what_is_here(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSERNN_CACHE", str(tmp_path))
    monkeypatch.delenv("SPARSERNN_DATA", raising=False)
    output = invoke("doctor").output
    assert all(f"{name} " in output for name in ("python", "torch", "cores", "kernels", "cache", "ptb"))
    assert "not here" in invoke("data", "list").output


def test_data_check_counts_and_names_faults(corpus, tmp_path):
    output = invoke("data", "check", corpus).output
    assert "1,500 tokens" in output  # 150 lines of 9 words and an end of line
    assert "of your own" in output
    assert "has no train file" in fault("data", "check", tmp_path)


# --- faults


def test_faults_before_a_run_are_one_sentence(recipe, corpus, tmp_path):
    out = tmp_path / "out"
    assert "Did you mean 'selfish/lstm-ptb'" in fault("train", "selfish/lstm-pbt")
    assert "Did you mean 'epochs'" in fault("train", recipe, "epoch=3")
    assert "Did you mean 'optimizer.lr'" in fault("train", recipe, "lr=3")
    misspelt = ("model.hiden_sizes=[3]", "optimizer.nonmno=3", "sparsity.densty=.5", "task.widnow=3")
    for setting in misspelt:
        key = setting.split("=")[0].split(".")[1]
        assert f"'{key}'" in fault("train", recipe, setting, "--data", corpus, "--out", out)
    assert "selfish" in fault("train", recipe, "sparsity.name=slefish", "--data", corpus, "--out", out)
    assert "density" in fault("train", recipe, "sparsity.density=1.3", "--data", corpus, "--out", out)
    assert not out.exists()


def test_a_missing_or_empty_corpus_is_one_sentence(recipe, tmp_path):
    assert "path" in fault("train", recipe)
    assert str(tmp_path / "none") in fault("train", recipe, "--data", tmp_path / "none")
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("")
    assert "empty" in fault("train", recipe, "--data", tmp_path)


def test_a_folder_that_holds_a_run_is_not_overwritten(recipe, corpus, trained):
    assert "sparsernn resume" in fault("train", recipe, "--data", corpus, "--out", trained[0])


@pytest.mark.parametrize(
    "name", ["resume", "evaluate", "finetune", "generate", "inspect", "report", "compare"]
)
def test_a_folder_that_is_no_run_is_one_sentence(name, tmp_path):
    assert str(tmp_path) in fault(name, tmp_path)


def test_a_loss_that_is_not_a_number_is_one_sentence(recipe, corpus, tmp_path):
    # Whether such a rate ends in NaN or in a loss of 1e27 depends on how the processor adds.
    words = ("optimizer.lr=1e30", "clip=null", "--data", corpus, "--out", tmp_path / "out")
    assert "training has diverged" in fault("train", recipe, *words)


def test_debug_shows_the_traceback_wherever_it_stands():
    for words in (("--debug", "train", "none"), ("train", "none", "--debug")):
        assert isinstance(invoke(*words).exception, sparsernn.InputError)


@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "missing"])
def test_a_damaged_checkpoint_is_one_sentence(spoiled, damage, name):
    file = spoiled / name
    content = file.read_bytes()
    middle = len(content) // 2
    damaged = {
        "truncated": content[:middle],
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "foreign": b"not a checkpoint at all",
    }
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(damaged[damage])
    assert name in fault("evaluate", spoiled)


def test_a_wrong_vocabulary_and_changed_data_are_one_sentence(spoiled, corpus, tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text((corpus / f"{split}.txt").read_text() + "one more line\n")
    assert "--data" in fault("evaluate", spoiled, "--data", tmp_path)
    vocabulary = (spoiled / "vocabulary.txt").read_text().splitlines()
    (spoiled / "vocabulary.txt").write_text("\n".join(vocabulary[:-1]) + "\n")
    fault("evaluate", spoiled)


# --- a run from beginning to end


def test_dry_run_prints_the_plan_and_writes_nothing(recipe, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = invoke("train", recipe, "--data", corpus, "--dry-run").output
    assert "layers.0.weight_hh" in output
    assert "48 x 12" in output
    assert "density 0.5" in output
    assert "train 1,500" in output
    assert not list(tmp_path.iterdir())


def test_training_prints_the_plan_a_line_per_epoch_the_result_and_what_next(trained):
    folder, output = trained
    assert "layers.0.weight_hh" in output
    epochs = [line for line in output.splitlines() if line.startswith("epoch") and "valid" in line]
    assert len(epochs) == 3
    assert "averag" in output
    assert "masks moved" in output
    assert f"sparsernn inspect {folder}" in output.replace("\n", "")
    assert (folder / "report.html").is_file()
    assert len(output.splitlines()) < 60


def test_a_run_without_a_place_goes_to_a_fresh_folder(recipe, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert invoke("train", recipe, "epochs=1", "--data", corpus).exit_code == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["tiny", "tiny-2"]


def test_evaluate_agrees_with_training_and_takes_splits(trained):
    folder, output = trained
    test_line = next(line for line in output.splitlines() if line.startswith("test "))
    perplexity = float(test_line.split()[1])
    scores = invoke("evaluate", folder).output
    assert float(scores.split("perplexity")[1].split()[0]) == pytest.approx(perplexity, abs=0.006)
    assert "valid" in invoke("evaluate", folder, "--split", "valid", "--batch-size", "1").output
    assert "known: test, train, valid" in fault("evaluate", folder, "--split", "tset")


def test_resuming_a_finished_run_says_so(trained):
    result = invoke("resume", trained[0])
    assert result.exit_code == 0
    assert "complete" in result.output


def test_generate_repeats_itself_with_the_same_seed(trained):
    words = ("generate", trained[0], "--tokens", "12", "--prompt", "the cat")
    first = invoke(*words)
    assert first.exit_code == 0
    assert first.output == invoke(*words).output
    assert first.output != invoke(*words, "--seed", "2").output


def test_generate_says_which_words_of_a_prompt_the_model_does_not_know(trained):
    told = invoke("generate", trained[0], "--tokens", "2", "--prompt", "the zyzzyva the zyzzyva")
    assert told.exit_code == 0
    assert "read as <unk>: zyzzyva\n" in told.stderr
    assert "<unk>" not in told.stdout
    assert not invoke("generate", trained[0], "--tokens", "2", "--prompt", "the").stderr


def test_inspect_report_and_compare(trained, tmp_path):
    folder = trained[0]
    assert "layers.1.weight_hh" in invoke("inspect", folder).output
    assert invoke("report", folder, "--out", tmp_path).exit_code == 0
    assert (tmp_path / "report.html").stat().st_size > 1000
    assert "| tiny |" in invoke("compare", folder, folder, "--markdown").output
    assert "selfish" in invoke("compare", folder).output


def test_topologies_of_two_runs_and_of_two_states_of_one_are_compared(trained, recipe, corpus, tmp_path):
    folder, other = trained[0], tmp_path / "other"
    assert invoke("train", recipe, "seed=2", "epochs=1", "--data", corpus, "--out", other).exit_code == 0
    result = invoke("compare", folder, other, "--topology", "--markdown")
    assert result.exit_code == 0, result.output
    rows = [line.strip("| ").split(" | ") for line in result.output.splitlines()]
    assert rows[0] == ["units", "distance", "to random masks"]
    distance = {row[0]: float(row[-2]) for row in rows[2:]}
    assert list(distance)[:2] == ["layer 0", "layer 1"]
    assert 0.2 < distance["overall"] < 0.8
    same = invoke("compare", folder, folder, "--topology").output
    assert "best weights" in same
    assert same.splitlines()[-2].split()[:2] == ["overall", "0.0000"]
    assert "best and last weights" in invoke("compare", folder, "--topology").output
    assert "3 runs were given" in fault("compare", folder, folder, folder, "--topology")


def test_finetuning_starts_from_the_best_weights_with_fixed_masks(trained, tmp_path):
    out = tmp_path / "tuned"
    result = invoke("finetune", trained[0], "epochs=1", "optimizer.lr=1", "--out", out)
    assert result.exit_code == 0, result.output
    assert "masks moved" not in result.output
    recipe = sparsernn.load_recipe(out / "recipe.yaml")
    assert recipe.sparsity["name"] == "static"
    assert recipe.optimizer["switch_epoch"] == 0


# --- signals and pipes


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_how_to_go_on_and_goes_on(recipe, corpus, tmp_path, number, code):
    folder = tmp_path / "run"
    words = command("train", recipe, "epochs=400", "--data", corpus, "--out", folder)
    process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    wait_for(folder / "metrics.jsonl", process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"sparsernn resume {folder}" in output.replace("\n", "")
    there = (folder / "metrics.jsonl").read_text().count("\n")
    process = subprocess.Popen(command("resume", folder), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    wait_for(folder / "metrics.jsonl", process, there + 3)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code


def wait_for(file: Path, process: subprocess.Popen, records: int = 3) -> None:
    """Wait until a run has written more records than that."""
    for _ in range(600):
        if file.exists() and file.read_text().count("\n") > records:
            return
        assert process.poll() is None, "the run ended too early"
        time.sleep(0.1)
    raise AssertionError("the run did not begin")


def test_a_reader_that_goes_away_is_no_error():
    shown = subprocess.run(
        f"{sys.executable} -m sparsernn recipes show selfish/lstm-ptb | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.stderr == ""


# --- what is made of a run


def test_pack_writes_a_file_that_gives_the_best_weights_back(trained, tmp_path):
    target = tmp_path / "model.safetensors"
    assert "times smaller" in invoke("pack", trained[0], "--out", target).output
    best = load_checkpoint(trained[0] / "best.safetensors")["model"]
    unpacked = unpack(target)
    assert all(unpacked[name].equal(tensor) for name, tensor in best.items())


def test_export_writes_a_graph_and_says_how_close_it_is(trained, tmp_path):
    output = invoke("export", trained[0], "--out", tmp_path / "m.pt2").output
    assert (tmp_path / "m.pt2").stat().st_size > 0
    assert "words (B), state.0 (B, " in output
    assert "'m.tf' does not end in one of" in fault("export", trained[0], "--out", tmp_path / "m.tf")


def test_export_writes_whole_sequences(trained, tmp_path):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    output = invoke(
        "export", trained[0], "--graph", "sequence", "--opset", 17, "--out", tmp_path / "m.onnx"
    ).output
    assert "whole sequences of any length T in any batch B" in output
    assert "reads  words (T, B), lengths (B), state.0 (B, " in output
    assert "gives  log_prob (T, B, " in output


def test_options_of_graphs_are_not_for_c(trained, tmp_path):
    assert "--graph is for --format onnx or pt2" in fault(
        "export", trained[0], "--format", "c", "--graph", "sequence"
    )
    assert "--opset is for --format onnx or pt2" in fault(
        "export", trained[0], "--format", "c", "--opset", "17"
    )
    assert "--graph is 'loop'; it must be step or sequence" in fault("export", trained[0], "--graph", "loop")


def test_export_writes_plain_c_with_the_vocabulary_and_says_how_much_it_takes(trained, tmp_path):
    output = invoke(
        "export", trained[0], "--format", "c", "--int8", "--name", "net", "--out", tmp_path / "c"
    ).output
    header = (tmp_path / "c" / "net.h").read_text()
    flash, ram = (int(re.search(rf"NET_{kind}_BYTES (\d+)", header)[1]) for kind in ("FLASH", "RAM"))
    assert f"flash  {flash:,} bytes of tables" in output
    assert f"RAM    {ram:,} bytes of state" in output
    assert "Rounding to 8 bits moves" in output
    words = (tmp_path / "c" / "net_words.txt").read_text().splitlines()
    assert f"#define NET_WORDS {len(words)}\n" in header
    assert set(WORDS) <= set(words)
    assert (tmp_path / "c" / "check.c").is_file()


def test_export_says_which_formats_there_are(trained, tmp_path):
    shown = invoke("export", "--help").output
    assert all(name in shown for name in ("--format", "pt2 (for", "onnx (needs", "c (C99", "--int8"))
    assert "--format is 'tf'; it must be one of pt2, onnx, c" in fault("export", trained[0], "--format", "tf")
    assert "--int8 is for --format c or onnx" in fault("export", trained[0], "--int8")
    assert "--name is for --format c" in fault("export", trained[0], "--format", "pt2", "--name", "net")
    wrong = fault("export", trained[0], "--format", "onnx", "--out", tmp_path / "m.pt2")
    assert "does not end in .onnx as --format onnx asks for" in wrong
    assert not list(tmp_path.iterdir())


def test_bench_holds_sparse_against_dense_and_keeps_it_for_the_report(spoiled):
    output = invoke("bench", spoiled, "--repeats", "1").output
    assert all(f" {name} " in output for name in ("torch", "dense", "csr"))
    assert "\nbatch 1: " in output
    assert '"sizes"' in (spoiled / "metrics.jsonl").read_text()
    assert "--batch-size is 'many'" in fault("bench", spoiled, "--batch-size", "many")


def test_bench_adds_nothing_to_a_run_that_goes_on(spoiled):
    log = spoiled / "metrics.jsonl"
    records = log.read_text().splitlines(keepends=True)
    ended = next(at for at, record in enumerate(records) if '"event": "test"' in record)
    log.write_text("".join(records[:ended]))
    output = invoke("bench", spoiled, "--repeats", "1").output
    assert " torch " in output
    assert "once the run has ended" in output
    assert log.read_text() == "".join(records[:ended])


def test_data_that_moved_are_found_with_the_option(spoiled, corpus, tmp_path):
    file = spoiled / "environment.json"
    file.write_text(file.read_text().replace(str(corpus), str(tmp_path / "gone")))
    assert "gone" in fault("evaluate", spoiled)
    result = invoke("evaluate", spoiled, "--data", corpus)
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_the_demo_compares_three_models_and_writes_the_report(tmp_path):
    small = ("epochs=1", "model.embedding_size=8", "model.hidden_sizes=[8]", "threads=1")
    result = invoke("demo", *small, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    for name in ("dense", "static", "selfish"):
        row = next(line for line in lines if line.startswith(f" demo/{name} "))
        assert "KiB" in row
        assert "ms" in row
        assert f"{name} writes:" in lines
    assert (tmp_path / "report.html").stat().st_size > 1000
