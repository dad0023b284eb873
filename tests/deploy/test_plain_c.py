"""Plain C: every layer, structure and rounding, compiled and held against the model; refusals; what sizes say."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsernn.core.errors import InputError
from sparsernn.deploy.plain_c import write_c
from sparsernn.deploy.plain_c.c_functions import curve, gate
from sparsernn.deploy.plain_c.const_tables import BLOCK, VALUES, Matrix, in_steps, literal
from sparsernn.deploy.plain_c.layer_parts import PARTS
from sparsernn.deploy.plain_c.step_program import StepProgram
from sparsernn.models.language_model import LanguageModel
from sparsernn.models.sequence_model import SequenceModel
from sparsernn.models.tagger import Tagger
from sparsernn.nn import LAYERS

CC = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
compiled = pytest.mark.skipif(
    CC is None or shutil.which("make") is None, reason="no C compiler or no make here"
)
STRICT = "-O1 -Werror -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all"
LAYER_SPECS = [
    "lstm",
    "gru",
    "elman",
    {"name": "elman", "nonlinearity": "relu", "input_bias": False},
    {"name": "elman", "nonlinearity": "none"},
    {"name": "elman", "nonlinearity": "modrelu", "map": "orthogonal", "learn_initial_state": True},
    "qrnn",
    {"name": "qrnn", "window": 2, "pooling": "f"},
    {"name": "qrnn", "window": 3, "pooling": "ifo", "zoneout": 0.25},
    {"name": "block_lstm", "blocks": 3, "density": 0.5},
]
STRUCTURES = ("dense", "bits", "csr", "blocks")
DENSITY = {"bits": 0.35, "csr": 0.05, "blocks": 0.3}
SETTINGS = [
    pytest.param(
        layer,
        structure,
        values,
        marks=[]
        if layer == "lstm" or (values, structure) in (("float32", "dense"), ("int8", "bits"))
        else [pytest.mark.slow],
    )
    for layer in LAYER_SPECS
    for structure in (STRUCTURES if layer == "lstm" else ("dense", "bits"))
    for values in VALUES
]
V, E, H, READ, ANSWERS = 33, 18, 37, 5, 3


def a_model(layer, structure="dense", words=False):
    """Small, gates far from linear, Elman layers short of chaos, and masked as the structure says."""
    torch.manual_seed(3)
    gain = (0.7 if "elman" in str(layer) else 2) / DENSITY.get(structure, 1) ** 0.5
    made = (
        LanguageModel(V, E, [H, E], layer=layer, tied=True, dropout={"output": 0.5, "input": 0.5})
        if words
        else SequenceModel(READ, ANSWERS, [H, H - 1], layer=layer, dropout={"hidden": 0.5})
    )
    with torch.no_grad():
        for p in (p for p in made.parameters() if p.ndim > 1):
            p.mul_(gain).mul_(mask(p.shape, structure))
        made.get_parameter("head.bias" if words else "output.bias").uniform_(-1, 1)
        for start in (p for name, p in made.named_parameters() if "start" in name):
            start.uniform_(-1, 1)
    return made.eval()


def mask(shape, structure):
    if structure == "dense":
        return torch.ones(shape)
    rows = -(-shape[0] // BLOCK) if structure == "blocks" else shape[0]
    kept = (torch.rand(rows, *shape[1:]) < DENSITY[structure]).float()
    return kept.repeat_interleave(BLOCK, 0)[: shape[0]] if structure == "blocks" else kept


def check(folder, flags=STRICT, strict=True):
    """`make check` -> exit code and what it printed."""
    done = subprocess.run(
        ["make", "-s", "-C", folder, "check", f"CC={CC}", f"CFLAGS={flags}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


class Compiled:
    """The C of a folder, called from here."""

    def __init__(self, folder, program):
        path = folder / "model.so"
        flags = ["-std=c99", "-O2", "-ffp-contract=off", "-shared", "-fPIC"]
        subprocess.run([CC, *flags, "-o", path, folder / "model.c", "-lm"], check=True)
        self.library, self.program = ctypes.CDLL(str(path)), program
        self.state = np.full(program.ram // 4, np.nan, np.float32)  # whatever lies there before the reset
        self.library.model_reset(self._pointer(self.state))

    @staticmethod
    def _pointer(array):
        return array.ctypes.data_as(ctypes.c_void_p)

    def step(self, x):
        y = np.zeros(self.program.outputs, np.float32)
        read = ctypes.c_int32(int(x)) if self.program.words else self._pointer(np.ascontiguousarray(x))
        self.code = self.library.model_step(self._pointer(self.state), read, self._pointer(y))
        return y


def inputs_of(program, steps=25):
    torch.manual_seed(11)
    return torch.randint(V, (steps,)) if program.words else torch.randn(steps, READ)


def said_by(model, inputs):
    with torch.no_grad():
        raw = model(inputs.unsqueeze(1)).raw[:, 0]
        return (model.head.logits(raw) if isinstance(model, LanguageModel) else model.read_out(raw)).numpy()


@compiled
@pytest.mark.parametrize(("layer", "structure", "values"), SETTINGS, ids=str)
def test_the_check_of_every_layer_passes_under_sanitizers(tmp_path, layer, structure, values):
    words = structure != "dense"
    model = a_model(layer, structure, words)
    done = write_c(model, tmp_path, values=values)
    code, told = check(tmp_path)
    assert code == 0, told
    assert told.startswith("equal: 16 steps"), told
    assert structure in done.layouts.values()


@compiled
@pytest.mark.parametrize("words", [False, True], ids=["samples", "words"])
@pytest.mark.parametrize("layer", LAYER_SPECS, ids=str)
def test_the_compiled_steps_are_the_models_own(tmp_path, layer, words):
    """On other inputs than the golden ones, and without anything that the exporter computes."""
    model = a_model(layer, "bits", words)
    write_c(model, tmp_path)
    program = StepProgram(model, "model")
    device, inputs = Compiled(tmp_path, program), inputs_of(program)
    found = np.stack([device.step(x) for x in inputs.numpy()])
    wanted = said_by(model, inputs)
    assert np.abs(wanted).max() > 0.5
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@compiled
@pytest.mark.parametrize(
    ("layer", "words", "values"),
    [
        *((layer, words, "int8") for layer in LAYER_SPECS for words in (False, True)),
        *((layer, layer == "gru", "int4") for layer in LAYER_SPECS[1:]),
    ],
    ids=str,
)
def test_the_compiled_rounded_steps_are_the_twins_to_the_bit(tmp_path, layer, words, values):
    model = a_model(layer, "bits", words)
    write_c(model, tmp_path, values=values)
    program = StepProgram(model, "model", values=values)
    device, state, inputs = Compiled(tmp_path, program), program.start(), inputs_of(program)
    for x in inputs.numpy():
        np.testing.assert_array_equal(device.step(x), program.twin(state, x))


@pytest.mark.parametrize("layer", LAYER_SPECS, ids=str)
def test_the_twin_is_the_model_of_rounded_weights(layer):
    """What rounding of vectors, the table of tanh and the order of operations add is a tenth of a percent."""
    model = a_model(layer, "bits", words=True)
    program = StepProgram(model, "model", values="int8")
    state, inputs = program.start(), inputs_of(program, 8)
    found = np.stack([program.twin(state, x) for x in inputs.numpy()])
    with torch.no_grad():
        by_name = dict(model.named_parameters())
        for name, p in by_name.items():
            if p.ndim > 1 and "map" not in name:
                matrix = Matrix("w", p, "int8")
                p.copy_(torch.from_numpy(matrix.values.astype(np.float32) * matrix.scale[:, None]))
    structured = isinstance(layer, dict) and "map" in layer  # its matrix is rounded, not its parameters
    np.testing.assert_allclose(found, said_by(model, inputs), atol=0.1 if structured else 5e-3)


@compiled
def test_other_compiler_settings_give_the_same_bits(tmp_path):
    """Where the processor multiplies and adds in one operation, a compiler would use it unless it is told not to."""
    write_c(a_model("lstm"), tmp_path, values="int8")
    for flags in ("-std=gnu11 -O3 -march=native", "-std=gnu11 -O0", "-Os"):
        subprocess.run(f"{CC} {flags} check.c model.c -lm -o other", shell=True, cwd=tmp_path, check=True)
        assert b"equal" in subprocess.run([tmp_path / "other"], capture_output=True, check=True).stdout


@compiled
@pytest.mark.parametrize("values", VALUES)
def test_the_check_sees_one_wrong_weight(tmp_path, values):
    write_c(a_model("gru"), tmp_path, values=values)
    path = tmp_path / "model.c"
    text = path.read_text()
    broken = re.sub(r"(layer1_w_hh\[\d+\] = \{\n)(-?)", r"\g<1>\g<2>1", text, count=1)
    assert broken != text
    path.write_text(broken)
    code, told = check(tmp_path, "-O1")
    assert code != 0
    assert "WRONG" in told


@compiled
@pytest.mark.parametrize("values", VALUES)
def test_a_word_that_is_none_changes_nothing(tmp_path, values):
    model = a_model("lstm", words=True)
    write_c(model, tmp_path, values=values)
    device = Compiled(tmp_path, StepProgram(model, "model", values))
    device.step(V - 1)
    assert device.code == 0
    before = device.state.copy()
    for word in (-1, V, 2**31 - 1, -(2**31)):
        assert not device.step(word).any()
        assert device.code == -1
        np.testing.assert_array_equal(device.state, before)


@compiled
@pytest.mark.parametrize("values", VALUES)
def test_samples_that_are_no_numbers_are_no_undefined_behaviour(tmp_path, values):
    write_c(a_model("lstm"), tmp_path, values=values)
    values = "0.0f/zero, 1.0f/zero, -1.0f/zero, 3e38f, 1e-45f"
    (tmp_path / "check.c").write_text(
        '#include "model.h"\nint main(void)\n{\n    volatile float zero = 0.0f;\n    float y[MODEL_OUTPUTS];\n'
        f"    const float x[MODEL_INPUTS] = {{{values}}};\n    model_state s;\n    model_reset(&s);\n"
        "    model_step(&s, x, y);\n    model_step(&s, x, y);\n    return 0;\n}\n"
    )
    assert check(tmp_path) == (0, "")


@compiled
@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm here to read object files with")
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_sizes_of_the_header_are_those_of_the_object(tmp_path, structure, values):
    done = write_c(a_model("qrnn", structure, words=True), tmp_path, values=values)
    subprocess.run([CC, "-std=c99", "-O0", "-c", "model.c"], cwd=tmp_path, check=True)
    listed = subprocess.run(
        ["nm", "-S", tmp_path / "model.o"], capture_output=True, text=True, check=True
    ).stdout
    tables = re.findall(r"^\S+ (\S+) r (\S+)$", listed, re.M)
    assert sum(int(size, 16) for size, _ in tables) == done.flash
    assert not re.findall(r"^\S+ \S+ [bBdDC] ", listed, re.M), (
        "nothing of a program is kept in RAM but the struct"
    )
    header = (tmp_path / "model.h").read_text()
    assert f"#define MODEL_FLASH_BYTES {done.flash} " in header
    assert f"#define MODEL_RAM_BYTES {done.ram} " in header
    undefined = set(re.findall(r" U (\w+)", listed))
    assert undefined <= ({"tanhf", "expf"} if values == "float32" else set()), (
        "libm alone, rounded not even that"
    )
    (tmp_path / "model.h").write_text(header.replace(f"RAM_BYTES {done.ram} ", f"RAM_BYTES {done.ram + 4} "))
    assert subprocess.run([CC, "-c", "model.c"], cwd=tmp_path, capture_output=True, check=False).returncode


@compiled
def test_the_program_of_the_page_is_the_model(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "plain-c.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```c\n(.*?)```", page, re.S)
    torch.manual_seed(0)
    model = SequenceModel(2, 1, [8]).eval()
    write_c(model, tmp_path, values="int8")
    (tmp_path / "main.c").write_text(program)
    command = [
        CC,
        *["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "main.c", "model.c", "-lm", "-o", "main"],
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    x = torch.tensor([[0.5, -1.0], [2.0, 0.25], [-0.125, 1.0]])
    typed = "\n".join(f"{a} {b}" for a, b in x.tolist())
    printed = subprocess.run(
        [tmp_path / "main"], input=typed, capture_output=True, text=True, check=True
    ).stdout
    np.testing.assert_allclose([float(line) for line in printed.split()], said_by(model, x)[:, 0], atol=0.01)


@pytest.mark.parametrize(
    ("layer", "pre"),
    [
        ("lstm", 4 * 5),
        ("gru", 2 * 3 * 5),
        ({"name": "qrnn", "pooling": "f"}, 2 * 5),
        ({"name": "qrnn", "pooling": "fo"}, 3 * 5),
        ({"name": "qrnn", "pooling": "ifo"}, 4 * 5),
    ],
)
def test_there_is_room_for_what_a_step_works_out_and_no_more(layer, pre):
    assert StepProgram(SequenceModel(3, 2, [5], layer=layer), "model").floats["pre"] == pre


def test_the_smallest_layout_is_taken():
    torch.manual_seed(0)
    for structure in STRUCTURES:
        weight = torch.randn(64, 100) * mask((64, 100), structure)
        for values in ("float32", "int8"):
            assert Matrix("w", weight, values).layout == structure
    assert Matrix("w", torch.zeros(64, 100), values="int8").bytes < 64 * 4 + 64
    assert Matrix("w", torch.ones(4, 100), values="int8").bytes == 400 + 4 * 4


def test_the_same_model_gives_the_same_bytes_and_they_name_no_place(tmp_path):
    tokens = [f"word{k}" for k in range(V)]
    for folder in ("a", "b"):
        write_c(a_model("lstm", words=True), tmp_path / folder, values="int8", vocabulary=tokens)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["Makefile", "check.c", "golden.h", "model.c", "model.h", "model_words.txt"]
    for file in files:
        text = (tmp_path / "a" / file).read_text()
        assert text == (tmp_path / "b" / file).read_text()
        assert str(tmp_path) not in text
        assert not re.search(r"20\d\d-\d\d-\d\d|/home|/tmp", text)


def test_a_token_is_a_line(tmp_path):
    tokens = ["a", "\n", "\\", "\t", "\r", "é", " ", "\\n"]
    write_c(LanguageModel(len(tokens), 4, [4]), tmp_path, name="net", vocabulary=tokens)
    lines = (tmp_path / "net_words.txt").read_text(encoding="utf-8").split("\n")
    assert lines == ["a", "\\n", "\\\\", "\\t", "\\r", "é", " ", "\\\\n", ""]


def test_the_model_stays_as_it_was(tmp_path):
    model = a_model("lstm").double().train()
    write_c(model, tmp_path, values="int8")
    assert model.training
    assert model.output.weight.dtype == torch.float64


def test_layers_are_written_or_refused():
    written = {"block_lstm", "elman", "gru", "lstm", "qrnn"}
    for name, kind in LAYERS.items():
        model = SequenceModel(
            4, 2, [4], layer={"name": name, **({"chunk_size": 2} if name == "onlstm" else {})}
        )
        if name in written:
            StepProgram(model, "model")
        else:
            with pytest.raises(
                InputError, match=f"layer 0 is of the kind {kind.__name__}, which cannot be written"
            ):
                StepProgram(model, "model")
    assert len(PARTS) == len(written)


REFUSED = {
    "Tagger reads whole sequences": lambda: Tagger(9, 3, 4, 5),
    "a Linear reads whole sequences": lambda: torch.nn.Linear(2, 2),
    "the model has a MixtureHead, which": lambda: LanguageModel(9, 4, [4], head="mixture"),
    "the model has a SplitHead, which": lambda: LanguageModel(9, 4, [4], head="split"),
    "the model has a BlockEmbedding, which": lambda: LanguageModel(
        9, 4, [4], embedding={"name": "block", "blocks": 2}
    ),
    "layer 1 has bidirectional: true": lambda: SequenceModel(
        4, 2, [4, 8], layer=["lstm", {"name": "block_lstm", "bidirectional": True}]
    ),
    "layer 0 has reverse: true": lambda: SequenceModel(4, 2, [4], layer={"name": "qrnn", "reverse": True}),
    "layer 0 has batch_first: true": lambda: SequenceModel(
        4, 2, [4], layer={"name": "elman", "batch_first": True}
    ),
    "'head' has numbers that are not finite": lambda: spoilt("output.weight"),
    "'layer0_bias' has numbers that are not finite": lambda: spoilt("layers.0.bias_hh"),
}


def spoilt(name):
    model = a_model("lstm")
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] = float("nan")
    return model


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path, sentence):
    with pytest.raises(InputError, match=sentence):
        write_c(REFUSED[sentence](), tmp_path / "c")
    assert not list(tmp_path.iterdir())


def test_what_no_small_device_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsernn.deploy.plain_c.step_program.LARGEST_TABLES", 1000)
    with pytest.raises(
        InputError, match=r"weights take \d+ bytes, which is no small device; plain C is for 1000"
    ):
        write_c(a_model("lstm"), tmp_path / "c")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["Model", "1st", "a-b", "", "check", "golden", "math", "stdio", "a b", "../a"]
)
def test_a_name_is_one_of_c(tmp_path, name):
    with pytest.raises(InputError, match="the name is"):
        write_c(a_model("lstm"), tmp_path / "c", name=name)
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "c").write_text("")
    with pytest.raises(InputError, match="is a file; plain C is written to a folder"):
        write_c(a_model("lstm"), tmp_path / "c")


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_numbers_read_back_to_the_bit(value):
    text = literal(value)
    assert text.endswith("f")
    assert re.search(r"[.e]", text)
    assert np.float32(text.removesuffix("f")).tobytes() == np.float32(value).tobytes()


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), st.integers(1, 32767))
def test_vectors_are_rounded_to_the_nearest_step(values, steps):
    x = np.array(values, np.float32)
    q, unit = in_steps(x, steps)
    assert np.abs(q).max() <= steps
    # half a step, and what float32 loses of a quotient of that size: its unit and the quotient are each rounded
    assert np.abs(q * float(unit) - x).max() <= float(unit) * (0.5 + steps * 2.0**-22) + 1e-30


@compiled
@pytest.mark.parametrize("structure", STRUCTURES)
def test_nibbles_of_several_groups_are_multiplied_to_the_bit(tmp_path, structure):
    """Wider than a group of 64 columns, with a last group that is not full and factors far below the usual."""
    torch.manual_seed(5)
    model = LanguageModel(20, 150, [150], tied=True)
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.ndim > 1):
            p.mul_(mask(p.shape, structure)).mul_(torch.tensor([1.0, 1e-4, 30.0]).repeat_interleave(64)[:150])
    done = write_c(model, tmp_path, values="int4")
    assert structure in done.layouts.values()
    program = StepProgram(model, "model", values="int4")
    device, state = Compiled(tmp_path, program), program.start()
    for word in torch.randint(20, (12,)).numpy():
        np.testing.assert_array_equal(device.step(word), program.twin(state, word))


def test_no_sum_leaves_32_bits():
    for columns in (1, 100, 516, 517, 1500, 60000):
        matrix = Matrix("w", torch.ones(1, columns), values="int8")
        q, _ = in_steps(np.ones(columns, np.float32), matrix.steps)
        assert int(matrix.values[0].astype(np.int64) @ q) <= 2**31 - 1
        assert matrix.steps >= 281


def test_the_table_is_tanh():
    x = np.linspace(-12, 12, 10_001, dtype=np.float32)
    assert np.abs(curve(x) - np.tanh(x)).max() < 1e-4
    assert np.abs(gate(x) - 1 / (1 + np.exp(-x))).max() < 6e-5
    assert (np.diff(curve(x)) >= 0).all()
    assert curve(x).dtype == gate(x).dtype == np.float32
