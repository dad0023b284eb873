"""`sparsernn generate`: text from a trained model."""

import sys
from typing import Annotated

import typer

from sparsernn.cli.arguments import RunFolder, UnusedData, WeightsDevice


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(generate)


def generate(
    run: RunFolder,
    prompt: Annotated[str, typer.Option(help="How the text begins.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens to write.")] = 100,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Below 1 is more cautious; 0 takes the likeliest token.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same text.")] = 1,
    data: UnusedData = None,
    device: WeightsDevice = "cpu",
) -> None:
    """Write text with the best weights of a run."""
    from sparsernn.runs.artifacts import generate as write
    from sparsernn.runs.artifacts import take_best, unknown_words
    from sparsernn.runs.assembly import open_weights

    opened = open_weights(run, device)
    take_best(opened)
    if unknown := unknown_words(opened, prompt):
        print(f"not in the run's vocabulary, and read as <unk>: {' '.join(unknown)}", file=sys.stderr)
    print(write(opened, prompt, tokens, temperature, seed))
