"""A file that a command writes: there whole, readable by its owner only, or not at all."""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from controller.cli.exits import REFUSED, UNAVAILABLE, Declined


@contextlib.contextmanager
def written(path: Path, *, replace: bool = False) -> Iterator[Callable[[str], object]]:
    """Give what writes a file (UTF-8) that is there whole when the block has ended; else there is none, or the one of before.

    Unless it is to be replaced, one that is there already is refused: it may be all that is left of something. Declined:
    file_exists, output_not_written.
    """
    if not replace and (path.exists() or path.is_symlink()):
        raise _there_already(path)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                yield file.write
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path) if replace else os.link(unfinished, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError as error:
        raise _there_already(path) from error
    except OSError as error:
        raise Declined(UNAVAILABLE, "output_not_written", f"{path}: {error.strerror}") from error


def _there_already(path: Path) -> Declined:
    return Declined(REFUSED, "file_exists", f"{path}: there is a file already; it was left as it is")
