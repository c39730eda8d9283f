"""The versioned result file, schema shmbench/1. The keys are fixed; more may stand beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from shmbench.cases import Cache, Case, Launcher
from shmbench.channels import Driver
from shmbench.errors import ResultFormatError

SCHEMA = "shmbench/1"

# The keys of each result that other people's scripts rely on: written always, null where one does
# not apply, and wanted when a file is read.
FIXED_KEYS = (
    *("workload", "channel", "region", "pages", "policy", "cache", "directory", "file_bytes"),
    *("driver", "launcher", "message_bytes", "ranks", "placement", "host", "unit", "samples"),
    *("median", "ci", "percentiles", "bytes_per_second", "limit", "counters", "flags", "error"),
)


class Limit(msgspec.Struct, kw_only=True):
    """What the hardware can do, measured in the same run.

    Attributes:
        name: "core_to_core", "memcpy (1 copy)" or "memcpy (2 copies)".
        value: seconds per operation at the limit: its median over the whole run.
        ratio: 1.0 is the limit, 2.0 is twice as slow. The median over rounds of the result's sample
            over the limit's sample of the same round, which stays right on a machine that changes
            its speed from round to round; so it need not be the result's median over `value`.
        ci: 95 % interval of the ratio by bootstrap over rounds; None for a single one.
        samples: the limit beside each of the result's samples, in their order.
        flags: of the limit's own figure.
    """

    name: str
    value: float
    ratio: float
    ci: list[float] | None = None
    samples: list[float] = []
    flags: list[str] = []


class Failure(msgspec.Struct, kw_only=True):
    """Why a case gave no figure: the error's class, its one line, and the remedy."""

    type: str
    message: str
    remedy: str | None = None


class Result(msgspec.Struct, kw_only=True):
    """One case's figures. Times are seconds per operation; `operation` says what one is.

    Attributes:
        samples: one median a fresh process group, in the order measured.
        median: over samples; None when the case failed.
        ci: 95 % interval of the median by bootstrap over groups.
        percentiles: of single operations, by a histogram pass of its own; only those that the
            count of operations carries.
        bytes_per_second: payload bytes moved per second at the median.
        operation: what one operation is: "one-way message", "round trip", "barrier", ...
        copies: how often the transport copies each byte.
        cpus: the CPU of each rank, verified while running.
        evidence: what the pages really were (smaps, PAGEMAP_SCAN), and where.
        hand_over: seconds of a cache line's way between the first two ranks' CPUs, beside these
            samples: how far apart the machine had them.
        mpi: which MPI the ranks belonged to: vendor, version, library, provider, job size.
        figures: what else was measured, by name, one value for each of the samples: "_s" are
            seconds per operation, "_share" are of 1. By the ranks' own clocks: "fastest_rank_s",
            "mean_rank_s", "slowest_rank_s".
    """

    workload: str
    channel: str | None
    region: str | None
    pages: str | None
    policy: str | None
    cache: Cache | None
    directory: str | None
    file_bytes: int | None
    driver: Driver
    launcher: Launcher
    message_bytes: int | None
    ranks: int
    placement: str
    host: str
    unit: str = "s/op"
    samples: list[float] = []
    median: float | None = None
    ci: list[float] | None = None
    percentiles: dict[str, float] | None = None
    bytes_per_second: float | None = None
    limit: Limit | None = None
    counters: dict[str, float] = {}
    flags: list[str] = []
    error: Failure | None = None
    # beside the fixed keys
    variant: str | None = None
    operation: str | None = None
    copies: int | None = None
    first_touch: int | None = None
    numa: str | None = None
    window: int | None = None
    cpus: list[int] = []
    evidence: dict[str, Any] | None = None
    hand_over: float | None = None
    mpi: dict[str, Any] | None = None
    groups: int = 0
    figures: dict[str, list[float]] = {}

    def case(self) -> Case:
        """The case that was measured; two results are of the same thing when theirs are equal."""
        return Case(**{name: getattr(self, name) for name in Case.__struct_fields__})


class NodeRun(msgspec.Struct, kw_only=True):
    """One node of a file of several: of an MPI job, or collected.

    Attributes:
        host: as in its results.
        machine: its facts; empty where it left none.
        doctor: what the doctor found on it, as `shmbench doctor --json` says it.
        created: ISO time of its newest run.
        error: why its results are missing, or not all there.
    """

    host: str
    machine: dict[str, Any] = {}
    doctor: list[dict[str, str | None]] = []
    created: str = ""
    error: Failure | None = None


class ResultFile(msgspec.Struct, kw_only=True):
    """A whole run: the machine, the plan that was asked for, and a result a case.

    Attributes:
        machine: the facts; of many nodes those that all share.
        doctor: what the doctor found before the run; None where it was not asked.
        nodes: of a file that is of several; None for one.
    """

    schema: str
    machine: dict[str, Any]
    created: str
    plan: dict[str, Any]
    results: list[Result]
    doctor: list[dict[str, str | None]] | None = None
    nodes: list[NodeRun] | None = None


def node_runs(file: ResultFile) -> list[NodeRun]:
    """The nodes of a file: those that it names, or the one that it is of."""
    if file.nodes is not None:
        return file.nodes
    host = str(file.machine.get("hostname"))
    doctor = file.doctor or []
    return [NodeRun(host=host, machine=file.machine, doctor=doctor, created=file.created)]


def save(file: ResultFile, path: Path) -> None:
    """Write atomically: a reader sees the old file or the whole new one.

    Raises:
        OSError: the directory can't be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> ResultFile:
    """Read a result file.

    Raises:
        ResultFormatError: it can't be read, is no JSON, has another schema, or lacks a key.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ResultFormatError(
            f"{path}: {error.strerror}",
            "give the path of a file that `shmbench run --output` wrote",
        ) from error
    remedy = "measure again with: shmbench run --output FILE.json"
    try:
        document = msgspec.json.decode(raw, type=dict[str, Any])
        schema = document.get("schema")
        if schema != SCHEMA:
            raise ResultFormatError(
                f"{path}: schema is {schema!r}, this program reads {SCHEMA!r}", remedy
            )
        file = msgspec.convert(document, type=ResultFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ResultFormatError(f"{path}: not a result file: {error}", remedy) from error
    for index, result in enumerate(document["results"]):
        if missing := [key for key in FIXED_KEYS if key not in result]:
            raise ResultFormatError(f"{path}: results[{index}] lacks {', '.join(missing)}", remedy)
    return file
