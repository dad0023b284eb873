"""What a new run starts with that another one has learnt."""

from pathlib import Path

from sparsernn.core.errors import InputError
from sparsernn.runs.checkpoint import load_checkpoint
from sparsernn.runs.run import LAST, Run


def take_synthesizer(run: Run) -> None:
    """Where the recipe says `boundary.synthesizer_from`: give the boundary what that run's has learnt.

    Only for new runs: an old one has its own state, and may have outlived the run that it started from.

    Raises:
        InputError: no such checkpoint, or it does not fit.
    """
    given = run.boundary.synthesizer_from
    if given is None:
        return
    source = Path(given) / LAST if Path(given).is_dir() else Path(given)
    try:
        saved = load_checkpoint(source).get("boundary") or {}
    except InputError as reason:
        raise InputError(f"boundary.synthesizer_from: {reason}") from None
    try:
        run.boundary.begin_with(saved)
    except InputError as reason:
        raise InputError(f"boundary.synthesizer_from: {source} {reason}.") from None
