"""Tables for the terminal, without runs."""

from dataclasses import replace

from sparsernn.cli.console_tables import plan_lines, recipes_table
from sparsernn.report.progress import event_line, progress_line
from sparsernn.runs.recipe import load_recipe

PLAN = {
    "parameters_total": 10,
    "parameters_active": 5,
    "examples": {"train": 3000, "test": 10},
    "counts": "images",
    "vocabularies": {},
    "steps": 4,
    "epochs": 2,
    "steps_per_epoch": 2,
}


def test_a_plan_names_vocabularies_where_there_are_some():
    assert "images      train 3,000   test 10" in plan_lines(PLAN)
    tagging = {**PLAN, "counts": "tokens", "vocabularies": {"vocabulary": 9000, "tags": 12}}
    assert "tokens      train 3,000   test 10   vocabulary 9,000   tags 12" in plan_lines(tagging)


def test_a_plan_says_what_must_be_known_of_the_data():
    """A recipe that inherits `splits` may train on another file than its split's name says."""
    assert "note        train is read from the valid file" in plan_lines(
        {**PLAN, "note": "train is read from the valid file"}
    )
    assert not any(line.startswith("note") for line in plan_lines({**PLAN, "note": ""}))


def test_a_plan_says_that_compiled_kernels_are_missing_and_why():
    lines = plan_lines({**PLAN, "no_kernels": "not compiled; do this"})
    assert "kernels     none, which is slower: not compiled; do this" in lines
    assert not any(line.startswith("kernels") for line in plan_lines({**PLAN, "no_kernels": ""}))


def test_results_are_shown_by_the_metric_of_the_task():
    recipe = load_recipe("selfish/lstm-ptb")
    numbers = {"test_loss": 0.1, "test_accuracy": 0.9731, "note": "n"}
    both = replace(recipe, task={**recipe.task, "metric": "accuracy"}, published=numbers, obtained={})
    first = replace(recipe, published={"test_bits": 1.29, "valid_bits": 1.3}, obtained={"note": "n"})
    table = recipes_table([both, first], width=200)
    assert list(table.columns[4].cells) == ["97.31 %", "1.29"]
    assert list(table.columns[5].cells) == ["", ""]


def test_an_accuracy_is_told_as_such_and_a_training_loss_in_nats():
    record = {"event": "epoch", "epoch": 1, "train_loss": 0.25, "seconds": 3.0}
    line = event_line({**record, "valid": {"loss": 0.3, "accuracy": 0.915}}, "accuracy", 2)
    assert line == "epoch 1/2  train   0.250 nats  valid      91.50 %  3 s"
    test = {"event": "test", "split": "test", "loss": 0.3, "accuracy": 0.9}
    assert event_line(test, "accuracy", 2) == "test 90.00 %"
    position = {"epoch": 1, "epochs": 2, "step": 3, "steps": 9, "loss": 0.5, "tokens_per_second": 2000.0}
    shown = progress_line(position, "accuracy", "images")
    assert shown == "epoch 1/2  step 3/9  train 0.500 nats  2,000 images/s"
    assert event_line({"event": "end", "epoch": 4, "why": "so"}, "accuracy", 9) == (
        "epoch 4: the training ends here, for so"
    )
