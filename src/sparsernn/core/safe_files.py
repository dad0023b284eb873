"""Writing a file as a whole or not at all, and having a folder to oneself."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sparsernn.core.errors import InputError

PART = ".part"
"""What the names of unfinished files end in."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what is there at the end takes the place of `path` in one step.

    No other process or thread gets the same name. The file may be read by whom the umask says, whoever made it and
    how (some libraries write for their owner alone). After an error `path` is as it was and the other name is gone.

    Raises:
        IsADirectoryError: `path` is a folder.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with replacing(path) as beside:
        ...     _ = beside.write_text("done")
        >>> path.read_text(), [p.name for p in path.parent.iterdir()]
        ('done', ['a.txt'])
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PART}")
    handle = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    mode = stat.S_IMODE(os.fstat(handle).st_mode)
    os.close(handle)
    try:
        yield beside
        with suppress(PermissionError):  # a file system that has no modes
            beside.chmod(mode)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def sole_user(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep every other process, and every other caller in this one, out of what is done inside.

    The lock is on the folder itself and belongs to this process: it ends with it, however it ends, and leaves no
    file. Where the system or the file system has no such locks, nothing is locked.

    Args:
        folder: is there.
        wait: until whoever has it is done.

    Raises:
        InputError: somebody else has it, and `wait` is false.

    Example:
        >>> import tempfile
        >>> with sole_user(Path(tempfile.mkdtemp())):
        ...     pass
    """
    handle = _locked(folder, wait)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _locked(folder: Path, wait: bool) -> int | None:
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        os.close(handle)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise InputError(
                f"another process is at work in {folder}; wait for it, stop it, or choose another folder."
            ) from None
        return None
    return handle
