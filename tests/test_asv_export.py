"""Result files as asv's results, read back by asv itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from sample_results import sample_machine, sample_result

from shmbench.asv_export import export, register
from shmbench.cli import cli
from shmbench.errors import UsageError
from shmbench.results import SCHEMA, Failure, Result, ResultFile, save

MPI = {"vendor": "MPICH", "version": "5.0.1"}


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    return subprocess.check_output(["git", *identity, *arguments], cwd=folder, text=True).strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    for subject in ("first", "second"):
        git(folder, "commit", "-q", "--allow-empty", "-m", subject)
    conf = {"version": 1, "project": "test", "repo": ".", "branches": ["main"]}
    conf |= {"results_dir": "results", "html_dir": "html"}
    (folder / "asv.conf.json").write_text(json.dumps(conf))
    return folder


def a_file(*results: Result) -> ResultFile:
    return ResultFile(
        schema=SCHEMA,
        machine=sample_machine("n1"),
        created="2026-11-25T12:00:00+00:00",
        plan={},
        results=list(results),
    )


def on(host: str, samples: list[float], **given: object) -> Result:
    result = sample_result(message_bytes=8)
    changed = {"host": host, "samples": samples, "median": sorted(samples)[len(samples) // 2]}
    return msgspec.structs.replace(result, **changed, flags=[], mpi=MPI, **given)


def asv(folder: Path, *arguments: str) -> str:
    return subprocess.check_output(
        [sys.executable, "-m", "asv", *arguments], cwd=folder, text=True, stderr=subprocess.STDOUT
    )


def two_nodes(scale: float = 1.0) -> ResultFile:
    return a_file(
        on("n1", [scale * s for s in (1.0e-7, 1.1e-7, 1.2e-7)]),
        on("n2", [scale * s for s in (2.0e-7, 2.1e-7, 2.2e-7)]),
    )


def test_each_host_is_a_machine_that_asv_can_show(repository: Path) -> None:
    done = export([two_nodes()], repository / "results", "HEAD", repository, None)
    assert sorted(path.parent.name for path in done.written) == ["n1", "n2"]
    for host, shown in (("n1", "110±"), ("n2", "210±")):
        text = asv(repository, "show", "--machine", host, git(repository, "rev-parse", "HEAD"))
        assert "run.ping_pong" in text
        assert shown in text
        assert "mpich" in text


def test_a_partition_is_one_machine_with_the_samples_of_all_its_nodes(repository: Path) -> None:
    results = repository / "results"
    done = export([two_nodes()], results, "HEAD", repository, "epyc-partition")
    (path,) = done.written
    columns = json.loads(path.read_text())
    row = dict(zip(columns["result_columns"], columns["results"]["run.ping_pong"], strict=False))
    assert sorted(row["samples"][0]) == [1.0e-7, 1.1e-7, 1.2e-7, 2.0e-7, 2.1e-7, 2.2e-7]
    assert json.loads((results / "epyc-partition/machine.json").read_text())["arch"] == "x86_64"


def test_asv_compares_the_exports_of_two_commits(repository: Path) -> None:
    results = repository / "results"
    steady = a_file(on("n1", [1e-7 + i * 1e-10 for i in range(10)]))
    slower = a_file(on("n1", [1.3e-7 + i * 1e-10 for i in range(10)]))
    export([steady], results, "HEAD~1", repository, None)
    export([slower], results, "HEAD", repository, None)
    text = asv(repository, "compare", "--machine", "n1", "HEAD~1", "HEAD")
    (line,) = [line for line in text.splitlines() if "run.ping_pong" in line]
    assert line.split("|")[1].strip() == "+"
    assert line.split("|")[4].strip() == "1.3"


def test_a_second_export_adds_to_the_first_and_repeats_nothing(repository: Path) -> None:
    results = repository / "results"
    export([a_file(on("n1", [1e-7, 2e-7]))], results, "HEAD", repository, None)
    other = on("n1", [3e-7, 4e-7], channel="pipe")
    for _ in range(2):
        (path,) = export([a_file(other)], results, "HEAD", repository, None).written
    columns = json.loads(path.read_text())
    row = dict(zip(columns["result_columns"], columns["results"]["run.ping_pong"], strict=False))
    assert row["samples"] == [[1e-7, 2e-7], [3e-7, 4e-7]]


def test_a_failed_case_is_failed_and_an_untrusted_one_left_out(repository: Path) -> None:
    failed = on("n1", [1e-7], channel="cma")
    failed.samples, failed.median = [], None
    failed.error = Failure(type="PeerFailed", message="rank 1 was killed")
    doubtful = on("n1", [1e-7], channel="pipe")
    doubtful.flags = ["untrusted"]
    file = a_file(on("n1", [1e-7, 1e-7]), failed, doubtful)
    done = export([file], repository / "results", "HEAD", repository, None)
    assert len(done.left_out) == 1
    assert "pipe" in done.left_out[0]
    text = asv(repository, "show", "--machine", "n1", git(repository, "rev-parse", "HEAD"))
    assert "1/2 failed" in text


def test_what_asv_run_dropped_is_registered_again_beside_its_own(repository: Path) -> None:
    results = repository / "results"
    export([two_nodes()], results, "HEAD", repository, None)
    path = results / "benchmarks.json"
    known = json.loads(path.read_text())
    own = {**known["run.ping_pong"], "name": "bench_ipc.Own", "params": [], "param_names": []}
    path.write_text(json.dumps({"bench_ipc.Own": own, "version": known["version"]}))
    assert register(results) == ["run.ping_pong"]
    assert {"bench_ipc.Own", "run.ping_pong"} < set(json.loads(path.read_text()))


def test_a_commit_that_is_not_there_is_named(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nonsense: no such commit"):
        export([two_nodes()], repository / "results", "nonsense", repository, None)
    with pytest.raises(UsageError, match="not a git repository"):
        export([two_nodes()], repository / "results", "HEAD", tmp_path, None)


def test_the_command_says_what_it_wrote(repository: Path, tmp_path: Path) -> None:
    save(two_nodes(), tmp_path / "run.json")
    options = ["--results", str(repository / "results"), "--repo", str(repository)]
    done = CliRunner().invoke(cli, ["asv", "export", str(tmp_path / "run.json"), *options])
    assert done.exit_code == 0, done.output
    assert done.output.count("asv: ") == 2
    again = CliRunner().invoke(cli, ["asv", "export", *options[:2]])
    assert again.output == "registered: run.ping_pong\n"
