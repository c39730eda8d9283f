"""What the tests of the bars share: a run's results, and several tries on a shared machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def run(tmp_path: Path, *arguments: str, package: Path = ROOT) -> list[dict[str, Any]]:
    """The results of `shmbench run`, by the package in that folder."""
    output = tmp_path / "run.json"
    subprocess.run(
        [sys.executable, "-m", "shmbench", "run", *arguments, "--output", output],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(package)},
        cwd=tmp_path,
    )
    results: list[dict[str, Any]] = json.loads(output.read_text())["results"]
    return results


def holds_in_one_of(tries: int, attempt: Callable[[], tuple[bool, str]]) -> None:
    """On a shared machine a bar counts as held when one try of several holds it; all are shown."""
    seen = []
    for number in range(1, tries + 1):
        held, what = attempt()
        seen.append(what)
        print(f"try {number} of {tries}: {'held' if held else 'not held'}: {what}")
        if held:
            return
    pytest.fail("; ".join(seen))


def longest_stall(work: Callable[[], object]) -> float:
    """Of a thread that counts while `work` runs, in seconds."""
    longest, stop, ready = 0.0, False, threading.Event()

    def count() -> None:
        nonlocal longest
        last = time.perf_counter()
        while not stop:
            now = time.perf_counter()
            longest = max(longest, now - last)
            last = now
            ready.set()

    thread = threading.Thread(target=count)
    thread.start()
    ready.wait()
    try:
        work()
    finally:
        stop = True
        thread.join()
    return longest
