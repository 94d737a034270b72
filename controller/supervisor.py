"""What the supervisor of this process is told: sd_notify(3), a datagram to the socket that it names, if it names one."""

import contextlib
import os
import socket
import time


def notify(*words: str) -> None:
    """Tell systemd, or whoever else set NOTIFY_SOCKET: READY=1, STOPPING=1, STATUS=..., WATCHDOG=1."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return
    # A name that begins with @ is abstract: unix(7) has a NUL in its place. Nobody there: nothing here depends on it.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(f"\0{place[1:]}" if place.startswith("@") else place)
        sender.send("\n".join(words).encode())


def reloading() -> tuple[str, ...]:
    """Return the words for "reloading"; READY=1 says that it is done (Type=notify-reload)."""
    return ("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_seconds() -> float | None:
    """Return how often a sign of life is wanted; None: never."""
    meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    period = os.environ.get("WATCHDOG_USEC", "")
    if not meant or not period.isdigit() or int(period) == 0:
        return None
    return int(period) / 1_000_000 / 2  # sd_watchdog_enabled(3) recommends half
