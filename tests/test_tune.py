"""tune: as a user runs it, on a file that isn't ours to change."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from needs import need

from shmbench.regions.file import default_directories
from shmbench.regions.mounts import mount_of
from shmbench.report.tuning import tuning_lines
from shmbench.tune import Candidate, Tuning

MIB = 1 << 20
SHMBENCH = [sys.executable, "-m", "shmbench"]


def shmbench(*arguments: object, timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
    command = [*SHMBENCH, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)


@pytest.fixture(params=["disk", "memory"])
def data(request):
    """A file of somebody's, read-only, and the cache state that it can be measured in."""
    in_memory = request.param == "memory"
    for directory in default_directories():
        mount = mount_of(directory)
        if mount is not None and mount.in_memory is in_memory:
            break
    else:
        need(False, f"no directory on a {request.param}", "make /dev/shm and /var/tmp writable")
    path = Path(directory) / f"tune-test-{os.getpid()}.bin"
    path.write_bytes(np.random.default_rng(0).bytes(4 * MIB))
    path.chmod(0o400)
    yield path, "warm" if in_memory else "cold"
    path.unlink()


def digest(path):
    found = path.stat()
    return hashlib.sha256(path.read_bytes()).hexdigest(), found.st_mtime_ns, found.st_size


def test_tune_names_a_winner_for_a_file_and_leaves_the_file_as_it_was(data):
    path, cache = data
    before = digest(path)
    done = shmbench("tune", path, "--pattern", "strided:64K", "--budget", 1, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert digest(path) == before
    assert found["cache"] == cache
    assert found["accesses"] == 64
    measured = {each["policy"]: each for each in found["candidates"]}
    assert {"none", "random", "auto", "guided"} <= set(measured)
    assert all(each["error"] is None for each in found["candidates"]), found["candidates"]
    assert measured["none"]["speedup"] == 1.0
    assert found["winner"] in measured
    assert any("measured warm" in note for note in found["notes"]) == (cache == "warm")
    seconds = [each["seconds"] for each in found["candidates"]]
    assert seconds == sorted(seconds)


def test_tune_prints_a_program_that_runs(data, tmp_path):
    path, _ = data
    done = shmbench("tune", path, "--pattern", "random", "--policy", "auto", "--budget", 1)
    assert done.returncode == 0, done.stderr
    assert "speed-up" in done.stdout
    lines = [line[4:] for line in done.stdout.splitlines() if line.startswith("    ")]
    program = "offset = 0\n" + "\n".join(lines[: lines.index("")] if "" in lines else lines)
    compile(program, "snippet", "exec")
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_recorded_trace_is_followed(data, tmp_path):
    path, _ = data
    trace = tmp_path / "trace.npy"
    np.save(trace, np.arange(100) * 4096)
    options = ("--policy", "none", "--budget", 1, "--json")
    done = shmbench("tune", path, "--pattern", trace, *options)
    assert json.loads(done.stdout)["accesses"] == 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("/nonexistent", "--pattern", "random"), "No such file"),
        (("/dev/null", "--pattern", "random"), "no regular file"),
        ((__file__, "--pattern", "rndom"), "did you mean random"),
        ((__file__, "--pattern", "random", "--size", "1G"), "smaller --size"),
        ((__file__, "--pattern", "random", "--policy", "magic"), "unknown policy"),
    ],
)
def test_what_can_not_be_tuned_is_said_in_one_line(arguments, words):
    done = shmbench("tune", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def candidate(policy, speedup, interval):
    return Candidate(
        policy=policy,
        summary="what it is",
        seconds=1e-6,
        speedup=speedup,
        interval=interval,
        snippet="shmbench.policy.open()",
        flags=[],
        error=None,
    )


def tuning(winner, *candidates, without_order=None):
    return Tuning(
        file="FILE",
        file_bytes=4 * MIB,
        pattern="random",
        cache="cold",
        accesses=10,
        access_bytes=4096,
        notes=["beware"],
        winner=winner,
        as_fast=[],
        without_order=without_order or winner,
        candidates=list(candidates),
    )


def test_the_verdict_has_the_interval_the_notes_and_the_program():
    none = candidate("none", 1.0, (0.9, 1.1))
    lines = tuning_lines(tuning("auto", candidate("auto", 5.1, (4.5, 6.0)), none))
    assert lines[0] == "note: beware"
    assert "auto wins, 5.10 times (4.50 to 6.00) as fast as none" in lines[1]
    assert "    import shmbench.policy" in lines


def test_where_nothing_wins_for_sure_the_kernel_is_left_alone():
    none = candidate("none", 1.0, (0.9, 1.1))
    lines = tuning_lines(tuning("none", candidate("auto", 1.1, (0.8, 1.3)), none))
    assert any(line.startswith("none wins") for line in lines)


def test_a_winner_that_must_know_the_order_has_another_one_beside_it():
    found = tuning(
        "guided",
        candidate("guided", 30.0, (28.0, 33.0)),
        candidate("auto", 5.1, (4.5, 6.0)),
        candidate("none", 1.0, (0.9, 1.1)),
        without_order="auto",
    )
    assert any("isn't known beforehand: auto wins" in line for line in tuning_lines(found))
