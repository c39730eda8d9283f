"""A clone of this project in which asv runs, with a home of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MACHINE = "test-machine"
WITHOUT_MPI = "asv.without_mpi.json"
FACTOR = "1.08"

# What a slower ring concerns: where a message is small, its latency is the ring's.
CONCERNED = ("bench_ipc.RingLatency.track_time(8)", "bench_ipc.RingRate", "bench_ipc.Barrier")


def part(*names: str) -> str:
    """A regular expression for --bench that matches benchmarks by part of their name.

    "RingLatency(8)" is a class with its parameter, "Barrier" one without.
    """
    return "|".join(re.escape(name).replace(r"\(", r"\.track_time\(") for name in names)


# What is measured again and again: all that the ring concerns, and some that it doesn't.
PART = part("HandOver", "RingLatency(8)", "RingRate", "Barrier", "Blocking('pipe')")


class Clone:
    """A fresh clone of the last commit, whose branch is main."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clone"
        subprocess.run(["git", "clone", "-q", ROOT, self.path], check=True)
        self.git("checkout", "-q", "-B", "main")
        home = folder / "home"
        home.mkdir()
        self.environment = {**os.environ, "HOME": str(home)}
        self.environment.pop("PYTHONPATH", None)
        # pip's own settings are in the real home; a proxy or a mirror may be among them.
        for settings in (Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"):
            if settings.exists():
                self.environment.setdefault("PIP_CONFIG_FILE", str(settings))
        self.configure(WITHOUT_MPI, keep=())
        self.shmbench("asv", "machine", MACHINE)

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        return subprocess.check_output(
            ["git", *identity, *arguments], cwd=self.path, text=True
        ).strip()

    def commit(self, subject: str, branch: str | None = None) -> str:
        """Commit all changes, or none, and give the hash."""
        if branch is not None:
            self.git("checkout", "-q", "-B", branch)
        self.git("commit", "-q", "--allow-empty", "-am", subject)
        return self.git("rev-parse", "HEAD")

    def configure(self, name: str, keep: tuple[str, ...]) -> None:
        """Write asv.conf.json once more, with these MPIs alone."""
        text = re.sub(r"^\s*//.*$", "", (self.path / "asv.conf.json").read_text(), flags=re.M)
        conf = json.loads(text)
        requirements = conf["matrix"]["req"]
        for mpi in {"mpich", "openmpi"} - set(keep):
            requirements[mpi] = [None]
        if not keep:
            requirements["mpi4py"] = [None]
        (self.path / name).write_text(json.dumps(conf))

    def asv(self, *arguments: str, conf: str = WITHOUT_MPI) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "asv", "--config", conf, *arguments]
        return subprocess.run(
            command,
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def shmbench(self, *arguments: str) -> str:
        command = [Path(sys.executable).parent / "shmbench", *arguments]
        return subprocess.check_output(command, cwd=self.path, env=self.environment, text=True)

    def continuous(
        self, base: str, new: str, *options: str, bench: str = PART
    ) -> tuple[int, str, list[str]]:
        """Exit code, all output, and the benchmarks that were reported as changed."""
        done = self.asv(
            *("continuous", "--factor", FACTOR, "--machine", MACHINE, "--interleave-rounds"),
            *("--bench", bench, *options, base, new),
        )
        changed = re.findall(r"^\| [-+!] .*\| (bench_[^|]+?) +\|$", done.stdout, flags=re.M)
        return done.returncode, done.stdout, changed

    def compare(self, base: str, new: str) -> str:
        """All benchmarks of two commits, a line each."""
        done = self.asv("compare", "--factor", FACTOR, "--machine", MACHINE, base, new)
        return "\n".join(line for line in done.stdout.splitlines() if "bench_" in line)

    def forget(self) -> None:
        """Drop all results, so that nothing of one comparison gets into the next."""
        shutil.rmtree(self.path / ".asv/results" / MACHINE, ignore_errors=True)
