"""What a model costs per token or time step: every way to compute it in turns, beside the best dense one."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles
from typing import Annotated

import torch
from torch import Tensor, nn

from sparsernn.core.checks import check_value
from sparsernn.core.devices import CPU, wait_for
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Entries, Size
from sparsernn.core.plain import Json
from sparsernn.core.streams import stream
from sparsernn.deploy.autotune import candidates as formats_for
from sparsernn.deploy.compiled_runtime import StepRuntime
from sparsernn.deploy.onnx_stream import OnnxRuntime
from sparsernn.deploy.runtime import AnyRuntime, own_forward, runtime
from sparsernn.deploy.token_stream import Reader, Stream
from sparsernn.deploy.vector_stream import VectorStream

Candidate = nn.Module | AnyRuntime | OnnxRuntime


def measure_latency(
    candidates: Candidate | Mapping[str, Candidate],
    batch: int = 1,
    *,
    repeats: Size = 9,
    tokens: Size = 4,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    window: Size | None = None,
) -> list[dict[str, Json]]:
    """Milliseconds per token or time step of all `batch` sequences, with what is said to it.

    Candidates take turns, so that a busy moment of the machine hits all of them; each reads the same; a first round
    is not counted.

    Args:
        candidates: a model or runtime, or several by name; all of words or all of vectors.
        batch: sequences read at once.
        repeats: timed rounds.
        tokens: calls per round and candidate.
        seed: of the words or vectors.
        clock: seconds; `time.thread_time` leaves out the times when other programs had the processor, and is right
            only for work on one thread.
        window: time steps of a call; None: one step at a time. Taggers need one, their sentences' length.

    Returns:
        One row per candidate: {"runtime": name, "batch", "ms_per_token": median of all calls, "spread_ms": their
        first and third quartile, "fastest_ms": the fastest, "repeats"}, and "window" where there is one; a call's
        time is divided by its steps.

    Raises:
        InputError: numbers below 1, candidates of words and of vectors, or a tagger without a window.

    Example:
        >>> from sparsernn.models.language_model import LanguageModel
        >>> rows = measure_latency(LanguageModel(10, 4, [6]), repeats=3)
        >>> rows[0]["runtime"], rows[0]["ms_per_token"] > 0
        ('model', True)
    """
    if not isinstance(candidates, Mapping):
        candidates = {"model": candidates}
    check_value("repeats", repeats, Size)
    check_value("tokens", tokens, Size)
    check_value("window", window, Size | None)
    check_value("candidates", candidates, Annotated[Mapping[str, object], Entries(1)])
    readers = {name: _reader(candidate, batch) for name, candidate in candidates.items()}
    given = _given(list(readers.values()), tokens * (window or 1), seed)
    calls = {
        name: [_call(reader, window, part) for part in torch.split(x, window or 1)]
        for (name, reader), x in zip(readers.items(), given, strict=True)
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, own in calls.items():
            times[name] += [_milliseconds(call, clock) / (window or 1) for call in own]
    extra = {} if window is None else {"window": window}
    return [{**_row(name, batch, steps[tokens:], repeats), **extra} for name, steps in times.items()]


def _reader(candidate: Candidate, batch: int) -> Reader:
    ready = own_forward(candidate) if isinstance(candidate, nn.Module) else candidate
    return ready.reader(batch)


def _given(readers: Sequence[Reader], steps: int, seed: int) -> list[Tensor]:
    """What each of them reads: the same ids, which all know, or vectors, alike where they are equally long."""
    kinds = sorted({reader.kind for reader in readers})
    if len(kinds) > 1:
        raise InputError(f"the candidates read {' and '.join(kinds)}; a comparison is of one of these.")
    sizes = [reader.size for reader in readers]
    taken = sizes if kinds == ["vectors"] else [min(sizes)] * len(sizes)
    drawn = {
        size: readers[sizes.index(size)].examples(steps, stream("measurement", seed)) for size in set(taken)
    }
    return [drawn[size] for size in taken]


def _call(reader: Reader, window: int | None, part: Tensor) -> Callable[[], object]:
    """What is timed: a step, or a window, of (1 or T, B, ...)."""
    if window is not None:
        return partial(reader.read, part)
    if isinstance(reader, Stream):
        return partial(reader.step, part[0].tolist())
    if isinstance(reader, VectorStream):
        return partial(reader.step, part[0])
    raise InputError("a tagger reads whole sentences: say how many words a window has.")


def _milliseconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    said = call()
    if isinstance(said, Tensor):
        wait_for(said.device)
    return (clock() - start) * 1e3


def _row(name: str, batch: int, steps: list[float], repeats: int) -> dict[str, Json]:
    first, _, third = quantiles(steps, n=4, method="inclusive") if len(steps) > 1 else [steps[0]] * 3
    times = {"ms_per_token": median(steps), "spread_ms": [first, third], "fastest_ms": min(steps)}
    return {"runtime": name, "batch": batch, **times, "repeats": repeats}


DENSE = ("dense", "dense_int8")
EXACT_DENSE = ("torch", "onnxruntime", "dense")
SPARSE = ("csr", "csr_int8", "block16", "block16_int8")


@dataclass(frozen=True)
class Entrant:
    """A model in a comparison.

    Attributes:
        model: a language model, a sequence model or a tagger.
        masks: parameter name -> bool tensor.
        onnx: the model as a graph, which gets the row "onnxruntime".
        device: an accelerator that a copy of the model is tried on as well, in the row "torch on DEVICE".
    """

    model: nn.Module
    masks: Mapping[str, Tensor] | None = None
    onnx: OnnxRuntime | None = None
    device: torch.device = CPU

    def forms(self) -> tuple[str, ...]:
        """Names of the formats that can gain something: those of blocks where a matrix is masked in blocks."""
        masks = self.masks or {}
        matrices = [(p, masks.get(name)) for name, p in self.model.named_parameters() if p.ndim == 2]
        in_blocks = any("block16" in formats_for(p.detach(), mask, False) for p, mask in matrices)
        return (*DENSE, *SPARSE) if in_blocks else (*DENSE, *SPARSE[:2])

    def candidates(
        self, products: Sequence[str] | None, threads: int | None, batch: int
    ) -> dict[str, Candidate]:
        """Every way to run it, by name: "torch", each of `products` where it is compiled, "onnxruntime"."""
        ready = {
            name: runtime(self.model, self.masks, products=name, threads=threads, batch=batch)
            for name in (self.forms() if products is None else products)
        }
        ours = {name: made for name, made in ready.items() if isinstance(made, StepRuntime)}
        graph = {} if self.onnx is None else {"onnxruntime": self.onnx}
        return {"torch": own_forward(self.model), **ours, **graph, **self._elsewhere()}

    def _elsewhere(self) -> dict[str, Candidate]:
        if self.device == CPU:
            return {}
        return {f"torch on {self.device}": own_forward(copy.deepcopy(self.model).to(self.device))}

    def bytes(self, candidate: Candidate) -> int:
        """Memory of the weights of a way to run it."""
        if isinstance(candidate, StepRuntime | OnnxRuntime):
            return candidate.bytes
        return sum(p.numel() * p.element_size() for p in self.model.parameters())


def compare(
    model: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    batch: int = 1,
    *,
    products: Sequence[str] | None = None,
    threads: int | None = None,
    repeats: int = 9,
    onnx: OnnxRuntime | None = None,
    window: int | None = None,
) -> list[dict[str, Json]]:
    """`measure_latency` of a model's own forward pass ("torch") and of our runtime with each of `products`.

    The rows also carry `ratio`: the time of the fastest exact dense form (torch, onnxruntime or ours) divided by this
    one's, above 1 where this one is faster; and `bytes`, the memory of the weights. A model that is not compiled (see
    `runtime`) gets no rows of ours.

    Args:
        model: a language model, a sequence model or a tagger.
        masks: parameter name -> bool tensor.
        batch: sequences read at once, 1 to 16.
        products: names of formats, or "auto"; None: both dense ones and csr, and both of blocks where a matrix has
            its zeros in blocks.
        threads: of our runtime (None: measured); torch's own number is not touched.
        repeats: timed rounds.
        onnx: the model as a graph, which gets the row "onnxruntime".
        window: see `measure_latency`.
    """
    own = [Entrant(model, masks, onnx)]
    (rows,) = compare_all(own, batch, products=products, threads=threads, repeats=repeats, window=window)
    return rows


def compare_all(
    entrants: Sequence[Entrant],
    batch: int = 1,
    *,
    products: Sequence[str] | None = None,
    threads: int | None = None,
    repeats: int = 9,
    window: int | None = None,
) -> list[list[dict[str, Json]]]:
    """The rows of `compare` for each of several models, all of whose ways took turns with each other.

    Example:
        >>> from sparsernn.models.sequence_model import SequenceModel
        >>> models = [Entrant(SequenceModel(3, 2, [5])), Entrant(SequenceModel(3, 2, [4]))]
        >>> [[row["runtime"] for row in rows] for rows in compare_all(models, products=("dense",), repeats=1)]
        [['torch', 'dense'], ['torch', 'dense']]
    """
    each = [entrant.candidates(products, threads, batch) for entrant in entrants]
    together = {f"{k} {name}": one for k, ways in enumerate(each) for name, one in ways.items()}
    measured = iter(measure_latency(together, batch, repeats=repeats, window=window))
    found = []
    for entrant, ways in zip(entrants, each, strict=True):
        rows = [{**next(measured), "runtime": name} for name in ways]
        dense = min(row["ms_per_token"] for row in rows if row["runtime"] in EXACT_DENSE)
        held = [entrant.bytes(one) for one in ways.values()]
        found.append(
            [
                {**row, "ratio": dense / row["ms_per_token"], "bytes": size}
                for row, size in zip(rows, held, strict=True)
            ]
        )
    return found


def gain(rows: Sequence[Mapping[str, Json]]) -> str:
    """One sentence on the rows of one batch: what the fastest way gains on the fastest exact dense one.

    It is a gain where three quarters of its steps are faster than three quarters of the other's.

    Example:
        >>> row = {"batch": 1, "ms_per_token": 2.0, "spread_ms": [1.9, 2.1]}
        >>> other = {"batch": 1, "ms_per_token": 1.0, "spread_ms": [0.9, 1.1]}
        >>> gain([{**row, "runtime": "torch"}, {**other, "runtime": "csr"}])
        'batch 1: csr takes 0.50 of the time of torch, the fastest exact dense way.'
        >>> gain([{**row, "runtime": "torch"}, {**row, "runtime": "csr"}])
        'batch 1: no gain at this size; torch, exact and dense, is not beaten by more than chance.'
    """
    dense = min((row for row in rows if row["runtime"] in EXACT_DENSE), key=lambda row: row["ms_per_token"])
    best = min(rows, key=lambda row: row["ms_per_token"])
    batch, name = f"batch {best['batch']}", dense["runtime"]
    if best is dense or best["spread_ms"][1] >= dense["spread_ms"][0]:
        return f"{batch}: no gain at this size; {name}, exact and dense, is not beaten by more than chance."
    share = best["ms_per_token"] / dense["ms_per_token"]
    return f"{batch}: {best['runtime']} takes {share:.2f} of the time of {name}, the fastest exact dense way."
