"""The commands put together, and the one place where errors become messages."""

import os
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from sparsernn import __version__
from sparsernn.core.errors import InputError

INPUT_AT_FAULT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count


class Group(TyperGroup):
    """Answers a fault with one sentence instead of a traceback; `--debug` may stand anywhere on the line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move `--debug` to where the group reads it, then parse."""
        if "--debug" in args:
            args = ["--debug", *(word for word in args if word != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> object:
        """Run the command; turn what a person can mend into a sentence on stderr and an exit code."""
        if ctx.params.get("debug"):
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except InputError as fault:
            _stop(str(fault), INPUT_AT_FAULT)
        except KeyboardInterrupt:
            _stop("stopped.", INTERRUPTED)
        except BrokenPipeError:
            _leave_quietly()
        except OSError as fault:
            _stop(_sentence(fault), 1)


def _stop(sentence: str, code: int) -> NoReturn:
    print(f"sparsernn: {sentence}", file=sys.stderr)
    raise typer.Exit(code)


def _sentence(fault: OSError) -> str:
    place = f" ('{fault.filename}')" if fault.filename else ""
    return f"{fault.strerror or fault}{place}."


def _leave_quietly() -> NoReturn:
    """The reader of our output has gone (`| head`): keep Python from complaining about it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(0)


app = typer.Typer(
    cls=Group,
    name="sparsernn",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"sparsernn {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Recurrent networks that are sparse by training or construction, and really smaller."""


from sparsernn.cli import (  # noqa: E402 - they need what stands above
    answer,
    bench,
    compact,
    compare,
    data,
    demo,
    doctor,
    evaluate,
    export,
    finetune,
    generate,
    inspect,
    pack,
    predict,
    prune,
    recipes,
    report,
    results,
    resume,
    sweep,
    train,
)

# In the order in which `--help` lists them.
for _command in (
    demo,
    train,
    resume,
    finetune,
    prune,
    sweep,
    evaluate,
    generate,
    inspect,
    report,
    compare,
    results,
    answer,
    predict,
    pack,
    export,
    bench,
    compact,
    doctor,
    recipes,
    data,
):
    _command.register(app)
