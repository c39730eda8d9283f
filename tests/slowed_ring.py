"""A native ring that is slower by a known share: what a regression test has to notice."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from bar_harness import ROOT
from needs import need

_PUBLISH = "            shm_store64(<uint64_t *>self._slot,"
_BEFORE = "cdef enum:\n    LINE"
# The fence keeps the processor from doing it beside what comes before; each multiplication waits
# for the last one. Part of it is hidden where the line is still under way, so how many there have
# to be is found by measuring.
_DELAY = '''cdef extern from *:
    """
    #include <stdlib.h>
    static int shm_steps = -1;
    static inline void shm_idle(void) {
        if (shm_steps < 0) shm_steps = getenv("RING_DELAY") ? atoi(getenv("RING_DELAY")) : STEPS;
        if (shm_steps) __asm__ volatile("lfence" ::: "memory");
        for (int i = 0; i < shm_steps; i++)
            __asm__ volatile("imulq $1, %%rax, %%rax" ::: "rax");
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
_TRIES, _PAIRS, _WITHIN = 12, 8, 0.03


def need_what_slows() -> None:
    need(os.uname().machine == "x86_64", "the delay is x86-64 code", "run it on x86-64")
    need(shutil.which("cc") is not None, "there is no C compiler", "apt-get install gcc")
    need(len(os.sched_getaffinity(0)) >= 2, "this needs two CPUs", "run it on a machine with two")


def slow_down(package: Path, steps: int) -> None:
    """Patch the source of the ring in that copy of the project: a message is published later.

    RING_DELAY in the environment says another number of steps.
    """
    text = (ROOT / "shmbench/native/ring.pyx").read_text()
    assert text.count(_PUBLISH) == text.count(_BEFORE) == 1
    text = text.replace(_PUBLISH, f"            shm_idle()\n{_PUBLISH}")
    text = text.replace(_BEFORE, _DELAY.replace("STEPS", str(steps)) + _BEFORE)
    (package / "shmbench/native/ring.pyx").write_text(text)


def slowed_copy(folder: Path) -> Path:
    """A built copy of this project whose ring waits as long as RING_DELAY says."""
    copy = folder / "slowed"
    shutil.copytree(
        ROOT,
        copy,
        ignore=shutil.ignore_patterns(".git", ".venv", ".asv", "build", "results", "*.egg-info"),
    )
    slow_down(copy, 0)
    build = "from setuptools import setup; setup()"
    subprocess.run(
        [sys.executable, "-c", build, "build_ext", "--inplace"],
        cwd=copy,
        check=True,
        capture_output=True,
    )
    return copy


def steps_for(share: float, copy: Path, base: Path = ROOT) -> int:
    """How many steps give that slowed copy's ring `share` more latency for 8 B: measured.

    Args:
        base: slower than what; the copy itself, without steps, tells the delay alone: that the
            loop has other code changes its latency too, by some nanoseconds either way.
    """
    steps, too_few, too_many, seen = round(share * 80), 0, 100, []
    for _ in range(_TRIES):
        found = _slowed_by(base, copy, steps)
        seen.append(f"{steps} steps: {found:.1%}")
        if abs(found - share) <= _WITHIN:
            print("; ".join(seen))
            return steps
        if found < share:
            too_few = max(too_few, steps)
        else:
            too_many = min(too_many, steps)
        if too_many - too_few <= 1:  # what is measured has moved meanwhile
            too_few, too_many = 0, 100
        guess = steps + round((share - found) * 40)  # 0.8 ns a step, of 50, and more at once
        steps = min(max(guess, too_few + 1), too_many - 1)
    raise AssertionError(f"no delay of {share:.0%} found: {'; '.join(seen)}")


def _slowed_by(base: Path, copy: Path, steps: int) -> float:
    """How much slower that copy's ring is than the base's: measured in turns."""
    sides = ((base, 0), (copy, steps))
    times: list[list[float]] = [[], []]
    for _ in range(_PAIRS):
        for samples, (package, delay) in zip(times, sides, strict=True):
            environment = {"PYTHONPATH": str(package), "RING_DELAY": str(delay)}
            samples += json.loads(
                subprocess.check_output(
                    [sys.executable, "-c", _MEASURE],
                    cwd=package,
                    env={**os.environ, **environment, "ASV_ENV_DIR": str(copy)},
                )
            )
    usual, slowed = (statistics.median(samples) for samples in times)
    return slowed / usual - 1
