"""What several tests need: a tiny corpus, a tiny recipe, a quiet run."""

import os
import random
import signal

import pytest
import torch
from hypothesis import settings

from sparsernn import kernels
from sparsernn.kernels import build, triton_language
from sparsernn.nn.drive import loop_choice
from sparsernn.runs.recipe import Recipe

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported

collect_ignore = ["mutants.py", "lines_of_tests.py"]  # programs, which need the extra `mutants`

settings.register_profile("any machine", deadline=None, max_examples=40)  # a busy machine is no failure
settings.load_profile("any machine")

PROSE = """the a cat dog sees hears runs sleeps old young fast slow in on house garden and or then now"""
WORDS = PROSE.split()


def sentence(generator: random.Random) -> str:
    """Words with some order in them, so that a model has something to learn."""
    return " ".join(generator.choice(WORDS[k % 10 :: 2]) for k in range(generator.randint(4, 9)))


@pytest.fixture(autouse=True, scope="session")
def listening():
    """Ctrl-C is heard, also where a shell began the tests in the background and had it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def hasty():
    """Nothing waits for a disk: what is written outlives its process anyhow, and no test pulls the plug."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """A folder with train.txt, valid.txt and test.txt of a few hundred words."""
    folder, generator = tmp_path_factory.mktemp("corpus"), random.Random(0)
    for split, lines in (("train", 120), ("valid", 30), ("test", 30)):
        text = "\n".join(sentence(generator) for _ in range(lines)) + "\n"
        (folder / f"{split}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def tiny_recipe(tiny_corpus):
    """A function settings -> Recipe; a mapping replaces the component of that name."""

    def build(**changes):
        settings = {
            "name": "tiny",
            "seed": 3,
            "epochs": 3,
            "clip": 0.25,
            "log_every": 4,
            "checkpoint_seconds": 3600,  # a save costs more than a step here; tests of saving say 0
            "threads": 1,
            "task": {
                "name": "language_modelling",
                "corpus": {"name": "folder", "path": str(tiny_corpus)},
                "batch_size": 4,
                "eval_batch_size": 2,
                "window": 9,
            },
            "model": {
                "name": "language_model",
                "embedding_size": 8,
                "hidden_sizes": [12, 10],
                "dropout": {"input": 0.2, "hidden": 0.2, "output": 0.2},
            },
            "optimizer": {"name": "snt_asgd", "lr": 5.0, "switch_epoch": 1},
            "sparsity": {"name": "selfish", "density": 0.4, "prune_rate": 0.5},
        }
        return Recipe.from_settings({**settings, **changes})

    return build


@pytest.fixture(params=[*build.VARIANTS, ""])
def compiled(request, monkeypatch):
    """Runs a test on every compiled library that this machine can run, and on the one chosen by default."""
    use_library(request.param, monkeypatch)


@pytest.fixture(params=[*build.VARIANTS, "twin"])
def compiled_or_twin(request, monkeypatch):
    """Runs a test on every compiled library that this machine can run, and on the twins in torch."""
    if request.param == "twin":
        monkeypatch.setenv("SPARSERNN_NO_KERNELS", "1")
    else:
        use_library(request.param, monkeypatch)


def use_library(name, monkeypatch):
    """Let a test run on one of the compiled libraries; "" is the one chosen by default."""
    monkeypatch.delenv("SPARSERNN_NO_KERNELS", raising=False)
    monkeypatch.setenv("SPARSERNN_KERNELS", name)
    if not kernels.available():
        pytest.skip(kernels.describe())


class Interpreted:
    """Triton kernels on the values of the CPU's tensors: by the interpreter, or on a card where there is one.

    Attributes:
        launched: names of the kernels, in the order in which they were launched.
        way: which of the ways to go through a window is taken, where there are several.
    """

    def __init__(self, monkeypatch):
        self.way = 0
        self.launched, launch = [], triton_language.Kernel.launch

        def noted(kernel, *arguments, **constants):
            self.launched.append(kernel.function.__name__)
            if torch.cuda.is_available():
                on_card(launch, kernel, *arguments, **constants)
            else:
                launch(kernel, *arguments, **constants)

        monkeypatch.setattr(triton_language.Kernel, "launch", noted)
        monkeypatch.setenv("SPARSERNN_NO_KERNELS", "1")  # the CPU's own
        monkeypatch.setattr(triton_language, "ready", lambda: True)
        monkeypatch.setattr(triton_language, "takes", self.takes)
        # not by what the interpreter takes
        monkeypatch.setattr(loop_choice, "fastest", lambda kind, steps, ways, device: list(ways)[self.way])

    def takes(self, *tensors):
        """Whatever suits a kernel but lies on the CPU."""
        return all(t.dtype in triton_language.KINDS for t in tensors)


def on_card(launch, kernel, *arguments, **constants):
    """Launch a kernel with copies of tensors on a card, and bring back what it wrote."""
    there = {id(a): a.detach().cuda() for a in arguments if isinstance(a, torch.Tensor)}
    launch(kernel, *(there.get(id(a), a) for a in arguments), **constants)
    for argument in arguments:
        if id(argument) in there:
            argument.data.copy_(there[id(argument)])


@pytest.fixture
def interpreted(monkeypatch):
    """Lets Triton's interpreter, or a card, run the kernels that a CUDA device would run."""
    if not triton_language.installed():
        pytest.skip("no Triton here")
    return Interpreted(monkeypatch)
