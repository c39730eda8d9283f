"""A native ring that is slower by a known time: what a regression test has to notice."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from needs import need

# The fence keeps the processor from doing it beside what comes before.
DELAY_STEP = '__asm__ volatile("lfence; imulq $1, %%rax, %%rax" ::: "rax");'


def need_what_slows() -> None:
    need(os.uname().machine == "x86_64", "the delay is x86-64 code", "run it on x86-64")
    need(shutil.which("cc") is not None, "there is no C compiler", "apt-get install gcc")


def slow_down(package: Path, seconds: float, scratch: Path) -> None:
    """Patch the source of the ring in that copy of the project: each message takes longer to send.

    Args:
        seconds: by how much.
        scratch: a folder for the program that calibrates the delay.
    """
    source = package / "shmbench/native/ring.pyx"
    text = source.read_text()
    # The delay stands before the store that publishes the message.
    patched = text.replace(
        "            shm_store64(<uint64_t *>self._slot,",
        "            shm_idle()\n            shm_store64(<uint64_t *>self._slot,",
    )
    assert patched != text
    steps = max(1, round(seconds / step_s(scratch)))
    delay = (
        'cdef extern from *:\n    """\n    static inline void shm_idle(void) {\n'
        f"        for (int i = 0; i < {steps}; i++) {DELAY_STEP}\n"
        '    }\n    """\n    void shm_idle() nogil\n\n\ncdef enum:\n    LINE'
    )
    source.write_text(patched.replace("cdef enum:\n    LINE", delay, 1))


def step_s(scratch: Path) -> float:
    """Seconds that one step of the delay takes: a multiplication that waits for the last one."""
    program = (
        "#include <stdio.h>\n#include <time.h>\nint main() { struct timespec a, b;\n"
        "clock_gettime(CLOCK_MONOTONIC, &a);\n"
        f"for (int i = 0; i < 50000000; i++) {DELAY_STEP}\n"
        "clock_gettime(CLOCK_MONOTONIC, &b);\n"
        'printf("%f", ((b.tv_sec - a.tv_sec) * 1e9 + b.tv_nsec - a.tv_nsec) / 5e7); }\n'
    )
    (scratch / "step.c").write_text(program)
    subprocess.run(["cc", "-O2", "step.c", "-o", "step"], cwd=scratch, check=True)
    times = [subprocess.check_output([scratch / "step"], text=True) for _ in range(5)]
    return min(float(time) for time in times) * 1e-9
