"""A run's language model as an ONNX graph in 8 or 4 bits, scored before and after where its text is at hand."""

from pathlib import Path
from typing import cast

from sparsernn.core.states import tensors
from sparsernn.deploy.graph_export import Exported
from sparsernn.deploy.onnx_stream import OnnxRuntime
from sparsernn.deploy.rounded_graph import (
    export_rounded,
    export_rounded_sequences,
    perplexity,
    perplexity_of_sequences,
)
from sparsernn.deploy.runtime import runtime
from sparsernn.deploy.token_stream import Stream
from sparsernn.runs.artifacts import graph_facts, writes_text
from sparsernn.runs.rounded_scores import words_to_score
from sparsernn.runs.run import Run


def export_rounded_run(
    run: Run, path: Path, opset: int | None = None, values: str = "int8", graph: str = "step"
) -> tuple[Exported, str]:
    """Write the model, one step or whole sequences; see `deploy.rounded_graph`.

    Returns:
        What was written, and a sentence with the perplexity of validation data before and after.

    Raises:
        InputError: a model without such a graph, or packages that are missing.
    """
    if graph == "sequence":
        done = export_rounded_sequences(run.model, path, graph_facts(run), opset=opset)
    else:
        done = export_rounded(run.model, path, graph_facts(run), opset=opset, values=values)
    if run.without_data:
        return done, "The data of the run are not here, so that nothing was scored."
    if not writes_text(run):
        return done, "Language models alone are scored; this is none."
    words = words_to_score(run)
    if len(words) < 2:
        return done, "The validation data of the run are too short to be scored."
    streams = words.shape[1]
    before = perplexity(cast(Stream, runtime(run.model, products="dense").stream(streams)), words)
    if graph == "sequence":
        start = list(tensors(run.model.initial_state(streams)))
        after = perplexity_of_sequences(path, start, words)
    else:
        after = perplexity(cast(Stream, OnnxRuntime(path).stream(streams)), words)
    return done, (
        f"Perplexity of {words[1:].numel():,} tokens of the validation data: {before:.3f} with weights of 32 bits, "
        f"{after:.3f} in this file."
    )
