"""The runner that users copy: without torch, with the library's own answers, and refusing what does not fit."""

import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsernn.data.subwords import subwords, trained
from sparsernn.data.text_styles import STYLES, Style
from sparsernn.deploy import onnx_runner, onnx_tasks
from sparsernn.deploy.graph_export import export
from sparsernn.deploy.onnx_runner import OnnxModel
from sparsernn.deploy.onnx_tasks import CUT, JOIN, TaskModel
from sparsernn.models.bidaf import BiDAF, Text
from sparsernn.models.language_model import LanguageModel
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.models.spans import best_spans
from sparsernn.models.tagger import Tagger
from sparsernn.tasks.series_scaling import Scaling

WORDS = ["<pad>", "<unk>", "<eos>", "a", "dog", "barks"]
TOLD = {
    "tokens": {"vocabulary": WORDS, "tags": ["NOUN", "VERB"]},
    "style": {"name": "prose", "lowercase": True},
}
TEXTS = st.text(st.sampled_from("aB7 .,()[]'\n=-é’<>"), max_size=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of each kind of model, and the models."""
    pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    home = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    scaling = Scaling((1.0, 2.0), (2.0, 4.0), (10.0, 3.0), masked=True).plain()
    characters = ["<pad>", "<unk>", "d", "o", "g"]
    asked = {
        "tokens": {"vocabulary": WORDS, "fixed": ["cat"], "characters": characters},
        "letters": 5,
        "style": None,
    }
    regress = {"tokens": {}, "goal": "regress", "per": "step", "scaling": scaling}
    labels = {**regress, "tokens": {"labels": ["no", "yes"]}, "goal": "classify"}
    models = {
        "language": (LanguageModel(6, 4, [5], layer="gru"), TOLD),
        "tagger": (Tagger(6, 2, 4, 3), TOLD),
        "numbers": (SequenceModel(4, 1, [5]), regress),
        "labels": (SequenceModel(4, 2, [5], layer="elman"), labels),
        "questions": (
            BiDAF(6, 5, fixed_words=1, word_size=4, hidden_size=3, character_cnn={"filters": 3, "width": 3}),
            asked,
        ),
    }
    for name, (model, told) in models.items():
        export(model.eval(), home / f"{name}.onnx", told, graph="sequence")
    return home, {name: model for name, (model, _) in models.items()}


@pytest.fixture
def opened(folder):
    """name -> (runner, model)."""
    home, models = folder
    return lambda name: (TaskModel(str(home / f"{name}.onnx")), models[name])


@given(TEXTS, st.booleans())
@pytest.mark.parametrize("name", sorted(STYLES.keys() - {"subword"}))
def test_texts_are_cut_as_the_library_cuts_them(name, text, lowercase):
    ours = CUT[name](text.lower() if lowercase else text)
    assert ours == Style(name, lowercase).tokens(text)
    assert JOIN[name](ours) == Style(name).text(ours)


@given(TEXTS, st.booleans())
def test_subwords_are_cut_as_the_library_cuts_them(text, lowercase):
    pytest.importorskip("tokenizers", reason="needs the extra subword")
    style = Style("subword", lowercase, trained_subwords())
    ours = onnx_tasks._cut(text, style.plain())
    assert ours == style.tokens(text)
    model = TaskModel.__new__(TaskModel)
    model.told, known = {"style": style.plain()}, subwords(style.tokenizer, "it").index
    assert model.decode([known[token] for token in ours]) == style.text(ours)


@lru_cache
def trained_subwords():
    return trained(["a dog barks\n", "the dog, a dog.\n"] * 3, 300).tokenizer


def test_bytes_that_are_no_text_and_tokens_that_are_no_bytes_are_shown():
    for tokens in (["Ã", "©", "x"], ["Ã", "x"], ["<unk>", "a"], ["\u2019"]):
        assert JOIN["bytes"](tokens) == Style("bytes").text(tokens)


COPIES = {
    ("onnx_runner.py",): (
        "from onnx_runner import OnnxModel\n"
        "model = OnnxModel(sys.argv[1])\n"
        "print(model.run([[3], [4]]).shape, model.told['tokens']['vocabulary'][3:5])",
        "(2, 1, 6) ['a', 'dog']",
    ),
    ("onnx_runner.py", "onnx_tasks.py"): (
        "from onnx_tasks import TaskModel\nprint(TaskModel(sys.argv[1]).write('a dog', 4, seed=3))",
        "a dog",
    ),
}


@pytest.mark.parametrize("files", COPIES, ids=len)
def test_copies_need_neither_torch_nor_this_library(folder, tmp_path, files):
    code, said = COPIES[files]
    for name in files:
        (tmp_path / name).write_bytes(Path(onnx_runner.__file__).with_name(name).read_bytes())
    blocked = "import sys; sys.modules['torch'] = sys.modules['sparsernn'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + code, folder[0] / "language.onnx"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(said)


def test_the_example_is_short():
    assert Path(onnx_runner.__file__).read_text(encoding="utf-8").count("\n") <= 110


def test_the_state_is_kept_between_calls(opened):
    runner, model = opened("language")
    words = torch.randint(6, (9, 3))
    runner.reset(3)
    parts = [runner.run(part.numpy()) for part in words.split([4, 1, 4])]
    with torch.no_grad():
        wanted = model.head.log_prob(model(words).raw).numpy()
    np.testing.assert_allclose(np.concatenate(parts), wanted, atol=1e-5)


def test_it_writes_the_likeliest_words(opened):
    runner, model = opened("language")
    written = runner.write("A dog", tokens=6, temperature=0.0)
    read, state = torch.tensor([[3], [4]]), None
    found = []
    for _ in range(6):
        with torch.no_grad():
            features = model(read, state)
            scores = model.head.log_prob(features.raw[-1, 0])
        scores[1] = -torch.inf
        found.append(int(scores.argmax()))
        read, state = torch.tensor([[found[-1]]]), features.state
    assert written == Style("prose").text(["a", "dog", *(WORDS[k] for k in found)]).strip()
    assert runner.write("a dog", 8, seed=2) == runner.write("a dog", 8, seed=2)


def test_tags(opened):
    runner, model = opened("tagger")
    tagged = runner.tag(["a dog barks", "cats"])
    with torch.no_grad():
        scores = model(torch.tensor([[3, 1], [4, 0], [5, 0]]), torch.tensor([3, 1]))
    names = TOLD["tokens"]["tags"]
    assert tagged[0] == [
        (w, names[k]) for w, k in zip(["a", "dog", "barks"], scores[:, 0].argmax(1), strict=True)
    ]
    assert tagged[1] == [("cats", names[scores[0, 1].argmax()])]


def test_series_in_their_own_units(opened):
    series = [np.array([[1.0, 2.0], [np.nan, 6.0], [5.0, 4.0]]), np.array([[3.0, np.nan]])]
    runner, model = opened("numbers")
    scaling = Scaling.of(runner.told["scaling"])
    with torch.no_grad():
        for said, one in zip(runner.predict(series), series, strict=True):
            y = model.read_out(model(scaling.read(one).unsqueeze(1)).raw)[:, 0, 0]
            np.testing.assert_allclose(said, scaling.unscaled(y), rtol=1e-5)
        runner, model = opened("labels")
        for (label, chance), one in zip(runner.predict(series), series, strict=True):
            chances = model.read_out(model(scaling.read(one).unsqueeze(1)).raw)[-1, 0].softmax(0)
            assert label == ["no", "yes"][int(chances.argmax())]
            assert chance == pytest.approx(float(chances.max()), rel=1e-5)


def test_answers(opened):
    runner, model = opened("questions")
    paragraph, question = "A Dog barks; the cat does not.", "who barks ?"

    def other(n):
        """Letters that the model does not know."""
        return [1] * n + [0] * (5 - n)

    read = [other(1), [1, 3, 4, 0, 0], other(5), other(1), other(3), other(3)]
    spelt = [[*read, [2, 3, 1, 1, 0], [1, 3, 1, 0, 0], other(1)], [[1, 1, 3, 0, 0], other(5), other(1)]]
    words = [[3, 4, 5, 1, 1, 6, 1, 1, 1], [1, 5, 1]]
    texts = [
        Text(torch.tensor(w).unsqueeze(1), torch.tensor(c).unsqueeze(1), torch.tensor([len(w)]))
        for w, c in zip(words, spelt, strict=True)
    ]
    with torch.no_grad():
        best = best_spans(*model(*texts))
    tokens = ["A", "Dog", "barks", ";", "the", "cat", "does", "not", "."]
    wanted = tokens[int(best.first) : int(best.last) + 1]
    assert "".join(runner.answer(paragraph, question).split()) == "".join(wanted)


def run_language(x, lengths=None, batch=1):
    def act(opened):
        runner, _ = opened("language")
        runner.reset(batch)
        runner.run(np.array(x), lengths)

    return act


REFUSED = [
    (run_language([[6]]), r"words has ids from 6 to 6; they must be 0 to 5\."),
    (run_language([[-1]]), r"words has ids from -1 to -1; they must be 0 to 5\."),
    (run_language([[1]], [2]), r"lengths is \[2\]; all must be 1 to 1\."),
    (run_language([[1]], [0]), r"lengths is \[0\]; all must be 1 to 1\."),
    (run_language([[1], [2]], [2, 2]), r"lengths has the shape \(2,\); it must be \(B\)\."),
    (run_language([[1, 2]]), r"x has 2 sequences and the state 1; reset\(2\) begins anew\."),
    (run_language([[1]], batch=0), r"the batch is 0; it must be at least 1\."),
    (
        lambda opened: opened("numbers")[0].run(np.zeros((2, 1, 3))),
        r"x has the shape \(2, 1, 3\); it must be ",
    ),
    (lambda opened: opened("numbers")[0].predict([np.zeros((2, 3))]), r"a series has the shape \(2, 3\)"),
    (lambda opened: opened("tagger")[0].tag(["", "a"]), "there must be a sequence, and a step in each"),
    (
        lambda opened: opened("questions")[0].answer("A dog.", " "),
        "the question is ' '; it needs at least one word",
    ),
    (lambda opened: opened("language")[0].write(temperature=-1), "temperature is -1; it must be at least 0"),
    (run_language([1]), r"words has the shape \(1,\); it must be \(T, B\)"),
    (lambda opened: opened("numbers")[0].run(np.zeros(4)), r"x has the shape \(4,\); it must be \(T, B, I\)"),
    (lambda opened: opened("numbers")[0].run(np.full((2, 1, 4), np.nan)), "numbers that are not finite"),
    (lambda opened: opened("numbers")[0].predict([np.full((2, 2), np.inf)]), "numbers that are not finite"),
    (lambda opened: opened("numbers")[0].write("a"), "this file holds no language model of a text"),
    (lambda opened: opened("numbers")[0].encode("a"), "this file holds no language model of a text"),
    (lambda opened: opened("language")[0].tag(["a dog"]), "this file holds no tagger"),
    (lambda opened: opened("language")[0].predict([np.zeros((2, 2))]), "this file holds no model of series"),
    (lambda opened: opened("tagger")[0].answer("a", "b"), "this file holds no model that answers questions"),
]


@pytest.mark.parametrize(("act", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_what_does_not_fit_is_one_sentence(opened, act, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        act(opened)
    assert "\n" not in str(raised.value)


def test_other_files_are_refused(folder, tmp_path):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(folder[0] / "language.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="is no graph of whole sequences"):
        OnnxModel(str(tmp_path / "m.onnx"))
    (tmp_path / "rows.csv").write_text("id,x\n1,2\n")
    for name in ("rows.csv", "nothing.onnx", "."):
        with pytest.raises(ValueError, match="is no ONNX file that onnxruntime can load"):
            OnnxModel(str(tmp_path / name))
