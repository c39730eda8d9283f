"""device: what the disk can do by itself, by fio. The limit of cold files read in no order."""

from __future__ import annotations

import shutil
import signal
import subprocess
from typing import Any

import msgspec

from shmbench.cases import Case
from shmbench.errors import ShmbenchError, Unavailable
from shmbench.native.process import set_parent_death_signal
from shmbench.regions.fixture import FixtureSpec
from shmbench.regions.mounts import mount_of
from shmbench.workloads import Context, Workload

_DEPTH = 64
_BLOCK_BYTES = 4096
_SECONDS = 0.7


class Device(Workload):
    """Random reads of 4 KiB past the page cache (O_DIRECT), 64 at a time (io_uring), by fio."""

    name = "device"
    family = "policy"
    summary = "the disk's own random reads at depth 64, by fio: the limit of cold files"
    operation = "read of 4 KiB"
    drivers = ("native",)
    uses_channel = False
    has_sizes = False
    moves_bytes = True
    regions = ("file",)
    caches = ()
    file_sizes = (256 << 20,)
    default_ranks = 1
    min_ranks = 1
    max_ranks = 1
    fixed_iterations = 1

    @classmethod
    def probe(cls, case: Case) -> Unavailable | None:
        if shutil.which("fio") is None:
            return Unavailable(
                "device: fio isn't installed, so nothing says what the disk can do",
                "install it, e.g. with: apt-get install fio",
            )
        mount = mount_of(case.directory) if case.directory else None
        if mount is not None and mount.in_memory:
            return Unavailable(
                f"device: {case.directory} is on {mount.filesystem}, which has no device",
                "choose a --dir on a disk",
            )
        return None

    @classmethod
    def fixture(cls, case: Case) -> FixtureSpec | None:
        assert case.file_bytes is not None
        return FixtureSpec(case.directory, case.file_bytes)

    @classmethod
    def bytes_per_operation(cls, case: Case) -> int:
        return _BLOCK_BYTES

    def __init__(self, context: Context) -> None:
        assert context.fixture is not None
        self._file = context.fixture
        self._iops: list[float] = []

    def validate(self) -> None:
        """Nothing to prove: fio fails where it can't read."""

    def batch(self, iterations: int) -> int:
        command = [
            *("fio", "--name=limit", f"--filename=/dev/fd/{self._file.fd}", "--readonly"),
            *("--rw=randread", "--direct=1", "--ioengine=io_uring", f"--iodepth={_DEPTH}"),
            *(f"--bs={_BLOCK_BYTES}", f"--size={self._file.size_bytes}", "--time_based"),
            *(f"--runtime={_SECONDS}", "--ramp_time=0.1", "--output-format=json"),
            *("--norandommap", "--randrepeat=0", "--allow_file_create=0"),
            "--thread",  # one process, which ends with this one
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            pass_fds=(self._file.fd,),
            timeout=20,
            preexec_fn=lambda: set_parent_death_signal(signal.SIGKILL),
        )
        try:
            job = msgspec.json.decode(done.stdout)["jobs"][0]
            iops = float(job["read"]["iops"])
        except (msgspec.DecodeError, LookupError):
            iops = 0.0
        if done.returncode or iops <= 0:
            raise ShmbenchError(
                f"device: fio failed: {done.stderr.decode(errors='replace').strip()[-200:]}",
                "io_uring may be forbidden here (kernel.io_uring_disabled)",
            )
        self._iops.append(iops)
        return round(1e9 / iops)

    def evidence(self) -> dict[str, Any]:
        return {"tool": "fio", "engine": "io_uring", "depth": _DEPTH, "iops": self._iops}
