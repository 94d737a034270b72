"""What the doctor sees of a home in which somebody is at work: files that go, and locks."""

import fcntl
import os
import re
from pathlib import Path
from typing import Any

from controller.service.doctor import files, process
from controller.settings import Settings


def test_a_file_that_goes_while_it_is_looked_at_is_nothing(settings: Settings, made: Any) -> None:
    for name in ("aaa", "zzz"):
        (settings.home / name).touch()
        (settings.home / name).chmod(0o666)
    seen = files._wrong(settings)
    assert "aaa" in next(seen).seen
    (settings.home / "zzz").unlink()
    assert list(seen) == []


def test_a_lock_of_the_same_number_on_another_file_system_is_not_the_homes(settings: Settings, made: Any, tmp_path: Path) -> None:
    def told(locks: str) -> set[str]:
        (tmp_path / "locks").write_text(locks)
        return {each.code for each in process.absent(settings, tmp_path / "locks")}

    with open(settings.home / "serve.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        real = Path("/proc/locks").read_text()
        assert told(real) == {"controller_silent"}
        number = os.fstat(lock.fileno()).st_ino
        assert told(re.sub(rf"[0-9a-f]+:[0-9a-f]+:{number} ", f"fe:fd:{number} ", real)) == {""}
