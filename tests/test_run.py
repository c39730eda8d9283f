"""The program itself, as a user runs it: figures, files, interrupts, deaths, errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest
from needs import need

from shmbench.regions.names import fresh_name, stale_names
from shmbench.results import load

FIXED_KEYS = {
    *("workload", "channel", "region", "pages", "policy", "cache", "directory", "file_bytes"),
    *("driver", "launcher", "message_bytes", "ranks", "placement", "host", "unit", "samples"),
    *("median", "ci", "percentiles", "bytes_per_second", "limit", "counters", "flags", "error"),
}
SHMBENCH = [sys.executable, "-m", "shmbench"]


def shmbench(*arguments: str | Path, timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
    command = [*SHMBENCH, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)


def in_shm() -> set[str]:
    """What dead processes have left: other runs on this machine may be busy meanwhile."""
    return {path.name for path in stale_names(Path("/dev/shm"))}


def measuring() -> set[int]:
    """Processes of a running shmbench's measuring side."""
    found = set()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"shmbench.worker" in words:
            found.add(int(directory.name))
    return found


def wait_until_gone(before: set[int], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while measuring() - before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert measuring() - before == set()


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A short run over what is special: both drivers, a limit, bytes, percentiles, no channel."""
    output = tmp_path_factory.mktemp("run") / "small.json"
    done = shmbench(
        *(
            "run",
            "--workload",
            "ping_pong,stream,contention,barrier",
            "--channel",
            "spin,pipe,null",
        ),
        *("--size", "8,64K", "--quick", "--budget", "3", "--output", output),
    )
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def test_a_result_has_every_fixed_key_and_its_figures_make_sense(
    small_run: tuple[Path, str],
) -> None:
    file = json.loads(small_run[0].read_text())
    assert file["schema"] == "shmbench/1"
    assert file["machine"]
    assert file["plan"]["interrupted"] is False
    for result in file["results"]:
        assert set(result) >= FIXED_KEYS
        assert result["error"] is None
        assert result["median"] > 0
        assert result["unit"] == "s/op"
        assert len(result["cpus"]) == result["ranks"]
        moves = result["workload"] in ("stream", "memcpy") and result["channel"] != "null"
        assert (result["bytes_per_second"] is not None) == moves
    measured = {result["workload"] for result in file["results"]}
    assert {"core_to_core", "memcpy"} <= measured  # the limits, in the same run


def test_the_limit_and_the_percentiles_belong_to_their_figure(small_run: tuple[Path, str]) -> None:
    results = json.loads(small_run[0].read_text())["results"]
    spin = next(
        r
        for r in results
        if (r["workload"], r["channel"], r["message_bytes"]) == ("ping_pong", "spin", 8)
    )
    limit = next(r for r in results if r["workload"] == "core_to_core")
    assert spin["limit"]["value"] == limit["median"]
    ratios = [a / b for a, b in zip(spin["samples"], spin["limit"]["samples"], strict=True)]
    assert spin["limit"]["ratio"] == pytest.approx(median(ratios))
    assert set(spin["limit"]["samples"]) <= set(limit["samples"])
    assert {"p50", "p90", "p99", "max"} <= set(spin["percentiles"])
    ordered = [
        spin["percentiles"][name]
        for name in ("p50", "p90", "p99", "p99.9", "max")
        if name in spin["percentiles"]
    ]
    assert ordered == sorted(ordered)


def test_the_table_marks_drivers_and_names_units(small_run: tuple[Path, str]) -> None:
    shown = small_run[1]
    assert "ping_pong per one-way message, native driver" in shown
    assert "ping_pong per one-way message, python driver" in shown
    assert " ns" in shown
    assert "GB/s" in shown


def test_the_null_channel_is_cheaper_than_any_other(small_run: tuple[Path, str]) -> None:
    results = json.loads(small_run[0].read_text())["results"]
    for driver in ("native", "python"):
        of_driver = [r for r in results if r["workload"] == "ping_pong" and r["driver"] == driver]
        null = [r["median"] for r in of_driver if r["channel"] == "null"]
        others = [r["median"] for r in of_driver if r["channel"] != "null"]
        assert max(null) < min(others)


def test_a_report_and_a_comparison_can_be_made_of_it(
    small_run: tuple[Path, str], tmp_path: Path
) -> None:
    output = small_run[0]
    assert shmbench("report", output, "--output", tmp_path / "r.html").returncode == 0
    assert (tmp_path / "r.html").stat().st_size > 10_000
    same = shmbench("compare", output, output)
    assert same.returncode == 0, same.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_was_measured_and_leaves_nothing(
    number: signal.Signals, tmp_path: Path
) -> None:
    output = tmp_path / "partial.json"
    before, names = measuring(), in_shm()
    process = subprocess.Popen(
        [
            *SHMBENCH,
            *("run", "--workload", "ping_pong", "--channel", "spin,semaphore", "--region"),
            *("posix_shm", "--size", "8", "--output", str(output)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (output.exists() and load(output).results) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    shown, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert "interrupted" in shown
    file = json.loads(output.read_text())
    assert file["plan"]["interrupted"] is True
    assert any(result["samples"] for result in file["results"])
    wait_until_gone(before)
    assert in_shm() <= names


def test_a_killed_program_takes_its_processes_with_it(tmp_path: Path) -> None:
    before = measuring()
    process = subprocess.Popen(
        [*SHMBENCH, "run", "--workload", "ping_pong", "--channel", "spin", "--size", "8"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while len(measuring() - before) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    wait_until_gone(before)


def test_what_can_not_be_had_fails_alone_and_with_a_remedy(tmp_path: Path) -> None:
    output = tmp_path / "some.json"
    done = shmbench(
        *("run", "--workload", "ping_pong", "--channel", "spin", "--region", "mp_shm,memfd"),
        *("--pages", "thp", "--size", "8", "--quick", "--budget", "1", "--output", output),
    )
    assert done.returncode == 1
    results = {r["region"]: r for r in json.loads(output.read_text())["results"]}
    assert results["mp_shm"]["error"]["type"] == "Unavailable"
    assert results["mp_shm"]["error"]["remedy"]
    assert results["memfd"]["error"] is None


def test_a_full_file_system_is_an_error_and_no_bus_error(tmp_path: Path) -> None:
    need(os.geteuid() == 0, "mounting a small tmpfs needs root", "run as root")
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], check=True)
    try:
        output = tmp_path / "full.json"
        done = shmbench(
            *("run", "--workload", "ping_pong", "--channel", "spin", "--region", "file", "--dir"),
            *(mount, "--size", "1M", "--quick", "--budget", "1", "--output", output),
        )
    finally:
        subprocess.run(["umount", mount], check=True)
    assert done.returncode == 1
    errors = [r["error"] for r in json.loads(output.read_text())["results"] if r["error"]]
    assert [error["type"] for error in errors] == ["Unavailable"]
    assert str(mount) in errors[0]["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nope"], "unknown suite 'nope'"),
        (["run", "--workload", "pingpong"], "did you mean ping_pong?"),
        (["run", "--channel", "spn"], "did you mean spin?"),
        (["run", "--region", "annonymous"], "did you mean anonymous?"),
        (["run", "--size", "3Q"], "write a size like"),
        (["run", "--placement", "0,4711"], "CPU 4711"),
        (["run", "--ranks", "5", "--workload", "stream"], "stream takes 2 ranks"),
        (["run", "--output", "/nonexistent/x.json"], "/nonexistent"),
        (["run", "--frobnicate"], "--frobnicate"),
        (["compare", "/nonexistent/a.json", "/nonexistent/b.json"], "/nonexistent/a.json"),
        (["report", "/etc/hostname"], "/etc/hostname"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = shmbench(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_list_and_doctor_speak_json_too() -> None:
    listed = json.loads(shmbench("list", "--json").stdout)
    assert {"regions", "channels", "policies", "workloads", "suites"} == set(listed)
    for rows in listed.values():
        for row in rows:
            assert row["available"] or (row["reason"] and row["remedy"]), row
    assert all(check["status"] for check in json.loads(shmbench("doctor", "--json").stdout))


def test_clean_takes_what_a_dead_process_left_and_nothing_else() -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = Path("/dev/shm") / fresh_name(dead.pid)
    kept = Path("/dev/shm") / fresh_name()
    left.touch()
    kept.touch()
    try:
        assert f"would remove {left}" in shmbench("clean", "--dry-run").stdout
        assert left.exists()
        assert f"removed {left}" in shmbench("clean").stdout
        assert not left.exists()
        assert kept.exists()
    finally:
        left.unlink(missing_ok=True)
        kept.unlink()
