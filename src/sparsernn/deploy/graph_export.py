"""Models as one graph for other programs: ONNX, or torch's exported program.

The graph is ONE step, with the state as inputs and outputs. It has no time axis, so no length is frozen into it, and
every layer has one: an LSTM, a highway network, a map computed from angles (which is a plain matrix here).
"""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as tree

from sparsernn.contracts import Model
from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.streams import stream
from sparsernn.nn.cells.elman import ElmanCell
from sparsernn.nn.maps import Dense

ONNX_NEEDS = ("onnx", "onnxscript", "onnxruntime")
CHECKED_STEPS, CHECKED_BATCH = (
    4,
    3,
)  # another batch than the one that is traced, and a state that has left its start
LARGEST_BATCH = 4096  # some operations ask for a bound


class OneStep(nn.Module):
    """One step of a model: (input, *state) -> (scores, *state after it).

    Args:
        model: a language model, whose input is words (B,) int64 and whose scores are log-probabilities (B, V), or a
            sequence model, (B, I) -> (B, outputs). It is copied, in evaluation mode; maps are computed once.

    Attributes:
        names: of the inputs: "words" or "x", then "state.0" and so on. Outputs are "log_prob" or "y", "next.0", ...

    Raises:
        InputError: a model that has to see a whole sequence before it says anything.

    Example:
        >>> from sparsernn.models.language_model import LanguageModel
        >>> step = OneStep(LanguageModel(10, 4, [6]))
        >>> log_prob, h, c = step(torch.tensor([3, 7]), *step.start(2))
        >>> log_prob.shape, h.shape
        (torch.Size([2, 10]), torch.Size([2, 6]))
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, Model) or model.reads == "sequences":
            raise InputError(
                f"a {type(model).__name__} reads whole sequences, so it cannot be exported as one step; "
                "language models and sequence models can."
            )
        self.model: Any = _frozen(copy.deepcopy(model).eval())
        self.words = model.reads == "words"
        leaves, self._form = tree.tree_flatten(self.model.initial_state(1))
        self.names = ["words" if self.words else "x", *(f"state.{k}" for k in range(len(leaves)))]
        self.outputs = ["log_prob" if self.words else "y", *(f"next.{k}" for k in range(len(leaves)))]

    def start(self, batch: int) -> list[Tensor]:
        """The state before the first step of `batch` sequences."""
        return [t.detach().clone() for t in tree.tree_leaves(self.model.initial_state(batch))]

    def sample(self, batch: int) -> Tensor:
        """Some input, random."""
        if self.words:
            return torch.randint(self.model.vocabulary_size, (batch,), generator=stream("example words"))
        return torch.randn(batch, self.model.layers.members[0].input_size, generator=stream("example input"))

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        read = self.model(x.unsqueeze(0), tree.tree_unflatten(list(state), self._form))
        top = read.raw[0]
        scores = self.model.head.log_prob(top) if self.words else self.model.read_out(top)
        return (scores, *tree.tree_leaves(read.state))


def _frozen(model: Model) -> Model:
    """Recurrent matrices that are computed from other parameters become plain ones."""
    for cell in [m for m in model.modules() if isinstance(m, ElmanCell)]:
        dense = Dense(cell.hidden_size)
        dense.weight = nn.Parameter(cell.map().detach().clone())
        cell.map = dense
    return model


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        bytes: its size.
        difference: the largest one between the file's outputs and the model's, over some steps of another batch size.
        inputs: name -> shape, B for the batch.
    """

    path: Path
    bytes: int
    difference: float
    inputs: dict[str, tuple[int | str, ...]]


def export(model: nn.Module, path: str | Path, facts: Mapping[str, Json] | None = None) -> Exported:
    """Write one step of a model as a graph, read the file back, and compare.

    Args:
        model: see `OneStep`. Masked weights are stored as the zeros they are.
        path: what it ends in chooses the format: `.onnx` (needs the extra `onnx`), or `.pt2`, which
            `torch.export.load` reads without this library.
        facts: plain data by name that the file is to carry, each as JSON, such as the vocabulary.

    Raises:
        InputError: another ending, a model without a single step, or the packages for ONNX are missing.

    The batch is free in both. The file says how it begins, as JSON: for each state input its values of one sequence,
    in `metadata_props["start"]` of the ONNX model, in the extra file "start" of the other. `facts` are beside it.

    Example:
        >>> import tempfile
        >>> from sparsernn.models.language_model import LanguageModel
        >>> path = Path(tempfile.mkdtemp()) / "model.pt2"
        >>> done = export(LanguageModel(10, 4, [6]), path)
        >>> done.inputs
        {'words': ('B',), 'state.0': ('B', 6), 'state.1': ('B', 6)}
        >>> log_prob, *state = torch.export.load(path).module()(torch.tensor([3]), *[torch.zeros(1, 6)] * 2)
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise InputError(f"{path.name!r} does not end in one of {', '.join(FORMATS)}, the formats there are.")
    write = FORMATS[path.suffix]
    step = OneStep(model)
    inputs = (step.sample(2), *step.start(2))
    batch = torch.export.Dim("B", min=1, max=LARGEST_BATCH)
    shapes = ({0: batch}, tuple({0: batch} for _ in inputs[1:]))
    with torch.no_grad(), _quiet():
        program = torch.export.export(step, inputs, dynamic_shapes=shapes)
    start = dict(zip(step.names[1:], (t[0].tolist() for t in step.start(1)), strict=True))
    told = {name: json.dumps(value) for name, value in {**(facts or {}), "start": start}.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    run = write(program, step, path, told)
    described = {name: ("B", *t.shape[1:]) for name, t in zip(step.names, inputs, strict=True)}
    return Exported(path, path.stat().st_size, _difference(step, run), described)


Runner = Callable[[list[Tensor]], list[Tensor]]


def _write_pt2(
    program: torch.export.ExportedProgram, step: OneStep, path: Path, told: dict[str, str]
) -> Runner:
    torch.export.save(program, path, extra_files=dict(told))
    loaded = torch.export.load(path).module()
    return lambda inputs: list(loaded(*inputs))


def _write_onnx(
    program: torch.export.ExportedProgram, step: OneStep, path: Path, told: dict[str, str]
) -> Runner:
    missing = [name for name in ONNX_NEEDS if find_spec(name) is None]
    if missing:
        raise InputError(
            f"ONNX files need {' and '.join(missing)}: pip install 'sparsernn[onnx]'; a file that ends in .pt2 needs "
            "nothing else."
        )
    import onnxruntime

    with _quiet():
        made = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=step.names, output_names=step.outputs
        )
    assert made is not None
    made.model.metadata_props.update(told)
    made.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs: list[Tensor]) -> list[Tensor]:
        given = {name: t.numpy() for name, t in zip(step.names, inputs, strict=True)}
        return [torch.from_numpy(out) for out in session.run(None, given)]

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not needed, and its warnings about its own calls."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


Writer = Callable[[torch.export.ExportedProgram, OneStep, Path, dict[str, str]], Runner]
FORMATS: dict[str, Writer] = {
    ".onnx": _write_onnx,
    ".pt2": _write_pt2,
}


@torch.no_grad()
def _difference(step: OneStep, run: Runner) -> float:
    """Both from the start, each with its own state."""
    ours, theirs, largest = step.start(CHECKED_BATCH), step.start(CHECKED_BATCH), 0.0
    for _ in range(CHECKED_STEPS):
        x = step.sample(CHECKED_BATCH)
        (wanted, *ours), (found, *theirs) = step(x, *ours), run([x, *theirs])
        pairs = zip((wanted, *ours), (found, *theirs), strict=True)
        largest = max(largest, *(float((a - b).abs().max()) for a, b in pairs))
    return largest
