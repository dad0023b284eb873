"""Paragraphs with questions: reading SQuAD, spans and back, splits by article, official scores, word vectors."""

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.data.answer_scores import exact_match, f1, normalised, score_answers
from sparsernn.data.embedded_questions import python_questions
from sparsernn.data.questions import Answer, Paragraph, Question, text_of, token_spans, words_of
from sparsernn.data.squad import DEV, squad, squad_articles
from sparsernn.data.squad_format import Oddities, read_questions
from sparsernn.data.word_vectors import read_vectors

TEXT = "In 1996, Tesla's coil (built by hand) made 3.5 kV."


def article(title, paragraphs):
    return {
        "title": title,
        "paragraphs": [
            {
                "context": context,
                "qas": [
                    {
                        "id": f"{title} {context[:3]} {k}",
                        "question": f" {question} ",
                        "answers": [{"text": a, "answer_start": context.index(a)} for a in answers],
                    }
                    for k, (question, *answers) in enumerate(asked)
                ],
            }
            for context, asked in paragraphs
        ],
    }


ARTICLES = [article(f"title {k}", [(f"{k} dogs bark.", [("How many?", f"{k}")])]) for k in range(6)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / DEV).write_text(json.dumps({"data": ARTICLES, "version": "1.1"}))
    return tmp_path


# --- spans


@pytest.mark.parametrize(
    ("answer", "words", "back"),
    [
        ("1996", (1, 1), "1996"),
        ("Tesla's coil", (3, 6), "Tesla's coil"),
        ("hand) made", (10, 12), "hand) made"),
        ("oil (buil", (6, 8), "coil (built"),
        ("3.5 kV.", (13, 17), "3.5 kV."),
        (",", (2, 2), ","),
        (" ", None, None),
    ],
)
def test_characters_to_words_and_back(answer, words, back):
    spans = token_spans(TEXT)
    found = words_of(Answer(TEXT.index(answer), answer), spans)
    assert found == words
    if found:
        assert text_of(*found, TEXT, spans) == back


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.text("ab1 .,-'_é\n", min_size=1, max_size=40), st.integers(0, 39), st.integers(1, 40))
def test_the_words_of_any_span_cover_it_and_nothing_but_white_space_is_lost(text, start, length):
    answer = Answer(start, text[start : start + length])
    spans = token_spans(text)
    assert "".join(text[a:b] for a, b in spans) == "".join(text.split())
    found = words_of(answer, spans)
    assert (found is None) == (not answer.text.strip())
    if found:
        first, last = found
        assert answer.text.strip() in text_of(first, last, text, spans)
        assert spans[first][1] > start
        assert spans[last][0] < start + length


# --- files


def test_a_hand_made_file(tmp_path):
    entry = article("one", [(TEXT, [("When?", "1996", "In 1996"), ("Who?", "Tesla")]), ("No question.", [])])
    entry["paragraphs"][0]["qas"][1]["answers"] += [{"text": " coil ", "answer_start": 16}]
    entry["paragraphs"][0]["qas"][1]["answers"] += [{"text": "Edison", "answer_start": 3}]
    (tmp_path / "f.json").write_text(json.dumps({"data": [entry]}))
    paragraph, bare = read_questions(tmp_path / "f.json").paragraphs
    when, who = paragraph.questions
    assert (paragraph.title, paragraph.text, bare.questions) == ("one", TEXT, ())
    assert (when.text, when.answers) == ("When?", (Answer(3, "1996"), Answer(0, "In 1996")))
    assert who.answers == (Answer(9, "Tesla"), Answer(TEXT.index("coil"), "coil"), Answer(-1, "Edison"))
    assert words_of(who.answers[2], token_spans(TEXT)) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "not in the format of SQuAD 1.1: it has no key 'data'"),
        ('{"data": [{"title": "x", "paragraphs": [{"context": "y"}]}]}', "'qas'"),
        ("[1]", "not in the format"),
        ('{"data": []}', "no question with an answer"),
    ],
)
def test_what_is_no_squad_file_is_said_in_one_sentence(tmp_path, content, message):
    (tmp_path / "f.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_questions(tmp_path / "f.json")


HELD = "The coil was Tesla's."
ROW = {"context": HELD, "question": "Whose?"}


@pytest.mark.parametrize(
    "answers",
    [
        [{"text": "Tesla", "answer_start": 13}],
        [{"text": "Tesla", "answer_start": "13"}],
        [{"text": "Tesla", "answer_start": 13.0}],
        {"text": ["Tesla"], "answer_start": [13]},
        {"text": "Tesla", "answer_start": 13},
    ],
)
@pytest.mark.parametrize("form", ["articles", "list", "lines", "packed lines"])
def test_every_form_of_the_same_question_is_read_alike(tmp_path, answers, form):
    """No title and no id, places as text or as 13.0, answers as a list or as lists."""
    question = {"question": "Whose?", "answers": answers}
    row = ROW | {"answers": answers}
    content = {
        "articles": json.dumps({"data": [{"paragraphs": [{"context": HELD, "qas": [question]}]}]}),
        "list": json.dumps([row]),
        "lines": json.dumps(row) + "\n",
        "packed lines": "\n" + json.dumps(row) + "\n",
    }[form]
    data = content.encode()
    (tmp_path / "f.jsonl").write_bytes(gzip.compress(data) if form == "packed lines" else data)
    (paragraph,), oddities = read_questions(tmp_path / "f.jsonl")
    (asked,) = paragraph.questions
    assert (paragraph.title, paragraph.text, asked.id) == ("article 1", HELD, "article 1, question 1")
    assert (asked.text, asked.answers) == ("Whose?", (Answer(13, "Tesla"),))
    assert oddities == Oddities()


def test_single_questions_about_a_text_share_its_paragraph_wherever_they_stand(tmp_path):
    answers = {"text": ["coil"], "answer_start": [4]}
    rows = [
        ROW | {"id": 1, "title": "a", "answers": answers},
        {"context": "Other.", "question": "?", "answers": {"text": ["Other"], "answer_start": [0]}},
        ROW | {"id": "2", "title": "a", "answers": answers},
    ]
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_questions(tmp_path / "f.jsonl").paragraphs
    assert [(p.title, [q.id for q in p.questions]) for p in found] == [
        ("a", ["1", "2"]),
        ("article 1", ["article 1, question 2"]),
    ]


def test_what_is_odd_is_counted_and_reported(tmp_path):
    qas = [
        {"id": "x", "question": "Whose?", "answers": [{"text": "Tesla", "answer_start": 13}]},
        {"id": "x", "question": "What?", "answers": [{"text": "coil", "answer_start": 5}]},
        {"id": "y", "question": "When?", "answers": [], "is_impossible": True},
        {"id": "z", "question": "Where?"},
        {"id": "x", "question": "Last?", "answers": [{"text": "Tesla's.", "answer_start": -8}]},
    ]
    place = {"data": [{"title": "t", "paragraphs": [{"context": HELD, "qas": qas}]}]}
    (tmp_path / "train-v1.1.json").write_text(json.dumps(place))
    (tmp_path / DEV).write_text(json.dumps({"data": ARTICLES[:1]}))
    corpus = squad(tmp_path)
    asked = corpus.splits["train"][0].questions
    assert [q.id for q in asked] == ["x", "x (2)", "x (3)"]
    assert [q.answers[0].start for q in asked] == [13, -1, -1]
    counted = {"without_answer": 2, "repeated_ids": 2, "unplaced": 2}
    assert corpus.info["oddities"] == {"train-v1.1.json": counted, DEV: dict.fromkeys(counted, 0)}
    assert (
        "train-v1.1.json: 2 questions without an answer are left out, 2 questions have" in corpus.info["note"]
    )
    assert DEV not in corpus.info["note"]
    json.dumps(corpus.info)


def test_articles_stay_whole(folder):
    corpus = squad_articles(folder, held_out=[1, 2])
    titles = {split: {p.title for p in found} for split, found in corpus.splits.items()}
    assert {split: len(found) for split, found in titles.items()} == {"train": 3, "valid": 1, "test": 2}
    assert len(set.union(*titles.values())) == 6
    assert corpus.info["articles"] == {"train": 3, "valid": 1, "test": 2}
    again = squad_articles(data_dir=folder, held_out=[1, 2])
    assert again.info["sha256"] == corpus.info["sha256"]
    assert len(set(corpus.info["sha256"].values())) == 3


def test_all_splits_can_be_the_same_articles(folder):
    corpus = squad_articles(folder, held_out=[0, 0], articles=2)
    assert corpus.splits["train"] == corpus.splits["valid"] == corpus.splits["test"]
    assert len(corpus.splits["train"]) == 2
    assert "the same questions" in corpus.info["note"]


@pytest.mark.parametrize("held_out", [[3, 3], [0, 2], [1], [1, -1], [1.5, 1]])
def test_impossible_splits(folder, held_out):
    with pytest.raises(InputError, match="held_out is"):
        squad_articles(folder, held_out=held_out)


def test_the_published_splits(folder, monkeypatch):
    (folder / "train-v1.1.json").write_text(json.dumps({"data": ARTICLES[:2]}))
    corpus = squad(folder)
    assert len(corpus.splits["train"]) == 2
    assert corpus.splits["valid"] == corpus.splits["test"]
    monkeypatch.delenv("SPARSERNN_DATA", raising=False)
    with pytest.raises(InputError, match="SQuAD is not here"):
        squad()


# --- scores: worked by hand from the rules of the official script


@pytest.mark.parametrize(
    ("given_answer", "right", "em", "score"),
    [
        ("the Denver Broncos", "Denver Broncos", 1, 1),
        ("Broncos.", "broncos", 1, 1),
        ("Denver", "Denver Broncos", 0, 2 / 3),
        ("a an the", "", 1, 0),
        ("", "Denver", 0, 0),
        ("big big dog", "big dog", 0, 4 / 5),
        ("24-10", "2410", 1, 1),
        ("an-other the", "another", 1, 1),
        ("Theodore", "odore", 0, 0),
        ("café “x”", "cafe x", 0, 0),
    ],
)
def test_scores_of_single_answers(given_answer, right, em, score):
    assert exact_match(given_answer, right) == em
    assert f1(given_answer, right) == pytest.approx(score)


def test_the_best_right_answer_counts_and_so_does_every_question():
    answers = (Answer(0, "big dog"), Answer(0, "the dog"))
    paragraph = Paragraph("t", "big dog", tuple(Question(str(k), "?", answers) for k in range(4)))
    found = score_answers([paragraph], {"0": "dog", "1": "big", "2": "cat"})
    assert found == {"f1": pytest.approx((1 + 2 / 3) / 4), "em": 1 / 4, "questions": 4}


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.text("aAbe .'", max_size=12), st.text("aAbe .'", max_size=12))
def test_scores_are_symmetric_shares(a, b):
    assert 0 <= f1(a, b) == f1(b, a) <= 1
    assert exact_match(a, b) == float(normalised(a) == normalised(b))
    assert f1(a, a) == (1 if normalised(a) else 0)


# --- the standard library's own


def test_questions_about_the_library():
    corpus = python_questions(paragraphs=30)
    titles = {split: {p.title for p in found} for split, found in corpus.splits.items()}
    assert sum(map(len, titles.values())) == len(set.union(*titles.values()))
    asked = [(p, q) for found in corpus.splits.values() for p in found for q in p.questions]
    assert len({q.id for _, q in asked}) == len(asked) > 100
    for paragraph, question in asked:
        (answer,) = question.answers
        assert paragraph.text[answer.start :].startswith(answer.text)
        assert words_of(answer, token_spans(paragraph.text))
    with pytest.raises(InputError, match="at least 30"):
        python_questions(paragraphs=5)


# --- word vectors


def test_vectors_are_looked_up_by_four_spellings(tmp_path):
    lines = ["dog 1 2", "Paris 3 4", "PARIS 5 6", "NASA 7 8", "dog 9 9", "other 0 0"]
    (tmp_path / "v.txt").write_text("\n".join(lines) + "\n")
    found = read_vectors(tmp_path / "v.txt", ["nasa", "dog", "unknown", "paris"])
    assert {word: vector.tolist() for word, vector in found.items()} == {
        "nasa": [7, 8],
        "dog": [1, 2],
        "paris": [3, 4],
    }
    (tmp_path / "head.txt").write_text("5 2\ndog 1 2\n")
    assert list(read_vectors(tmp_path / "head.txt", ["5", "dog"])) == ["dog"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dog 1 x", "line 1, is not a word followed by numbers"),
        ("dog 1 2\ncat 1", "line 2, has 1 numbers, and most lines have 2"),
        ("a 1", "none of the 2 words"),
    ],
)
def test_faulty_vectors(tmp_path, content, message):
    (tmp_path / "v.txt").write_text(content)
    with pytest.raises(InputError, match=message):
        read_vectors(tmp_path / "v.txt", ["dog", "cat"])


# --- the development file of SQuAD 1.1, where it is at hand


@pytest.fixture(scope="module")
def dev():
    place = Path(os.environ.get("SPARSERNN_DATA", "."), "squad", DEV)
    if not place.is_file():
        pytest.skip("SQuAD is not at hand")
    return read_questions(place).paragraphs


def test_facts_of_the_development_file(dev):
    lengths = [n for p in dev for n in [len(token_spans(p.text))] * len(p.questions)]
    asked = [len(token_spans(q.text)) for p in dev for q in p.questions]
    assert len({p.title for p in dev}) == 48
    assert (len(dev), len(lengths), max(lengths)) == (2067, 10570, 708)
    assert (sum(n <= 400 for n in lengths), sum(n <= 256 for n in lengths)) == (10468, 10013)
    assert sum(n <= 30 for n in asked) == 10559
    assert {len(q.answers) for p in dev for q in p.questions} == {1, 2, 3, 4, 5, 6}


def test_the_best_that_spans_of_tokens_can_score(dev):
    given_answers, at_the_end = {}, 0
    for p in dev:
        spans = token_spans(p.text)
        for q in p.questions:
            first, last = words_of(q.answers[0], spans)
            at_the_end += last == len(spans) - 1
            given_answers[q.id] = text_of(first, last, p.text, spans)
    found = score_answers(
        [p._replace(questions=tuple(q._replace(answers=q.answers[:1]) for q in p.questions)) for p in dev],
        given_answers,
    )
    assert (round(100 * found["em"], 2), round(100 * found["f1"], 2)) == (99.70, 99.75)
    assert at_the_end == 59
