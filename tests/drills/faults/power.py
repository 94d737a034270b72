"""The power fails as the agent makes a call: what was not made durable is lost, for real, and then the server boots.

The server's files are on an ext4 of their own, whose disk is a file. A copy of that file holds what a power failure would leave:
what the kernel was told to make durable, and nothing that it only has in memory. Mounting the copy plays its journal back.
"""

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from controller.demo.trees import HOST, root_tree
from tests.drills.faults.files import STATE, Files, looked_at, put_back
from tests.drills.faults.lab import Case, Lab
from tests.drills.faults.points import (
    LATE,
    WRONG_END,
    Point,
    Trial,
    ends_of,
    judged,
    like,
    next_run,
    tracer_of,
    unlike,
    without_arms,
)

_SIZE = 400 << 20
# Nothing becomes durable but what somebody waits for: ext4(5), commit; the kernel's own writing back begins later still.
_MOUNT = "loop,commit=900,noatime"
_SHARED_MEMORY = "/dev/shm"


class Disk:
    """An ext4 in a file. directory: where it is mounted."""

    def __init__(self) -> None:
        self.work = Path(tempfile.mkdtemp(prefix="kps-disk-", dir=_SHARED_MEMORY))
        self.image, self.directory = self.work / "image", self.work / "mounted"
        with open(self.image, "wb") as image:
            image.truncate(_SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", str(self.image)], check=True)
        self.directory.mkdir()
        subprocess.run(["mount", "-o", _MOUNT, str(self.image), str(self.directory)], check=True)
        self.directory.chmod(0o711)
        self.work.chmod(0o711)
        # What the servers are laid over is on it too: over another file system their directories have new numbers at each boot.
        self.trees = self.directory / "trees"
        self.trees.mkdir()
        subprocess.run(["cp", "-a", str(root_tree(HOST)), str(self.trees)], check=True)

    @contextlib.contextmanager
    def as_after_power_failed(self) -> Iterator[Path]:
        """What would be found on it if the power failed now, as a directory for as long as the block lasts."""
        name = uuid.uuid4().hex
        image, directory = self.work / f"{name}.image", self.work / name
        subprocess.run(["cp", "--sparse=always", str(self.image), str(image)], check=True)
        directory.mkdir()
        subprocess.run(["mount", "-o", "loop", str(image), str(directory)], check=True)
        try:
            yield directory
        finally:
            subprocess.run(["umount", str(directory)], check=True)
            directory.rmdir()
            image.unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.directory)], check=False)
        shutil.rmtree(self.work, ignore_errors=True)


def _files_left(lab: Lab, disk: Disk) -> Files:
    """The files that the server would boot with."""
    inside = lab.server.directory.relative_to(disk.directory)
    with disk.as_after_power_failed() as found:
        upper, work, merged = found / inside / "upper", found / "work", found / "merged"
        for each in (work, merged):
            each.mkdir()
        tree = found / lab.server._tree.relative_to(disk.directory)
        layers = f"lowerdir={tree},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(merged)], check=True)
        try:
            return looked_at(merged)
        finally:
            subprocess.run(["umount", str(merged)], check=True)


async def power(lab: Lab, disk: Disk, point: Point) -> Trial:
    """Disturb an operation at one point; then the server boots from what is left."""
    case, trial, tracer = lab.cases[point.case], Trial(point), tracer_of(lab, point)
    await lab.become(case.before)
    await asyncio.to_thread(subprocess.run, ["sync", "-f", str(disk.directory)], check=True)
    await lab.run(case, case.plan, tracer, case.old)
    trial.reached = tracer.reached.is_set()
    if not trial.reached:
        return trial
    left = await asyncio.to_thread(_files_left, lab, disk)
    await _boots_with(lab, left)
    await judged(lab, case, trial, "after the boot")
    await _undone_at_boot(lab, case, trial, left)
    await next_run(lab, case, trial, ends_of(case, left))
    return trial


async def _boots_with(lab: Lab, left: Files) -> None:
    await asyncio.to_thread(lab.server.stop)
    put_back(await asyncio.to_thread(lab.server.mounted_root), left)
    await asyncio.to_thread(lab.server.start)


async def _undone_at_boot(lab: Lab, case: Case, trial: Trial, left: Files) -> None:
    """Where sshd_config was being changed, the boot itself decides."""
    if not any("kps-undo" in path for path in left):
        return
    if not await lab.quiet(10, lambda: not lab.agents()):
        trial.miss(LATE, f"10 s after the boot these still run: {lab.agents()}")
    files = lab.files()
    undecided = [name for name in ("armed", "revoking", "reverting") if f"{STATE}/journal.{name}" in files]
    if undecided or not like(without_arms(files), case.before, case.after):
        trial.miss(WRONG_END, f"{undecided} after the boot: {unlike(files, case.before)}")
