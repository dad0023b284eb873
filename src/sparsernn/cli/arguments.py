"""Arguments and options that several commands have in common."""

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")]
Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="The corpus' folder.")]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:N or mps; as the recipe says if not given (auto: CUDA if there is one).",
    ),
]
WeightsDevice = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.")
]
UnusedData = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Not needed: the weights are enough.", hidden=True),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Run folder; runs/NAME if not given.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")]


Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="PRECISION",
        help="float32, tf32 or bfloat16: how products of training steps are taken; as the recipe says if not given.",
    ),
]
Log = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="WHERE",
        help="tensorboard, wandb or mlflow: where the run can be watched; more than once for several.",
    ),
]


def with_options(
    overrides: list[str] | None,
    device: str | None,
    log: list[str] | None = None,
    precision: str | None = None,
) -> list[str]:
    """The settings to change, those of the options among them that were given.

    >>> with_options(["epochs=2"], "cuda:1", ["wandb"]), with_options(None, None)
    (['epochs=2', 'device=cuda:1', 'log=[wandb]'], [])
    """
    given = {"device": device, "precision": precision, "log": f"[{', '.join(log)}]" if log else None}
    return [*(overrides or []), *(f"{name}={value}" for name, value in given.items() if value is not None)]


DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")]
