"""Question answering: vocabularies, exact batches, scores worked by hand, answers, whole runs."""

import json
import os
import signal
from collections import Counter

import pytest
import torch

from sparsernn.cli.answer import answer as command
from sparsernn.cli.answer import paragraph_of
from sparsernn.core.errors import InputError
from sparsernn.data.questions import Answer, Paragraph, Question, QuestionCorpus, digest
from sparsernn.models import BiDAF
from sparsernn.models.bidaf import Pointers
from sparsernn.runs.artifacts import answer, take_best, write_predictions
from sparsernn.runs.assembly import assemble, create, open_run
from sparsernn.runs.loop import Interrupted, train
from sparsernn.runs.recipe import Recipe
from sparsernn.runs.reporter import Reporter
from sparsernn.tasks import LanguageModelling, QuestionAnswering

TEXTS = ["Ann has a red dog .", "Bob's cat is black", "The old house: nine rooms, two doors", "Eve sings"]


def paragraph(number, text, *asked):
    questions = (
        Question(f"{number}-{k}", question, tuple(Answer(text.index(a), a) for a in answers))
        for k, (question, *answers) in enumerate(asked)
    )
    return Paragraph(f"title {number}", text, tuple(questions))


PARAGRAPHS = [
    paragraph(0, TEXTS[0], ("Who has a dog?", "Ann"), ("Which dog?", "red dog", "red", "dog .")),
    paragraph(1, TEXTS[1], ("Whose cat?", "Bob", "Bob's"), ("Which colour?", "black")),
    paragraph(2, TEXTS[2], ("How many rooms?", "nine", "nine rooms"), ("What is old?", "house")),
    paragraph(3, TEXTS[3], ("Who sings?", "Eve")),
]


def corpus(train=PARAGRAPHS, test=PARAGRAPHS):
    splits = {"train": list(train), "valid": list(test), "test": list(test)}
    info = {"name": "tiny", "sha256": {split: digest(found) for split, found in splits.items()}, "note": ""}
    return QuestionCorpus(splits, info)


def task(**settings):
    return QuestionAnswering(
        corpus(), **{"batch_size": 3, "min_count": {"word": 1, "character": 1}, **settings}
    )


class Pointing(BiDAF):
    """Points to given words, whatever it reads; scores of several contexts are those of the first words."""

    def __init__(self, first, last):
        super().__init__(2, 2, hidden_size=1, word_size=1, character_cnn={"filters": 1})
        self.pointed = first, last

    def forward(self, context, question):
        scores = torch.zeros(2, len(context.lengths), len(context.words))
        for row, length in enumerate(context.lengths.tolist()):
            for pointer, place in enumerate(self.pointed):
                scores[pointer, row, place if place >= 0 else length + place] = 50.0
        return Pointers(*scores)


# --- vocabularies


def test_a_paragraph_counts_once_for_each_of_its_questions():
    found = task(min_count={"word": 4, "character": 1}).vocabularies["vocabulary"]
    assert found.tokens == (
        "<pad>",
        "<unk>",
        "?",
        "dog",
    )  # seven questions; a dog in two of them and twice read


def test_what_is_rare_is_unknown_and_characters_keep_their_case():
    made = task()
    rows = made.lexicon.rows(["Ann", "ann", "zebra"])
    words = made.lexicon.words[rows].tolist()
    assert words[0] == words[1] > 1
    assert words[2] == 1
    spelt = made.vocabularies["characters"].decode(made.lexicon.characters[rows[0]])
    assert spelt[:4] == ["A", "n", "n", "<pad>"]
    assert made.lexicon.characters.shape[1] == 16


def test_given_vectors_are_put_into_the_model_and_are_not_trained(tmp_path):
    (tmp_path / "v.txt").write_text("dog 1 2 3\nBOB 4 5 6\nnothing 0 0 0\n")
    made = task(vectors=str(tmp_path / "v.txt"))
    assert set(made.vocabularies["fixed"].tokens) == {"dog", "bob"}
    assert "dog" not in made.vocabularies["vocabulary"]
    model = BiDAF(**made.sizes, word_size=3, hidden_size=2)
    made.check_model(model)
    rows = made.lexicon.rows(["Dog", "Bob"])
    assert model.words(made.lexicon.words[rows]).tolist() == [[1, 2, 3], [4, 5, 6]]
    again = task(vectors="gone.txt", vocabularies=made.vocabularies)
    assert again.sizes == made.sizes
    with pytest.raises(InputError, match=r"set model\.word_size=3"):
        made.check_model(BiDAF(**made.sizes, word_size=4, hidden_size=2))


# --- batches


def test_an_epoch_has_every_question_once_and_is_a_function_of_seed_and_epoch():
    made = task()
    batches = list(made.batches(3, 1))
    assert len(batches) == made.steps_per_epoch() == 3
    read = Counter(tuple(q) for batch in batches for q in batch.question.words.T.tolist())
    assert len({tuple(word for word in q if word) for q in read}) == 7
    assert sum(len(batch.targets) for batch in batches) == made.examples["train"] == 7
    resumed = list(made.batches(3, 1, start=1))
    for one, other in zip(batches[1:], resumed, strict=True):
        assert torch.equal(one.context.words, other.context.words)
        assert torch.equal(one.targets, other.targets)
        assert torch.equal(one.last, other.last)
    different = list(made.batches(3, 2))
    assert any(
        a.question.words.shape != b.question.words.shape
        or not torch.equal(a.question.words, b.question.words)
        for a, b in zip(batches, different, strict=True)
    )


def test_of_several_right_answers_one_is_drawn():
    made = QuestionAnswering(corpus([PARAGRAPHS[0]]), min_count={"word": 1, "character": 1})
    drawn = Counter()
    for epoch in range(60):
        (batch,) = made.batches(0, epoch)
        row = batch.question.lengths.tolist().index(3)
        drawn[batch.targets[row].item(), batch.last[row].item()] += 1
    assert set(drawn) == {(3, 4), (3, 3), (4, 5)}
    assert min(drawn.values()) > 8


@pytest.mark.parametrize(
    ("limits", "trained"),
    [({}, 7), ({"context": 6}, 7), ({"context": 5}, 4), ({"context": 2}, 2), ({"question": 3}, 4)],
)
def test_long_questions_and_late_answers_are_not_trained_on(limits, trained):
    """Not within 5 words: "dog .", "nine rooms" and "black"; not within 2: "Bob's" and "house"."""
    made = task(limits=limits)
    assert made.examples == {"train": trained, "valid": 7, "test": 7}
    for batch in made.batches(0, 0):
        assert len(batch.context.words) <= limits.get("context", 400)
        assert (batch.last < batch.context.lengths).all()


# --- scores


def test_scores_worked_by_hand():
    """The first word of each paragraph: Ann (right), Ann, Bob (right), Bob, The, The (normalised: nothing), Eve."""
    made = task()
    scores = made.evaluate(Pointing(0, 0), "test", batch_size=2)
    assert (scores["em"], scores["questions"]) == (pytest.approx(3 / 7), 7)
    assert scores["f1"] == pytest.approx(3 / 7)
    # three right in both pointers; "red dog" 0 + 0, "black" wrong twice, "nine" twice, "house" twice
    assert scores["loss"] == pytest.approx((4 * 2 * 50) / 7, rel=1e-3)
    assert made.criterion(scores) == pytest.approx(4 / 7)


def test_an_answer_may_end_with_the_paragraph():
    made = task()
    found = made.predictions(Pointing(-1, -1), "test")
    assert [found["0-0"], found["1-0"], found["2-1"], found["3-0"]] == [".", "black", "doors", "sings"]
    assert made.predictions(Pointing(0, -1), "test")["1-0"] == TEXTS[1]


def test_scores_do_not_depend_on_how_many_questions_are_read_at_once():
    made = task()
    torch.manual_seed(0)
    model = BiDAF(**made.sizes, word_size=4, hidden_size=3, dropout={"lstm": 0.5}).train()
    one, many = made.evaluate(model, "test", 1), made.evaluate(model, "test", 7)
    assert one == pytest.approx(many, rel=1e-5)
    assert model.training


def test_answers_about_any_paragraph():
    made = task()
    found = made.answer(Pointing(1, 2), "Some (new) text.", "What is new?")
    assert (found.text, found.start, round(found.probability, 3)) == ("(new", 5, 1.0)
    with pytest.raises(InputError, match="the question is ' '"):
        made.answer(Pointing(0, 0), "Some text.", " ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limits": {"word": 3}}, "limits has no setting 'word'"),
        ({"limits": {"context": 0}}, "limits.context is 0"),
        ({"min_count": {"word": 0}}, "min_count.word is 0"),
        ({"limits": {"question": 1}}, "no training question is within the limits"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(InputError, match=message):
        task(**settings)


def test_it_takes_paragraphs_and_a_reader_alone():
    with pytest.raises(InputError, match="needs paragraphs"):
        QuestionAnswering("text")
    with pytest.raises(InputError, match=r"model\.name=bidaf"):
        task().check_model(torch.nn.Linear(2, 2))
    made = task(limits={"letters": 3})
    with pytest.raises(InputError, match=r"task\.limits\.letters"):
        made.check_model(BiDAF(**made.sizes, word_size=2, hidden_size=1))


# --- whole runs


@pytest.fixture
def recipe(tmp_path):
    entry = {
        "data": [
            {
                "title": p.title,
                "paragraphs": [
                    {
                        "context": p.text,
                        "qas": [
                            {
                                "id": q.id,
                                "question": q.text,
                                "answers": [{"answer_start": a.start, "text": a.text} for a in q.answers],
                            }
                            for q in p.questions
                        ],
                    }
                ],
            }
            for p in PARAGRAPHS
        ]
    }
    (tmp_path / "dev-v1.1.json").write_text(json.dumps(entry))

    def build(**changes):
        settings = {
            "name": "tiny",
            "seed": 3,
            "epochs": 2,
            "log_every": 1,
            "checkpoint_seconds": 1000,
            "threads": 1,
            "task": {
                "name": "question_answering",
                "corpus": {"name": "squad-articles", "path": str(tmp_path), "held_out": [0, 0]},
                "batch_size": 3,
                "min_count": {"word": 1, "character": 1},
            },
            "model": {
                "name": "bidaf",
                "word_size": 4,
                "hidden_size": 3,
                "character_cnn": {"filters": 4},
                "dropout": {"lstm": 0.1},
            },
            "optimizer": {"name": "ema", "of": "adam", "lr": 0.01},
            **changes,
        }
        return Recipe.from_settings(settings)

    return build


def test_it_learns_seven_answers_by_heart():
    made = task(batch_size=7)
    torch.manual_seed(0)
    model = BiDAF(**made.sizes, word_size=4, hidden_size=3, character_cnn={"filters": 4})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for epoch in range(60):
        for batch in made.batches(0, epoch):
            _, objective, _ = made.loss(model, batch, None)
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
    assert made.evaluate(model, "test")["f1"] > 0.9
    assert made.answer(model, TEXTS[3], "Who sings?").text == "Eve"


class StopAt(Reporter):
    """Sends SIGTERM to this very process at a step."""

    def __init__(self, step):
        self.target = step

    def step(self, status):
        if status["step"] == self.target:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_is_taken_up_again_to_the_bit_and_answers(recipe, tmp_path, capsys):
    whole = create(recipe(), tmp_path / "whole")
    train(whole)
    with pytest.raises(Interrupted):
        train(create(recipe(), tmp_path / "half"), StopAt(whole.position.step // 2))
    again = open_run(tmp_path / "half")
    train(again)
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert take_best(again)["averaged"]
    written = json.loads(write_predictions(again).read_text())
    assert written.keys() == {q.id for p in PARAGRAPHS for q in p.questions}
    found = answer(again, TEXTS[3], "Who sings?")
    (tmp_path / "paragraph.txt").write_text(TEXTS[3] + "\n")
    for given_as in (TEXTS[3], str(tmp_path / "paragraph.txt")):
        capsys.readouterr()
        command(tmp_path / "half", given_as, "Who sings?")
        marked = TEXTS[3].replace(found.text, f">>{found.text}<<", 1)
        lines = [f"answer       {found.text}", f"probability  {found.probability:.4f}", "", marked]
        assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize("name", ["paragraph.txt", "texts/one", "./paragraph"])
def test_a_misspelt_file_is_not_taken_for_a_paragraph(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"--paragraph is '{name}', and there is no such file"):
        paragraph_of(name)


@pytest.mark.parametrize("text", ["Eve", "It is in texts/one.txt", "end.", "東京は1.5倍", ""])
def test_a_paragraph_is_taken_as_it_is(text):
    assert paragraph_of(text) == text


def test_units_die_and_the_run_becomes_smaller(recipe):
    sparsity = {"name": "iss", "strength": 5.0, "threshold": 0.1}
    run = assemble(recipe(sparsity=sparsity, optimizer={"name": "ema", "lr": 0.05}))
    assert len(run.sparsifier.units) == 6
    for epoch in range(6):
        for batch in run.task.batches(3, epoch):
            _, objective, _ = run.task.loss(run.model, batch, None)
            run.optimizer.zero_grad()
            objective.backward()
            run.sparsifier.after_backward()
            run.optimizer.step()
            run.sparsifier.after_step()
    event, _ = run.sparsifier.end_epoch()
    dead = sum(layer["dead"] for layer in event["layers"])
    assert dead > 0
    with run.optimizer.averaged():
        assert sum(int((u.norms() == 0).sum()) for u in run.model.units()) == dead


def test_another_task_answers_no_questions(tiny_recipe, tmp_path):
    run = create(tiny_recipe(), tmp_path / "run")
    assert isinstance(run.task, LanguageModelling)
    with pytest.raises(InputError, match="answers no questions"):
        answer(run, "text", "what?")
