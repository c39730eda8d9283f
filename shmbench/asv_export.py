"""Result files to asv's results: runs of Slurm or MPI jobs beside what asv measured by itself.

A workload becomes a benchmark `run.WORKLOAD`, whose parameter is the rest of the case; a host, or a
partition whose nodes count as one, becomes a machine. asv's own classes write the files. `asv run`
drops from benchmarks.json what it has not discovered, so `register` puts it in again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shmbench.errors import Unavailable, UsageError
from shmbench.measure.flags import Flag
from shmbench.results import Result, ResultFile
from shmbench.workloads import WORKLOADS

if TYPE_CHECKING:
    from asv.results import Results

_ENVIRONMENT = "shmbench-run"  # begins the name of each exported environment
_PREFIX = "run."
_VERSION = "1"  # of what a sample is: the median of one process group, seconds per operation
_PARAMETER = "case"


@dataclass
class Export:
    """What an export did: the files written, and what was left out of them, a line each."""

    written: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def export(
    files: Iterable[ResultFile], results: Path, commit: str, repository: Path, machine: str | None
) -> Export:
    """Write result files into a folder of asv's results, for one commit.

    Args:
        results: asv's `results_dir`.
        commit: that was measured: a hash, or what git takes for one.
        repository: where its date is looked up.
        machine: a name for all hosts, such as that of a partition; their samples are put together.
            None: each host is a machine.

    Raises:
        Unavailable: asv is not installed.
        UsageError: no such commit or repository.
    """
    commit, date_ms = _look_up(commit, repository)
    done = Export()
    by_place: dict[tuple[str, tuple[tuple[str, str], ...]], list[Result]] = defaultdict(list)
    facts: dict[str, dict[str, Any]] = {}
    for file in files:
        for result in file.results:
            if Flag.UNTRUSTED in result.flags:
                done.left_out.append(f"{result.case().label()} on {result.host}: untrusted")
                continue
            name = machine or result.host
            facts.setdefault(name, file.machine)
            by_place[name, tuple(_mpi(result).items())].append(result)
    for (name, mpi), found in by_place.items():
        done.written.append(_write(results, name, facts[name], dict(mpi), found, (commit, date_ms)))
    register(results)
    return done


def register(results: Path) -> list[str]:
    """Put what was exported into asv's benchmarks.json; gives the names of those benchmarks."""
    need_asv()
    from asv import util
    from asv.benchmarks import Benchmarks
    from asv.results import iter_results

    cases: dict[str, dict[str, None]] = defaultdict(dict)
    for exported in iter_results(str(results)):
        if exported.env_name.startswith(_ENVIRONMENT):
            for name in exported.get_all_result_keys():
                cases[name].update(dict.fromkeys(exported.get_result_params(name)[0]))
    path = Benchmarks.get_benchmark_file_path(str(results))
    known = util.load_json(path, Benchmarks.api_version) if Path(path).exists() else {}
    kept = {name: each for name, each in known.items() if not name.startswith(_PREFIX)}
    added = {name: _benchmark(name, list(labels)) for name, labels in cases.items()}
    util.write_json(path, kept | added, Benchmarks.api_version)
    return sorted(added)


def need_asv() -> None:
    """Raise Unavailable, with the remedy, where asv is not installed."""
    try:
        import asv  # noqa: F401
    except ImportError as error:
        raise Unavailable(
            "asv is not installed", 'install it with: pip install "shmbench[asv]"'
        ) from error


def _look_up(commit: str, repository: Path) -> tuple[str, int]:
    """A commit's full hash, and its date as asv has it: milliseconds since 1970."""
    need_asv()
    from asv.plugins.git import Git
    from asv.repo import NoSuchNameError

    if not Git.is_local_repo(str(repository)):
        raise UsageError(f"{repository}: not a git repository", "name one with --repo")
    git = Git(str(repository), str(repository))
    try:
        found: str = git.get_hash_from_name(commit)
    except NoSuchNameError as error:
        raise UsageError(
            f"{commit}: no such commit in {repository}", "name one that it has, or --repo"
        ) from error
    return found, git.get_date(found)


def _mpi(result: Result) -> dict[str, str]:
    """The ranks' MPI and its version, by the name that it has in asv's matrix, too."""
    if not result.mpi:
        return {}
    return {"".join(result.mpi["vendor"].lower().split()): result.mpi["version"]}


def _benchmark(name: str, labels: list[str]) -> dict[str, Any]:
    """An entry of benchmarks.json."""
    workload = WORKLOADS.get(name.removeprefix(_PREFIX))
    return {
        "name": name,
        "pretty_name": f"{workload.name}, per {workload.operation}",
        "code": f"exported from runs of shmbench: {workload.summary}",
        "params": [labels],
        "param_names": [_PARAMETER],
        "type": "time",
        "unit": "seconds",
        "version": _VERSION,
        "timeout": None,
    }


def _write(
    results: Path,
    machine: str,
    facts: dict[str, Any],
    mpi: dict[str, str],
    found: list[Result],
    commit: tuple[str, int],
) -> Path:
    from asv.results import Results, get_filename

    about = _machine(results, machine, facts)
    python = ".".join(str(facts.get("python") or "").split(".")[:2])
    environment = "-".join([_ENVIRONMENT, f"py{python}", *(f"{k}-{v}" for k, v in mpi.items())])
    written = Results({**about, "python": python, **mpi}, {}, *commit, python, environment, {})
    written.load_data(str(results))
    by_workload: dict[str, list[Result]] = defaultdict(list)
    for result in found:
        by_workload[result.workload].append(result)
    for workload, measured in by_workload.items():
        _add(written, _PREFIX + workload, measured)
    written.save(str(results))
    return results / str(get_filename(machine, commit[0], environment))


def _machine(results: Path, name: str, facts: dict[str, Any]) -> dict[str, str]:
    """The machine as asv describes it; where it is known already, that stays."""
    from asv import util
    from asv.machine import Machine

    path = results / name / "machine.json"
    about = {
        "machine": name,
        "os": f"Linux {facts.get('kernel')}",
        "arch": str(facts.get("arch")),
        "cpu": str(facts.get("cpu_model")),
        "num_cpu": str(facts.get("cpus_online")),
        "ram": str(facts.get("memory_bytes")),
    }
    if not path.exists():
        machine = Machine()
        machine.__dict__.update(about)
        machine.save(str(results))
    else:
        known = util.load_json(str(path), Machine.api_version)
        about = {key: known.get(key, value) for key, value in about.items()}
    return about


def _add(written: Results, name: str, measured: list[Result]) -> None:
    """Add one workload's cases to what the file has of it already."""
    from asv.runner import BenchmarkResult

    samples: dict[str, list[float] | None] = {}
    if name in written.get_all_result_keys():
        params = written.get_result_params(name)
        samples = dict(zip(params[0], written.get_result_samples(name, params), strict=True))
    new: dict[str, list[float]] = defaultdict(list)
    for result in measured:
        label = result.case().label().removeprefix(result.workload).strip()
        new[repr(label)] += result.samples  # of a failed case: none
    samples |= {label: values or None for label, values in new.items()}
    has = [values is not None for values in samples.values()]
    written.add_result(
        _benchmark(name, list(samples)),
        BenchmarkResult(
            result=[True if each else None for each in has],
            samples=list(samples.values()),
            number=[1 if each else None for each in has],
            errcode=0 if all(has) else 1,
            stderr="",
            profile=None,
        ),
        record_samples=True,
    )
