"""Hears of memory pressure from the kernel (PSI), so that what is kept for later can go.

PSI, Linux 4.20: Documentation/accounting/psi.rst. A trigger is a line written to the pressure file,
which then polls as POLLPRI; ordinary users may set one since Linux 6.5, in windows of 2 s.
"""

import contextlib
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path

STALLED_150_MS_IN_2_S = b"some 150000 2000000\0"  # some task, for want of memory
_SYSTEM = Path("/proc/pressure/memory")


def pressure_file() -> Path | None:
    """The pressure of our own cgroup where there is one, else the machine's; None without PSI."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                own = Path("/sys/fs/cgroup", line[4:], "memory.pressure")
                if own.exists():
                    return own
    return _SYSTEM if _SYSTEM.exists() else None


def memory_to_spare() -> int:
    """Bytes of the page cache that one file may take: half of what is available; 0: not known."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024 // 2
    return 0


def average_10s(text: str) -> float:
    """The share of the last 10 s in which some task waited for memory, in percent.

    Args:
        text: of a pressure file: "some avg10=0.12 avg60=... full avg10=...".
    """
    fields = text.split()
    return float(fields[fields.index("some") + 1].removeprefix("avg10="))


class PressureWatch:
    """A thread that sleeps in the kernel until memory is short, and then calls.

    Where the kernel takes no trigger from us, it reads the 10-second average instead.

    Args:
        on_pressure: called in that thread, at most once in 2 s.
        path: a pressure file.
        trigger: what the kernel is asked to wake us for; None: don't ask, look.
        look_every_s: between two looks at the average.
        average_percent: from which average on memory counts as short.

    Raises:
        OSError, RuntimeError: no descriptor or no thread to be had.
    """

    def __init__(
        self,
        on_pressure: Callable[[], object],
        path: Path,
        *,
        trigger: bytes | None = STALLED_150_MS_IN_2_S,
        look_every_s: float = 2.0,
        average_percent: float = 5.0,
    ) -> None:
        self._on_pressure = on_pressure
        self._path = path
        self._look_every_s = look_every_s
        self._average_percent = average_percent
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._trigger = None if trigger is None else self._register(trigger)
        self._thread = threading.Thread(target=self._run, name="memory-pressure", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self.forsake()
            raise

    @property
    def triggered(self) -> bool:
        """Whether the kernel wakes us; otherwise we look at the average."""
        return self._trigger is not None

    def stop(self) -> None:
        """End the thread; idempotent."""
        if self._stop < 0:
            return
        os.eventfd_write(self._stop, 1)
        if self._thread is not threading.current_thread():
            self._thread.join()
        self.forsake()

    def forsake(self) -> None:
        """Let go of the descriptors only: what a forked child does, where the thread is not."""
        for fd in (self._stop, self._trigger):
            if fd is not None and fd >= 0:
                os.close(fd)
        self._stop, self._trigger = -1, None

    def _register(self, trigger: bytes) -> int | None:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            os.write(fd, trigger)
        except OSError:
            os.close(fd)
            return None
        return fd

    def _run(self) -> None:
        stop, trigger = self._stop, self._trigger
        waiting = select.poll()
        waiting.register(stop, select.POLLIN)
        if trigger is not None:
            waiting.register(trigger, select.POLLPRI)
        patience_ms = None if trigger is not None else self._look_every_s * 1000
        while True:
            events = dict(waiting.poll(patience_ms))
            # POLLERR: the cgroup is gone, and its pressure with it
            if stop in events or events.get(trigger or -1, 0) & select.POLLERR:
                return
            if events or self._is_short():
                self._on_pressure()
            if self._stop < 0:  # stopped from within
                return

    def _is_short(self) -> bool:
        try:
            return average_10s(self._path.read_text()) >= self._average_percent
        except OSError:
            return False
