"""The measuring process: forks a fresh leader for each trial, and answers with its report.

`python -m shmbench.worker` reads trials from standard input and writes reports to standard output,
as frames of MessagePack. It is a process of its own so that what is forked from it has loaded
nothing but what measures; it ends with its parent.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from typing import IO

import msgspec

from shmbench.clean import leftovers, remove
from shmbench.errors import PeerFailed, ShmbenchError
from shmbench.native.process import set_parent_death_signal
from shmbench.regions.fixture import Fixture, Fixtures
from shmbench.trial import Trial, TrialReport, failure_of, fixture_of, run_trial

_SPARE_S = 5.0  # beyond the ranks' own time-out, for the leader to clean up


def write_frame(stream: IO[bytes], payload: bytes) -> None:
    """Write one length-prefixed frame."""
    stream.write(struct.pack("<Q", len(payload)) + payload)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Read one frame; None at the end of the stream."""
    header = stream.read(8)
    if len(header) < 8:
        return None
    (length,) = struct.unpack("<Q", header)
    payload = stream.read(length)
    return payload if len(payload) == length else None


def _lead(trial: Trial, fixture: Fixture | None, pipe: int, parent: int) -> None:
    """In the forked leader: run the trial, and report."""
    set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        return
    with open(pipe, "wb") as stream:
        stream.write(msgspec.msgpack.encode(run_trial(trial, fixture)))


def _collect(pipe: int, deadline: float) -> bytes | None:
    """What the leader writes until it closes the pipe; None when time is up."""
    received = bytearray()
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not select.select([pipe], [], [], remaining)[0]:
            return None
        chunk = os.read(pipe, 1 << 20)
        if not chunk:
            return bytes(received)
        received += chunk


def _clear(trial: Trial) -> None:
    """Remove what dead processes left: those that were killed between making and unlinking it."""
    remove(leftovers([trial.case.directory] if trial.case.directory else []))


def run_in_leader(trial: Trial, fixtures: Fixtures) -> TrialReport:
    """Fork a leader for one trial and wait for it; it is killed when it takes too long."""
    try:
        fixture = fixture_of(trial.case, fixtures)
    except (ShmbenchError, OSError) as error:
        return TrialReport(failure=failure_of(error))
    read_end, write_end = os.pipe()
    parent = os.getpid()
    leader = os.fork()
    if leader == 0:
        try:
            os.close(read_end)
            _lead(trial, fixture, write_end, parent)
        finally:
            os._exit(0)
    os.close(write_end)
    answer = _collect(read_end, time.monotonic() + trial.timeout_s + _SPARE_S)
    os.close(read_end)
    if answer is None:
        os.kill(leader, signal.SIGKILL)
    _, status = os.waitpid(leader, 0)
    if not answer:
        _clear(trial)
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "no report"
        return TrialReport(failure=failure_of(PeerFailed(f"the group's leader ended with {how}")))
    report = msgspec.msgpack.decode(answer, type=TrialReport)
    if report.failure is not None:
        _clear(trial)
    return report


def main() -> None:
    """Serve trials until standard input ends."""
    set_parent_death_signal(signal.SIGKILL)
    # A scheduler sends it to every process of a job: the parent is to decide what ends, and keep
    # what was measured. The ranks inherit this.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not get between the frames
    with Fixtures() as fixtures:
        while (frame := read_frame(requests)) is not None:
            report = run_in_leader(msgspec.msgpack.decode(frame, type=Trial), fixtures)
            write_frame(answers, msgspec.msgpack.encode(report))


class Worker:
    """The parent's end of a measuring process; a context manager."""

    def __init__(self) -> None:
        self._directories: set[str] = set()  # that may hold a named file of the process
        self._start()

    def _start(self) -> None:
        environment = dict(os.environ, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "shmbench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, trial: Trial) -> TrialReport:
        """Have one trial run; where the measuring process itself dies, another one is started."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if trial.case.directory is not None:
            self._directories.add(trial.case.directory)
        try:
            write_frame(self._process.stdin, msgspec.msgpack.encode(trial))
            answer = read_frame(self._process.stdout)
        except BrokenPipeError:
            answer = None
        if answer is None:
            status = self._process.wait()
            self.close()
            self._start()
            died = PeerFailed(f"the measuring process ended with status {status}")
            return TrialReport(failure=failure_of(died))
        return msgspec.msgpack.decode(answer, type=TrialReport)

    def close(self) -> None:
        """End the process and all that it forked, and remove what they could not any more."""
        deadline = time.monotonic() + _SPARE_S
        while self._kill_session() and time.monotonic() < deadline:
            time.sleep(0.001)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        remove(leftovers(self._directories))

    def _kill_session(self) -> bool:
        """Kill what is left of the process's session; False when nothing is."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        finally:
            self._process.poll()
        return True


if __name__ == "__main__":
    main()
