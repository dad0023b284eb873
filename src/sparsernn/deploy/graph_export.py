"""Models as one graph for other programs: ONNX, or torch's exported program.

The graph is ONE step, with the state as inputs and outputs: it has no time axis, so no length is frozen into it, and
every layer has one: an LSTM, a highway network, a map computed from angles (which is a plain matrix here). Or it
reads whole sequences of any length and number, taggers and BiDAF among them; see `graphs/`.
"""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as tree

from sparsernn.contracts import Model
from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Between
from sparsernn.core.packages import check_installed
from sparsernn.core.plain import Json
from sparsernn.core.streams import stream
from sparsernn.deploy.graphs.onnx_graph import NEWEST, OLDEST, USUAL, Graph
from sparsernn.deploy.graphs.onnx_models import write_model
from sparsernn.deploy.graphs.whole_sequence import WholeSequence, whole_sequence
from sparsernn.deploy.layer_steps import reads_backwards
from sparsernn.nn.cells.elman import ElmanCell
from sparsernn.nn.maps import Dense

ONNX_NEEDS = {"step": ("onnx", "onnxscript", "onnxruntime"), "sequence": ("onnx", "onnxruntime")}
CHECKED_STEPS, CHECKED_BATCH = 4, 3
"""Another batch than the one that is traced, and a state that has left its start."""
CHECKED_SEQUENCES = ((7, 3), (1, 1))
"""(T, B) at which a graph of whole sequences is compared; neither is the traced one."""
NOT_RUN = (torch.float64, torch.bfloat16)
LARGEST_BATCH = 4096  # some operations ask for a bound
LONGEST = 2**20
"""Steps of a sequence in a .pt2 file, which asks for a bound as well."""
SCANS_FROM = (2, 13)
"""The release of torch whose operator `scan` was found to keep the time free; older ones were not tried."""

Form = Literal["step", "sequence"]
M = TypeVar("M", bound=nn.Module)


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
        if reads_backwards(model):
            raise InputError(
                f"a layer of this {type(model).__name__} reads backwards, so it cannot be exported as one step; take "
                "graph: sequence."
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


def _frozen(model: M) -> M:
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
        difference: the largest one between the file's outputs and the model's, over some steps of another batch size,
            or over ragged batches of other lengths.
        inputs: name -> shape; what is free has a letter: B the batch, T the time.
        outputs: likewise.
    """

    path: Path
    bytes: int
    difference: float
    inputs: dict[str, tuple[int | str, ...]]
    outputs: dict[str, tuple[int | str, ...]]


def export(
    model: nn.Module,
    path: str | Path,
    facts: Mapping[str, Json] | None = None,
    *,
    graph: Form = "step",
    opset: int | None = None,
) -> Exported:
    """Write a model as a graph, read the file back, and compare.

    Args:
        model: see `OneStep`; for whole sequences a tagger or BiDAF as well. Masked weights are stored as the zeros
            they are. An ONNX file of weights of float64 or bfloat16, and any of whole sequences, is in float32.
        path: what it ends in chooses the format: `.onnx` (needs the extra `onnx`), or `.pt2`, which
            `torch.export.load` reads without this library.
        facts: plain data by name that the file is to carry, each as JSON, such as the vocabulary.
        graph: "step", one step of a model that carries a state; or "sequence": ragged batches (T, B, ...) of any T
            and B with `lengths` (B,) of 1 to T, the state in and out where the model carries one. What comes out
            beyond a sequence's end has no meaning.
        opset: of an ONNX file, the version of its operators, 13 to 23; 18 unless given.

    Raises:
        InputError: another ending, a model without such a graph, an opset out of range, or packages that are missing.

    The batch is free in both. The file says how it begins, as JSON: for each state input its values of one sequence,
    in `metadata_props["start"]` of the ONNX model, in the extra file "start" of the other; "graph" says which of the
    two it is. `facts` are beside it.

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
    check_value("graph", graph, Form)
    check_value("opset", opset, Annotated[int, Between(OLDEST, NEWEST)] | None)
    if path.suffix not in FORMATS:
        raise InputError(f"{path.name!r} does not end in one of {', '.join(FORMATS)}, the formats there are.")
    if opset is not None and path.suffix != ".onnx":
        raise InputError(f"opset is {opset}, and {path.name!r} is no ONNX file; leave it out.")
    if path.suffix == ".onnx":
        require_onnx(graph)
    writes = {"step": _export_step, "sequence": export_sequences}
    return writes[graph](model, path, {**(facts or {}), "graph": graph}, opset or USUAL)


def require_onnx(graph: Form) -> None:
    """Raise InputError unless the packages are here that write such a graph."""
    otherwise = "a file that ends in .pt2 needs nothing else"
    check_installed("an ONNX file", *ONNX_NEEDS[graph], install="'sparsernn[onnx]'", instead=otherwise)


def _told(facts: Mapping[str, Json], start: Mapping[str, Json]) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in {**facts, "start": start}.items()}


def _export_step(model: nn.Module, path: Path, facts: Mapping[str, Json], opset: int) -> Exported:
    step = OneStep(_runnable(model) if path.suffix == ".onnx" else copy.deepcopy(model).cpu())
    inputs = (step.sample(2), *step.start(2))
    batch = torch.export.Dim("B", min=1, max=LARGEST_BATCH)
    shapes = ({0: batch}, tuple({0: batch} for _ in inputs[1:]))
    program = _program(step, inputs, shapes)
    told = _told(facts, dict(zip(step.names[1:], (t[0].tolist() for t in step.start(1)), strict=True)))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".onnx":
        _write_step_onnx(program, step, path, told, opset)
    else:
        torch.export.save(program, path, extra_files=told)
    run = FORMATS[path.suffix](path)
    described = {name: ("B", *t.shape[1:]) for name, t in zip(step.names, inputs, strict=True)}
    made = {name: ("B", *t.shape[1:]) for name, t in zip(step.outputs, step(*inputs), strict=True)}
    return Exported(path, path.stat().st_size, difference_of_steps(step, run), described, made)


def _runnable(model: nn.Module) -> nn.Module:
    """A copy whose weights are of a type that onnxruntime has recurrent operators for."""
    copied = copy.deepcopy(model).cpu()
    return copied.float() if any(p.dtype in NOT_RUN for p in copied.parameters()) else copied


def _program(model: nn.Module, inputs: tuple[Tensor, ...], shapes: Json) -> torch.export.ExportedProgram:
    with torch.no_grad(), _quiet():
        return torch.export.export(model, inputs, dynamic_shapes=shapes)


def export_sequences(
    model: nn.Module, path: Path, facts: Mapping[str, Json], opset: int, kind: type[Graph] = Graph
) -> Exported:
    """See `export`; `kind` is that of an ONNX graph."""
    form = whole_sequence(_frozen(copy.deepcopy(model).cpu().float().eval()))
    ids = {one.name: one.below for one in form.inputs if one.below is not None}
    told = _told({**facts, "reads": getattr(form.model, "reads", "sequences"), "ids": ids}, form.start())
    with torch.no_grad():
        if path.suffix == ".onnx":
            written = write_model(form, opset, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            written.write(path, told, type(form.model).__name__)
        else:
            _write_sequence_pt2(form, path, told)
        difference = _difference_of_sequences(form, FORMATS[path.suffix](path))
    inputs, outputs = ({one.name: one.shape for one in side} for side in (form.inputs, form.outputs))
    return Exported(path, path.stat().st_size, difference, inputs, outputs)


def _write_sequence_pt2(form: WholeSequence, path: Path, told: dict[str, str]) -> None:
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if release < SCANS_FROM:
        raise InputError(
            f"whole sequences in a .pt2 file need torch {'.'.join(map(str, SCANS_FROM))} or newer, and this is "
            f"{torch.__version__}; write an .onnx file, or --graph step."
        )
    dims = {
        letter: torch.export.Dim(letter, min=1, max=LARGEST_BATCH if letter == "B" else LONGEST)
        for letter in {letter for one in form.inputs for letter in one.shape if isinstance(letter, str)}
        - {"W"}
    }
    shapes = tuple(
        {axis: dims[letter] for axis, letter in enumerate(one.shape) if letter in dims} for one in form.inputs
    )
    kinds = [p.kind is p.VAR_POSITIONAL for p in signature(form.forward).parameters.values()]
    fixed = kinds.index(True) if True in kinds else len(shapes)
    grouped = (*shapes[:fixed], *([shapes[fixed:]] if True in kinds else []))
    program = _program(form, tuple(form.sample(3, 2)), grouped)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, path, extra_files=told)


Runner = Callable[[Mapping[str, Tensor]], list[Tensor]]


def _run_pt2(path: Path) -> Runner:
    with _quiet():
        loaded = torch.export.load(path).module()
    return lambda inputs: [*tree.tree_leaves(loaded(*inputs.values()))]


def run_onnx(path: Path) -> Runner:
    """An ONNX file as a function: inputs by name -> outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Tensor]) -> list[Tensor]:
        found = session.run(None, {name: t.numpy() for name, t in inputs.items()})
        return [torch.from_numpy(out) for out in found]

    return run


def _write_step_onnx(
    program: torch.export.ExportedProgram, step: OneStep, path: Path, told: dict[str, str], opset: int
) -> None:
    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=step.names,
            output_names=step.outputs,
            opset_version=opset,
        )
    assert made is not None
    made.model.metadata_props.update(told)
    made.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not needed, and its warnings about its own calls."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


FORMATS: dict[str, Callable[[Path], Runner]] = {".onnx": run_onnx, ".pt2": _run_pt2}
"""What a file ends in -> how it is run."""


@torch.no_grad()
def difference_of_steps(step: OneStep, run: Runner) -> float:
    """The largest one of a file's outputs from the model's, both read on from the start, each with its own state."""
    ours, theirs, largest = step.start(CHECKED_BATCH), step.start(CHECKED_BATCH), 0.0
    for _ in range(CHECKED_STEPS):
        x = step.sample(CHECKED_BATCH)
        given = dict(zip(step.names, (x, *theirs), strict=True))
        (wanted, *ours), (found, *theirs) = step(x, *ours), run(given)
        pairs = zip((wanted, *ours), (found, *theirs), strict=True)
        largest = max(largest, *(float((a - b).abs().max()) for a, b in pairs))
    return largest


def _difference_of_sequences(form: WholeSequence, run: Runner) -> float:
    """Of ragged batches in the file from each sequence alone in the model."""
    largest = 0.0
    for steps, batch in CHECKED_SEQUENCES:
        inputs = form.sample(steps, batch)
        found = run(dict(zip((one.name for one in form.inputs), inputs, strict=True)))
        largest = max(largest, form.difference(inputs, found))
    return largest
