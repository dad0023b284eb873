"""`sparsernn pack`, `export`, `bench`, `compact`: files for elsewhere, a smaller run, and how fast a model reads."""

from pathlib import Path
from typing import Annotated

import typer

from sparsernn.cli import compacting
from sparsernn.cli.running import Data, RunFolder
from sparsernn.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(pack)
    app.command()(export)
    app.command()(bench)
    compacting.register(app)


def pack(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="RUN/packed.safetensors if not given.")
    ] = None,
    values: Annotated[str, typer.Option(help="float32, or int8 for smaller files.")] = "float32",
    data: Data = None,
) -> None:
    """Write the best weights of a run as one small file: a bit per position, a number per active weight."""
    from sparsernn.assemble import open_run
    from sparsernn.report.formats import size
    from sparsernn.results import PACKED, pack_run, take_best

    opened, target = open_run(run, data), out or run / PACKED
    take_best(opened)
    packed = pack_run(opened, target, values)
    dense = 4 * sum(p.numel() for p in opened.model.parameters())
    print(f"{target}: {size(packed)}, {dense / packed:.2f} times smaller than {size(dense)} of dense weights")


def export(
    run: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="RUN/model.pt2 if not given; FILE.onnx for ONNX."),
    ] = None,
    data: Data = None,
) -> None:
    """Write one step of the model as a graph, ONNX or torch's own, that runs without this library."""
    from sparsernn.assemble import open_run
    from sparsernn.report.formats import size
    from sparsernn.results import export_run, take_best

    opened = open_run(run, data)
    take_best(opened)
    done = export_run(opened, out or run / "model.pt2")
    given = ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in done.inputs.items())
    print(f"{done.path}: {size(done.bytes)}, one step for any batch B")
    print(f"reads  {given}")
    print(f"Read back and compared: the largest difference from the model is {done.difference:.2g}.")


def bench(
    run: RunFolder,
    batch_size: Annotated[
        str, typer.Option("--batch-size", help="Texts read at once, 1 to 16; 1,4 for both.")
    ] = "1",
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 15,
    data: Data = None,
) -> None:
    """Measure milliseconds per token, sparse beside the best dense products.

    A run that has ended keeps the figures for its report.
    """
    from sparsernn.assemble import open_run
    from sparsernn.cli.console import output
    from sparsernn.cli.tables import latency_rows
    from sparsernn.report import load_run
    from sparsernn.results import measure, reads_tokens, require, take_best

    opened = open_run(run, data)
    require(reads_tokens(opened), opened, "measuring the time per token")
    take_best(opened)
    measured = measure(opened, _batches(batch_size), repeats)
    output().print(latency_rows(measured))
    if load_run(run).of("test"):
        opened.events.append(measured)
    else:  # what is written beyond the last checkpoint, a resumed run forgets
        output().print("Not kept: the report takes these figures once the run has ended.", soft_wrap=True)


def _batches(text: str) -> tuple[int, ...]:
    words = text.replace(",", " ").split()
    if not words or not all(word.isdigit() and 1 <= int(word) <= 16 for word in words):
        raise InputError(f"--batch-size is '{text}'; it must be numbers from 1 to 16, such as 1 or 1,4.")
    return tuple(int(word) for word in words)
