"""What a model costs per token: time, products, bytes; always beside the best dense form of that model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from sparsernn.core.checks import check_value
from sparsernn.core.limits import Entries, Size
from sparsernn.core.plain import Json
from sparsernn.core.streams import stream
from sparsernn.deploy.compiled_runtime import CompiledRuntime
from sparsernn.deploy.onnx_stream import OnnxRuntime
from sparsernn.deploy.runtime import runtime
from sparsernn.deploy.token_stream import ModuleRuntime, Stream
from sparsernn.nn.blocks.block_embedding import BlockEmbedding
from sparsernn.nn.words.characters import CharacterCNN
from sparsernn.nn.words.heads import Head
from sparsernn.nn.words.word_embedding import Embedding
from sparsernn.nn.words.word_table import WordTable

Candidate = nn.Module | CompiledRuntime | ModuleRuntime | OnnxRuntime


def measure_latency(
    candidates: Candidate | Mapping[str, Candidate],
    batch: int = 1,
    *,
    repeats: Size = 9,
    tokens: Size = 4,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Json]]:
    """Milliseconds per token (one step of all `batch` texts), head included.

    Candidates take turns, so that a busy moment of the machine hits all of them; each reads the same words;
    a first round is not counted.

    Args:
        candidates: a model or runtime, or several by name.
        batch: texts read at once.
        repeats: timed rounds.
        tokens: steps per round and candidate.
        seed: of the words.
        clock: seconds; `time.thread_time` leaves out the times when other programs had the processor, and is right
            only for work on one thread.

    Returns:
        One row per candidate: {"runtime": name, "batch", "ms_per_token": median of all steps, "spread_ms": their
        first and third quartile, "fastest_ms": the fastest step, "repeats"}.

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
    check_value("candidates", candidates, Annotated[Mapping[str, object], Entries(1)])
    streams = {name: _stream(candidate, batch) for name, candidate in candidates.items()}
    generator = stream("measurement", seed)
    size = min(s.vocabulary_size for s in streams.values())
    words = torch.randint(size, (tokens, batch), generator=generator).tolist()
    times: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(repeats + 1):
        for name, tried in streams.items():
            times[name] += [_milliseconds(tried, row, clock) for row in words]
    return [_row(name, batch, steps[tokens:], repeats) for name, steps in times.items()]


def _stream(candidate: Candidate, batch: int) -> Stream:
    ready = ModuleRuntime(candidate) if isinstance(candidate, nn.Module) else candidate
    return ready.stream(batch)


def _milliseconds(stream: Stream, words: list[int], clock: Callable[[], float]) -> float:
    start = clock()
    stream.step(words)
    return (clock() - start) * 1e3


def _row(name: str, batch: int, steps: list[float], repeats: int) -> dict[str, Json]:
    first, _, third = quantiles(steps, n=4, method="inclusive") if len(steps) > 1 else [steps[0]] * 3
    times = {"ms_per_token": median(steps), "spread_ms": [first, third], "fastest_ms": min(steps)}
    return {"runtime": name, "batch": batch, **times, "repeats": repeats}


DENSE = ("dense", "dense_int8")
EXACT_DENSE = ("torch", "onnxruntime", "dense")
SPARSE = ("csr", "csr_int8", "block16", "block16_int8")


def compare(
    model: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    batch: int = 1,
    *,
    products: tuple[str, ...] = (*DENSE, "csr", "csr_int8"),
    threads: int | None = None,
    repeats: int = 9,
    onnx: OnnxRuntime | None = None,
) -> list[dict[str, Json]]:
    """`measure_latency` of a model's own forward pass ("torch") and of our runtime with each of `products`.

    The rows also carry `ratio`: the time of the fastest exact dense form (torch, onnxruntime or ours) divided by this
    one's, above 1 where this one is faster; and `bytes`, the memory of the weights. A model that is not compiled (see
    `runtime`) gets no rows of ours.

    Args:
        model: a language model.
        masks: parameter name -> bool tensor.
        batch: texts read at once, 1 to 16.
        products: names of formats, or "auto".
        threads: of our runtime (None: measured); torch's own number is not touched.
        repeats: timed rounds.
        onnx: the model as a graph, which gets the row "onnxruntime".
    """
    candidates: dict[str, Candidate] = {"torch": ModuleRuntime(model)}
    held = {"torch": sum(p.numel() * p.element_size() for p in model.parameters())}
    for product in products:
        ready = runtime(model, masks, products=product, threads=threads, batch=batch)
        if isinstance(ready, CompiledRuntime):
            candidates[product], held[product] = ready, ready.bytes
    if onnx is not None:
        candidates["onnxruntime"], held["onnxruntime"] = onnx, onnx.bytes
    rows = measure_latency(candidates, batch, repeats=repeats)
    dense = min(row["ms_per_token"] for row in rows if row["runtime"] in EXACT_DENSE)
    return [{**row, "ratio": dense / row["ms_per_token"], "bytes": held[row["runtime"]]} for row in rows]


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


LOOKED_UP: dict[type[nn.Module], str] = {
    BlockEmbedding: "",
    CharacterCNN: "embedding",
    Embedding: "",
    WordTable: "",
    nn.Embedding: "",
    nn.EmbeddingBag: "",
}
"""Modules that look rows up, and which of their own tensors: one by name, or "" for all."""


def macs_per_token(model: nn.Module | Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None) -> int:
    """Multiply-accumulates that one token takes: every kept weight of every matrix once.

    An embedding is looked up, not multiplied: 0; with tied weights it counts once, as the head. In a model that is
    decided by what its modules are (see `LOOKED_UP`), whatever their names; tensors alone have nothing but names, and
    those with a part "embedding" are taken for one. A weight that a torch parametrization computes counts once, with
    the shape it has. The head counts in full (no sampled or split softmax). Biases and pointwise parts are left out.
    Matrices that a cell applies several times per token (recurrent highway layers) count once. FLOPs are twice this
    number.

    Args:
        model: a model or its tensors by name.
        masks: parameter name -> bool tensor; {} or None: everything is dense.

    Example:
        >>> from sparsernn.models.language_model import LanguageModel
        >>> macs_per_token(LanguageModel(100, 10, [20]))   # 4 x 20 x (10 + 20) + 100 x 20
        4400
        >>> macs_per_token(nn.ModuleDict({"table": nn.Embedding(100, 10), "rnn": nn.RNN(10, 20)}))   # 20 x (10 + 20)
        600
    """
    state = model.state_dict(keep_vars=True) if isinstance(model, nn.Module) else model
    matrices = _matrices_of(model) if isinstance(model, nn.Module) else _matrices_in(model)
    masks = _by_first_name(state, masks or {})
    return sum(int(masks[name].sum()) if name in masks else size for name, size in matrices.items())


def _matrices_in(state: Mapping[str, Tensor]) -> dict[str, int]:
    """First name -> size of each distinct matrix that is multiplied, as far as names tell."""
    first = _distinct(state)
    tables = {name for name in first if "embedding" in name.split(".")}
    tied = bool(tables) and "head.weight" not in first and "head.bias" in state
    return {name: size for name, size in first.items() if tied or name not in tables}


def _matrices_of(model: nn.Module) -> dict[str, int]:
    """The same by the types of the modules that hold the matrices."""
    state = dict(model.state_dict(keep_vars=True))
    computed: dict[str, int] = {}
    for path, module in model.named_modules():
        dot = f"{path}." if path else ""
        for name in module.parametrizations if is_parametrized(module) else ():
            inner = f"{dot}parametrizations.{name}."
            parts = [part for part in state if part.startswith(inner)]
            if (weight := getattr(module, name)).ndim > 1:  # known by the part that a mask would be put on
                computed[next((p for p in parts if state[p].shape == weight.shape), inner)] = weight.numel()
            state = {part: tensor for part, tensor in state.items() if part not in parts}
    pruned = {f"{name.removesuffix('_orig')}_mask" for name in state if name.endswith("_orig")}
    kept = {name: tensor for name, tensor in state.items() if name not in pruned}
    tables = _tables(model)
    multiplied = {n: size for n, size in _distinct(kept).items() if _place(kept[n]) not in tables}
    return multiplied | computed


def _tables(model: nn.Module) -> set[int]:
    """Places of the matrices that are only looked up; one that another module holds too is multiplied by it."""
    decoding = {id(part) for head in model.modules() if isinstance(head, Head) for part in head.children()}
    looked_up, read = set[int](), set[int]()
    for module in model.modules():
        which = next((own for kind, own in LOOKED_UP.items() if isinstance(module, kind)), None)
        alone = which is not None and id(module) not in decoding
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            (looked_up if alone and which in ("", name) else read).add(_place(tensor))
    return looked_up - read


def _by_first_name(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks, those of tied weights under their first name whichever one they were given for."""
    first: dict[int, str] = {}
    for name, tensor in state.items():
        if isinstance(tensor, Tensor):
            first.setdefault(_place(tensor), name)
    return {first[_place(state[name])] if name in state else name: mask for name, mask in masks.items()}


def _distinct(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Sizes of the distinct matrices by first name."""
    first: dict[int, str] = {}
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and tensor.ndim > 1:  # and no module's extra state
            first.setdefault(_place(tensor), name)
    return {name: state[name].numel() for name in first.values()}


def _place(tensor: Tensor) -> int:
    """One number for all views of a weight (on the meta device there is no address, but one object)."""
    return tensor.data_ptr() or id(tensor)


def sizes(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Bytes of a model's tensors: dense float32, packed with float32 values, and packed with 8-bit values.

    What `pack` writes is this and a header of one to a few KB. Tied weights count once.

    Example:
        >>> weight = torch.eye(64)
        >>> sizes({"w": weight}, {"w": weight.bool()})
        {'dense_bytes': 16384, 'packed_bytes': 768, 'packed_int8_bytes': 832}
    """
    tensors = [(name, t) for name, t in state.items() if isinstance(t, Tensor)]  # no module's extra state
    distinct = {_place(t) if t.ndim > 1 else name: name for name, t in reversed(tensors)}
    masks = {**masks, **_by_first_name(state, masks)}
    total = dict.fromkeys(("dense_bytes", "packed_bytes", "packed_int8_bytes"), 0)
    for name in distinct.values():
        for key, size in zip(total, _bytes(state[name], masks.get(name)), strict=True):
            total[key] += size
    return total


def _bytes(tensor: Tensor, mask: Tensor | None) -> tuple[int, int, int]:
    dense = 4 * tensor.numel()
    if mask is None:
        return dense, dense, dense
    kept, bits = int(mask.sum()), (tensor.numel() + 7) // 8
    int8 = kept + 4 * tensor.shape[0] if tensor.ndim > 1 else 4 * kept
    return dense, bits + 4 * kept, bits + int8
