"""Many nodes' result files to one, and references to who falls out of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shmbench import machine
from shmbench.errors import ResultFormatError, UsageError
from shmbench.results import SCHEMA, Failure, NodeRun, Result, ResultFile, load, node_runs
from shmbench.slurm.jobs import JOB_FILE, expected

COLLECTED = "collected.json"
_LOG_TAIL_BYTES = 4096


@dataclass(frozen=True)
class _Source:
    """One file of a directory: what it holds, or why it holds nothing."""

    name: str
    file: ResultFile | None
    error: Failure | None


def collect(directories: Sequence[Path]) -> ResultFile:
    """Merge the results of all nodes.

    Of a host and case there is one result: one with a figure before one without, then the newest.
    A file that is expected and not there, can't be read, or was cut short is an error of its node.

    Raises:
        UsageError: a directory holds nothing to collect.
    """
    sources = [source for directory in directories for source in _sources(directory)]
    files = [source.file for source in sources if source.file is not None]
    nodes = _nodes(sources)
    results = _merged(files)
    for result in results:
        nodes.setdefault(result.host, NodeRun(host=result.host))
    first = min(files, key=lambda file: file.created, default=None)
    left_out = {case: why for file in files for case, why in file.plan.get("left_out", {}).items()}
    plan = {
        "suite": machine.agreed([file.plan.get("suite") for file in files]),
        "options": machine.agreed([file.plan.get("options") for file in files]),
        "shmbench": machine.agreed([file.plan.get("shmbench") for file in files]),
        "collected": len(files),
        "left_out": left_out,
        "interrupted": any(source.error is not None for source in sources),
        "elapsed_s": max((file.plan.get("elapsed_s", 0.0) for file in files), default=0.0),
    }
    return ResultFile(
        schema=SCHEMA,
        machine=machine.shared([node.machine for node in nodes.values() if node.machine]),
        created=first.created if first else "",
        plan=plan,
        results=results,
        nodes=[nodes[host] for host in sorted(nodes, key=_natural)],
    )


def _sources(directory: Path) -> list[_Source]:
    """Every result file of a directory, and what is expected and not there."""
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such directory", "name the one of a job")
    ours = (JOB_FILE, COLLECTED)
    names = [path.stem for path in directory.glob("*.json") if path.name not in ours]
    wanted = dict.fromkeys([*expected(directory), *sorted(names)])
    if not wanted:
        raise UsageError(
            f"{directory} holds no results", "see its log, or wait: shmbench slurm status"
        )
    found = [_read(directory, name) for name in wanted]
    return [source for source in found if not (source.file and source.file.nodes)]


def _read(directory: Path, name: str) -> _Source:
    path = directory / f"{name}.json"
    log = _last_line(directory / f"{name}.log")
    said = f"; its log ends: {log}" if log else ""
    remedy = f"see {directory / name}.log"
    if not path.exists():
        failure = Failure(type="PeerFailed", message=f"it left no results{said}", remedy=remedy)
        return _Source(name, None, failure)
    try:
        file = load(path)
    except ResultFormatError as error:
        failure = Failure(type="ResultFormatError", message=error.message, remedy=error.remedy)
        return _Source(name, None, failure)
    if file.plan.get("interrupted"):
        message = f"its run was cut short after {file.plan.get('elapsed_s', 0)} s{said}"
        return _Source(name, file, Failure(type="PeerFailed", message=message, remedy=remedy))
    return _Source(name, file, None)


def _last_line(path: Path) -> str:
    """What a task said last; empty where it said nothing."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
            lines = stream.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    said = ["".join(c for c in line if c.isprintable()).strip() for line in lines]
    return next((line for line in reversed(said) if line), "")


def _nodes(sources: Iterable[_Source]) -> dict[str, NodeRun]:
    """By host: the facts and findings of its newest file, and what went wrong."""
    found: dict[str, NodeRun] = {}
    for source in sorted(sources, key=lambda source: source.file.created if source.file else ""):
        for run in node_runs(source.file) if source.file else [NodeRun(host=source.name)]:
            before = found.get(run.host, run)
            newest = run if source.file else before
            error = source.error or run.error or before.error
            found[run.host] = msgspec.structs.replace(newest, error=error)
    return found


def _merged(files: Iterable[ResultFile]) -> list[Result]:
    """One result for each host and case."""
    found: dict[tuple[str, object], tuple[tuple[bool, str], Result]] = {}
    for file in files:
        for result in file.results:
            key = (result.host, result.case())
            rank = (result.error is None and result.median is not None, file.created)
            if key not in found or rank >= found[key][0]:
                found[key] = (rank, result)
    return [result for _, result in found.values()]


def _natural(host: str) -> tuple[object, ...]:
    """n2 before n10."""
    digits, parts = "", []
    for char in host:
        if char.isdigit():
            digits += char
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, char))
    return (*parts, (0, int(digits), "") if digits else (2, 0, ""))
