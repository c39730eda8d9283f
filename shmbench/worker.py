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
from typing import BinaryIO

import msgspec

from shmbench.errors import PeerFailed, ShmbenchError
from shmbench.native.process import set_parent_death_signal
from shmbench.trial import Trial, TrialReport, failure_of, run_trial

_SPARE_S = 5.0  # beyond the ranks' own time-out, for the leader to clean up


def write_frame(stream: BinaryIO, payload: bytes) -> None:
    """Write one length-prefixed frame."""
    stream.write(struct.pack("<Q", len(payload)) + payload)
    stream.flush()


def read_frame(stream: BinaryIO) -> bytes | None:
    """Read one frame; None at the end of the stream."""
    header = stream.read(8)
    if len(header) < 8:
        return None
    (length,) = struct.unpack("<Q", header)
    payload = stream.read(length)
    return payload if len(payload) == length else None


def _lead(trial: Trial, pipe: int, parent: int) -> None:
    """In the forked leader: run the trial, and report."""
    set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        return
    with open(pipe, "wb") as stream:
        stream.write(msgspec.msgpack.encode(run_trial(trial)))


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


def run_in_leader(trial: Trial) -> TrialReport:
    """Fork a leader for one trial and wait for it; it is killed when it takes too long."""
    read_end, write_end = os.pipe()
    parent = os.getpid()
    leader = os.fork()
    if leader == 0:
        try:
            os.close(read_end)
            _lead(trial, write_end, parent)
        finally:
            os._exit(0)
    os.close(write_end)
    answer = _collect(read_end, time.monotonic() + trial.timeout_s + _SPARE_S)
    os.close(read_end)
    if answer is None:
        os.kill(leader, signal.SIGKILL)
    _, status = os.waitpid(leader, 0)
    if not answer:
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "no report"
        return TrialReport(failure=failure_of(PeerFailed(f"the group's leader ended with {how}")))
    return msgspec.msgpack.decode(answer, type=TrialReport)


def main() -> None:
    """Serve trials until standard input ends."""
    set_parent_death_signal(signal.SIGKILL)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not get between the frames
    while (frame := read_frame(requests)) is not None:
        report = run_in_leader(msgspec.msgpack.decode(frame, type=Trial))
        write_frame(answers, msgspec.msgpack.encode(report))


class Worker:
    """The parent's end of a measuring process; a context manager."""

    def __init__(self) -> None:
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
        """Have one trial run.

        Raises:
            ShmbenchError: the measuring process is gone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            write_frame(self._process.stdin, msgspec.msgpack.encode(trial))  # type: ignore[arg-type]
            answer = read_frame(self._process.stdout)  # type: ignore[arg-type]
        except BrokenPipeError:
            answer = None
        if answer is None:
            raise ShmbenchError(
                f"the measuring process ended with status {self._process.wait()}",
                "see its message above",
            )
        return msgspec.msgpack.decode(answer, type=TrialReport)

    def close(self) -> None:
        """End the process and with it all that it forked."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


if __name__ == "__main__":
    main()
