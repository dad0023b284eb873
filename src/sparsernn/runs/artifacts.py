"""What is made of a trained run: text, a packed model, and its measured size and speed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from torch import Tensor, nn

from sparsernn.core.devices import CPU
from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.streams import stream
from sparsernn.data.text_corpus import Corpus
from sparsernn.data.text_styles import style_of
from sparsernn.data.vocabulary import EOS
from sparsernn.deploy import gain, macs_per_token, measure_latency, pack, sizes
from sparsernn.deploy.graph_export import ONNX_NEEDS, Exported, Form, export
from sparsernn.deploy.latency import Entrant, compare_all
from sparsernn.deploy.layer_steps import reads_backwards
from sparsernn.deploy.onnx_stream import OnnxRuntime
from sparsernn.deploy.plain_c import WrittenC, write_c
from sparsernn.models.bidaf import BiDAF
from sparsernn.models.language_model import LanguageModel
from sparsernn.models.tagger import Tagger
from sparsernn.models.text_sampler import sample
from sparsernn.runs.checkpoint import load_checkpoint
from sparsernn.runs.run import BEST, LAST, Run, check_best, weights
from sparsernn.sparsity import Topology, random_masks, topology_distance
from sparsernn.tasks import NumericSeries
from sparsernn.tasks.encoded_questions import Found
from sparsernn.tasks.question_answering import QuestionAnswering

PACKED = "packed.safetensors"
PREDICTIONS = "predictions.json"
SENTENCE = 20
"""Words of the sentences that taggers are timed with."""
SERIES_FACTS = ("goal", "horizon", "per", "scaling", "read")
"""Of `Task.info` of numeric series: how a file's columns become inputs, and answers numbers in the target's unit."""


def reads_tokens(run: Run) -> bool:
    """Whether the run's model reads one token after the other, so that a token has a latency."""
    return run.model.reads == "words"


def has_latency(run: Run) -> bool:
    """Whether a time step has a latency: of words or vectors one after the other, or in sentences that are tagged."""
    return isinstance(run.model, Tagger) or (
        run.model.reads != "sequences" and not reads_backwards(run.model)
    )


def writes_text(run: Run) -> bool:
    """Whether the run's model can write: it reads tokens, and its task has the text they come from."""
    return reads_tokens(run) and run.task.corpus is not None


def answers_questions(run: Run) -> bool:
    """Whether the run's task asks for spans of paragraphs."""
    return isinstance(run.task, QuestionAnswering)


def _questions_of(run: Run) -> QuestionAnswering:
    """The run's task, if it is one of questions."""
    task: object = run.task
    if not isinstance(task, QuestionAnswering):
        raise InputError(f"{run.home} trains for {type(task).__name__}, which answers no questions.")
    return task


def answer(run: Run, paragraph: str, question: str) -> Found:
    """The answer of the weights that are in the run's model: text, place and probability.

    Raises:
        InputError: the run answers no questions, or a text without a word.
    """
    return _questions_of(run).answer(cast(BiDAF, run.model), paragraph, question)


def write_predictions(run: Run, split: str = "test") -> Path:
    """Write the answers to a split, {question id: answer}, as the evaluation script of SQuAD 1.1 reads them."""
    run.require_data("answering a split")
    path = run.home / PREDICTIONS
    path.write_text(
        json.dumps(_questions_of(run).predictions(cast(BiDAF, run.model), split), indent=1), encoding="utf-8"
    )
    return path


def require(can: bool, run: Run, what: str, needed: str = "a language model") -> None:
    """Raise InputError unless the run can do `what` ("writing text"), which takes a model of the kind `needed`."""
    if not can:
        model, task = type(run.model).__name__, type(run.task).__name__
        raise InputError(f"{what} needs {needed}, but {run.home} trains a {model} for {task}.")


def generate(run: Run, prompt: str = "", tokens: int = 100, temperature: float = 0.8, seed: int = 1) -> str:
    """Text from the weights that are in the run's model.

    Args:
        run: of a language model.
        prompt: how the text begins; cut into tokens as the training text was.
        tokens: how many tokens to write, >= 1.
        temperature: see `models.generate.sample`.
        seed: of the draws.

    Returns:
        The prompt and what the model makes of it, readable.

    Raises:
        InputError: no language model, a prompt with a token that the vocabulary lacks, or a temperature below 0.
    """
    require(writes_text(run), run, "writing text")
    corpus = cast(Corpus, run.task.corpus)
    style, vocabulary = style_of(corpus.info), corpus.vocabulary
    given = style.prompt(prompt)
    start = vocabulary.encode(given or [EOS if EOS in vocabulary else vocabulary.tokens[0]]).tolist()
    generator = stream("generation", seed)
    drawn = sample(cast(LanguageModel, run.model), start, generator, temperature, avoid=vocabulary.unknown)
    return style.text([*given, *vocabulary.decode(list(islice(drawn, tokens)))]).strip()


def unknown_words(run: Run, prompt: str) -> list[str]:
    """The tokens of a prompt that the run's vocabulary lacks, and that its model reads as `<unk>`.

    Raises:
        InputError: no language model.
    """
    require(writes_text(run), run, "writing text")
    corpus = cast(Corpus, run.task.corpus)
    return [
        token
        for token in dict.fromkeys(style_of(corpus.info).prompt(prompt))
        if token not in corpus.vocabulary
    ]


def pack_run(run: Run, path: Path, values: str = "float32") -> int:
    """Write the weights that are in the run's model as a packed file; returns its size in bytes.

    Args:
        run: whose model holds the weights to keep (`take_best` puts the best ones there).
        path: the file.
        values: "float32", or "int8" or "int4" for a quarter or an eighth of the bytes per kept weight.

    The hashes of the task's vocabularies are in the file: of the one called "vocabulary" as that of the model, of
    all by name under "vocabularies" in the recipe. The recipe also has the model with the `sizes` that the data
    give it, and what `graph_facts` says, so that a reader of the file alone can compute it and feed it.
    """
    hashes = {name: vocabulary.sha256() for name, vocabulary in run.task.vocabularies.items()}
    facts = {"model": run.recipe.model, "sizes": run.task.sizes, "vocabularies": hashes}
    recipe = {"name": run.recipe.name, **facts, **graph_facts(run)}
    own = hashes.get("vocabulary", "")
    return pack(weights(run.model), present(run), path, values=values, recipe=recipe, vocabulary=own)


def export_run(run: Run, path: Path, graph: Form = "step", opset: int | None = None) -> Exported:
    """Write the run's model as a graph, with what a program that feeds it must know; see `deploy.graph_export`."""
    return export(run.model, path, graph_facts(run), graph=graph, opset=opset)


def graph_facts(run: Run) -> dict[str, Json]:
    """What a program that feeds the run's model must know.

    That is the recipe's `name` and what `read_as` says; of series also their `scaling`, which columns they `read`,
    the `goal`, `horizon` and `per`; of questions the `letters` that a word is cut to.
    """
    told = {key: run.task.info[key] for key in SERIES_FACTS if key in run.task.info}
    if answers_questions(run):
        told["letters"] = _questions_of(run).limits["letters"]
    return {"name": run.recipe.name, **read_as(run), **told}


def export_c(run: Run, folder: Path, *, values: str = "float32", name: str = "model") -> WrittenC:
    """Write one step of the run's model as plain C, with its words, labels and units; see `deploy.plain_c`."""
    vocabulary = run.task.vocabularies.get("vocabulary")
    tokens = vocabulary.tokens if vocabulary is not None and reads_tokens(run) else ()
    task: object = run.task
    series = task if isinstance(task, NumericSeries) else None
    return write_c(
        run.model,
        folder,
        values=values,
        name=name,
        vocabulary=tokens,
        labels=series.labels if series else (),
        scaling=series.scaling if series else None,
    )


def read_as(run: Run) -> dict[str, Json]:
    """How text becomes the model's numbers: `tokens`, the list of each vocabulary, and `style`, how text is cut.

    The number of a token is its place in the list. `style` is None where the data were no running text.
    """
    tokens = {name: list(vocabulary.tokens) for name, vocabulary in run.task.vocabularies.items()}
    return {"tokens": tokens, "style": run.task.info.get("style")}


def present(run: Run) -> dict[str, Tensor]:
    """Which weights there are: the masks, or where a penalty leaves exact zeros, those of the matrices with some."""
    masks: dict[str, Tensor] = run.sparsifier.masks()
    if not run.sparsifier.in_zeros:
        return masks
    found = {name: p.detach() != 0 for name, p in run.model.named_parameters() if p.ndim > 1}
    return {name: mask for name, mask in found.items() if not bool(mask.all())}


def take_best(run: Run) -> dict[str, Json]:
    """Put the best weights and the masks they were trained under into the run; returns what else `best` says.

    Raises:
        InputError: the run has no best checkpoint yet, or it is damaged.
    """
    best = run.load_best()
    for name, mask in run.sparsifier.masks().items():
        mask.copy_(best["sparsifier"]["masks"][name])
    return best


def topologies(run: Run, other: Path | None = None) -> tuple[Topology, Topology]:
    """How far a run's best masks are from another's, and from random ones of the same densities.

    Args:
        run: with a best checkpoint; it says which units there are.
        other: the folder of another run, whose best masks are taken; None: the masks of the run's last state.

    Raises:
        InputError: a checkpoint is missing, the runs are of different shapes or dense, or scipy is missing.
    """
    first: dict[str, Tensor] = run.load_best()["sparsifier"]["masks"]
    second = _best_masks(other) if other else run.sparsifier.masks()
    return (
        topology_distance(first, second, run.model),
        topology_distance(first, random_masks(second), run.model),
    )


def _best_masks(folder: Path) -> dict[str, Tensor]:
    tree = load_checkpoint(folder / BEST)
    check_best(tree, folder / BEST)
    masks: dict[str, Tensor] = tree["sparsifier"]["masks"]
    return masks


def measure(
    run: Run, batches: Sequence[int] = (1,), repeats: int = 9, graph: bool = False, window: int | None = None
) -> dict[str, Json]:
    """Bytes, operations and latency of the weights that are in the run's model: the record "sizes".

    Where what is absent is known by exact zeros, it has `tensors` as well, as `summarize` counts them.
    Operations and latency are per token or time step; a model without a latency has its bytes alone.

    Args:
        run: with a folder; its packed model is written there.
        batches: how many sequences are read at once, 1 to 16 each.
        graph: whether onnxruntime, where it is installed, takes part; writing the graph takes seconds.
        repeats: timed rounds.
        window: time steps of a call; None: one, or of taggers `SENTENCE`.
    """
    (record,) = measure_together([run], batches, repeats, graph, window)
    return record


def measure_together(
    runs: Sequence[Run],
    batches: Sequence[int] = (1,),
    repeats: int = 9,
    graph: bool = False,
    window: int | None = None,
    device: torch.device = CPU,
) -> list[dict[str, Json]]:
    """The record of `measure` for each of several runs, whose ways to compute a step took turns with each other.

    Args:
        runs, batches, repeats, graph, window: see `measure`.
        device: an accelerator on which torch is timed as well.

    Raises:
        InputError: some read words and some vectors.
    """
    found = [_bytes(run) for run in runs]
    timed = [k for k, run in enumerate(runs) if has_latency(run)]
    if timed:
        rows = _latency([runs[k] for k in timed], batches, repeats, graph, window, device)
        for k, own in zip(timed, rows, strict=True):
            masks, model = present(runs[k]), runs[k].model
            macs = {
                "macs_per_token": macs_per_token(model, masks),
                "macs_per_token_dense": macs_per_token(model),
            }
            found[k] |= {"latency": own, **macs}
    return found


def _bytes(run: Run) -> dict[str, Json]:
    found = {
        "event": "sizes",
        "checkpoint_bytes": (run.home / LAST).stat().st_size,
        "dense_bytes": sizes(weights(run.model), present(run))["dense_bytes"],
        "packed_bytes": pack_run(run, run.home / PACKED),
    }
    counted = {"tensors": run.sparsifier.summary()["tensors"]} if run.sparsifier.in_zeros else {}
    return {**found, **counted}


def _latency(
    runs: Sequence[Run],
    batches: Sequence[int],
    repeats: int,
    graph: bool,
    window: int | None,
    device: torch.device,
) -> list[list[dict[str, Json]]]:
    """Rows of each run."""
    if window is None and any(run.model.reads == "sequences" for run in runs):
        window = SENTENCE
    form: Form = "step" if window is None else "sequence"
    with quicker_threads(runs[0].model, window):
        entrants = [
            Entrant(run.model, present(run), as_graph(run.model, form) if graph else None, device)
            for run in runs
        ]
        each = [compare_all(entrants, batch, repeats=repeats, window=window) for batch in batches]
    return [[row for rows in each for row in rows[k]] for k in range(len(runs))]


def gains(measured: Mapping[str, Json]) -> list[str]:
    """What the rows of a record "sizes" say, a sentence for each batch; see `deploy.measurement.gain`."""
    rows = measured["latency"]
    batches = dict.fromkeys(row["batch"] for row in rows)
    return [gain([row for row in rows if row["batch"] == batch]) for batch in batches]


def as_graph(model: nn.Module, graph: Form = "step") -> OnnxRuntime | None:
    """The model in onnxruntime on torch's number of threads, if that is installed and can have it.

    Where the package is missing that writes graphs of one step, it is one of whole sequences that reads one step.
    """
    forms: tuple[Form, ...] = ("step", "sequence") if graph == "step" else ("sequence",)
    possible = [form for form in forms if all(find_spec(name) for name in ONNX_NEEDS[form])]
    with TemporaryDirectory() as folder:
        for form in possible:
            with suppress(InputError):
                path = export(model, Path(folder) / "model.onnx", graph=form).path
                return OnnxRuntime(path, torch.get_num_threads())
    return None


@contextmanager
def quicker_threads(model: nn.Module, window: int | None = None) -> Iterator[None]:
    """Give torch one thread where that reads single tokens, or windows, faster than its usual number does.

    A sparse model is to be held against the best that the dense one can do, and a small product is often
    quickest on one thread, on a busy machine by a hundred times.
    """
    usual = torch.get_num_threads()
    times = {}
    for threads in (1, usual):
        torch.set_num_threads(threads)
        times[threads] = measure_latency(model, repeats=3, window=window)[0]["ms_per_token"]
    torch.set_num_threads(min(times, key=lambda threads: times[threads]))
    try:
        yield
    finally:
        torch.set_num_threads(usual)
