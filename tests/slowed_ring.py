"""A native ring that is slower by a known share: what a regression test has to notice."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from needs import need

ROOT = Path(__file__).parent.parent
_PUBLISH = "            shm_store64(<uint64_t *>self._slot,"
_BEFORE = "cdef enum:\n    LINE"
# The fence keeps the processor from doing it beside what comes before; each multiplication waits
# for the last one. Part of it is hidden where the line is still under way, so how many there have
# to be is found by measuring.
_DELAY = '''cdef extern from *:
    """
    static inline void shm_idle(void) {
        __asm__ volatile("lfence");
        for (int i = 0; i < STEPS; i++) __asm__ volatile("imulq $1, %%rax, %%rax" ::: "rax");
    }
    """
    void shm_idle() nogil


'''
_MEASURE = """
import json
from shmbench import tracking
case = tracking.find_case("ping_pong", channels=("spin",), driver="native", sizes=(8,))
print(json.dumps(tracking.measure(case, timeout_s=60)["samples"]))
"""
_TRIES, _PAIRS, _WITHIN = 6, 8, 0.03


def need_what_slows() -> None:
    need(os.uname().machine == "x86_64", "the delay is x86-64 code", "run it on x86-64")
    need(shutil.which("cc") is not None, "there is no C compiler", "apt-get install gcc")
    need(len(os.sched_getaffinity(0)) >= 2, "this needs two CPUs", "run it on a machine with two")


def slow_down(package: Path, steps: int) -> None:
    """Patch the source of the ring in that copy of the project: a message is published later."""
    text = (ROOT / "shmbench/native/ring.pyx").read_text()
    assert text.count(_PUBLISH) == text.count(_BEFORE) == 1
    text = text.replace(_PUBLISH, f"            shm_idle()\n{_PUBLISH}")
    text = text.replace(_BEFORE, _DELAY.replace("STEPS", str(steps)) + _BEFORE)
    (package / "shmbench/native/ring.pyx").write_text(text)


def slowed_copy(folder: Path, share: float) -> tuple[Path, int]:
    """A built copy of this project whose ring has `share` more latency for 8 B, and its steps."""
    copy = folder / "slowed"
    shutil.copytree(
        ROOT,
        copy,
        ignore=shutil.ignore_patterns(".git", ".venv", ".asv", "build", "results", "*.egg-info"),
    )
    steps, too_few, too_many, seen = 13, 0, 100, []
    for _ in range(_TRIES):
        slow_down(copy, steps)
        build = "from setuptools import setup; setup()"
        subprocess.run(
            [sys.executable, "-c", build, "build_ext", "--inplace"],
            cwd=copy,
            check=True,
            capture_output=True,
        )
        found = _slowed_by(copy)
        seen.append(f"{steps} steps: {found:.1%}")
        if abs(found - share) <= _WITHIN:
            print("; ".join(seen))
            return copy, steps
        if found < share:
            too_few = max(too_few, steps)
        else:
            too_many = min(too_many, steps)
        guess = steps + round((share - found) * 40)  # 0.8 ns a step, of 50, and more at once
        steps = min(max(guess, too_few + 1), max(too_many - 1, too_few + 1))
    raise AssertionError(f"no delay of {share:.0%} found: {'; '.join(seen)}")


def _slowed_by(copy: Path) -> float:
    """How much slower that copy's ring is than this one's: measured in turns."""
    times: dict[Path, list[float]] = {ROOT: [], copy: []}
    for _ in range(_PAIRS):
        for package, samples in times.items():
            samples += json.loads(
                subprocess.check_output(
                    [sys.executable, "-c", _MEASURE],
                    cwd=package,
                    env={**os.environ, "PYTHONPATH": str(package)},
                )
            )
    base, slowed = (statistics.median(samples) for samples in times.values())
    return slowed / base - 1
