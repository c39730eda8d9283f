"""A site's defaults, `shmbench.toml`: systems, their partitions, launchers and references.

The manner is ReFrame's: a system is told by its host names, a partition is a way to get nodes of it
with what they need, and a reference is a value with bounds as fractions of it. Partition goes over
system, and the command line over both. `slurm/README.md` has an example.
"""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

from shmbench.errors import UsageError
from shmbench.host import host_name
from shmbench.registry import nearest

FILE_NAME = "shmbench.toml"
VARIABLE = "SHMBENCH_CONFIG"


class Defaults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a system and a partition may set; None leaves it to the next one.

    Attributes:
        partition: of a system: the partition taken without --partition; of a partition: Slurm's
            name for it, where that is not its own.
        directives: further options of sbatch, "--comment=x"; all of them add up.
        modules: to load, in this order; they add up, too.
        venv: directory of the virtual environment to activate.
        launcher: the name of one, or a command: what starts the ranks of an MPI job.
        environment: variables to set.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    constraint: str | None = None
    gres: str | None = None
    exclusive: bool | None = None
    cpus_per_task: int | None = None
    mail_user: str | None = None
    mail_type: str | None = None
    directives: list[str] = []
    modules: list[str] = []
    venv: str | None = None
    launcher: str | None = None
    environment: dict[str, str] = {}


class Partition(Defaults, kw_only=True, forbid_unknown_fields=True):
    """A way to get nodes."""

    name: str
    description: str = ""


class Reference(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a figure shall be: all results that have the given keys are held to it.

    Attributes:
        value: in `unit`.
        low, high: bounds as fractions of the value: -0.1 is 10 % below; without one, none.
        unit: ns, us, ms, s: seconds per operation; B/s to TB/s: payload bytes a second;
            x: times the time of the limit, 1 is the hardware's.
        size: of the message, such as "8" or "4K".
    """

    workload: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    channel: str | None = None
    driver: str | None = None
    region: str | None = None
    pages: str | None = None
    size: str | None = None
    policy: str | None = None
    cache: str | None = None
    placement: str | None = None
    variant: str | None = None
    launcher: str | None = None
    ranks: int | None = None


class System(Defaults, kw_only=True, forbid_unknown_fields=True):
    """A machine.

    Attributes:
        hosts: regular expressions; a host that one of them matches as a whole is of this system.
        launchers: name -> command.
    """

    name: str
    description: str = ""
    hosts: list[str] = []
    launchers: dict[str, str] = {}
    partitions: list[Partition] = []
    references: list[Reference] = []


class Site(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    systems: list[System] = []


def find(given: Path | None) -> Path | None:
    """The file: the given one, $SHMBENCH_CONFIG, here, of the user, of the site."""
    if given is not None:
        return given
    if named := os.environ.get(VARIABLE):
        return Path(named)
    places = (Path(), Path.home() / ".config/shmbench", Path("/etc"))
    return next((each / FILE_NAME for each in places if (each / FILE_NAME).is_file()), None)


def load_site(path: Path) -> Site:
    """Read and check a file.

    Raises:
        UsageError: it can't be read, is no TOML, or has an unknown key or a value of another type;
            the message names the place, the remedy the nearest key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "name another with --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}", "see slurm/README.md for one") from error
    for where, key, known in _unknown(document, Site, ""):
        raise UsageError(f"{path}: unknown key {where}{key}", nearest(key, known))
    try:
        site = msgspec.convert(document, type=Site)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}", "see slurm/README.md for what it may hold") from error
    for system in site.systems:
        _check(path, system)
    return site


def _unknown(value: Any, kind: Any, where: str) -> Iterator[tuple[str, str, list[str]]]:
    """Keys that a struct does not have: where, which, and which it has."""
    if get_origin(kind) is list and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, get_args(kind)[0], f"{where.rstrip('.')}[{index}].")
    if not (
        isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict)
    ):
        return
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, item in value.items():
        if key in fields:
            yield from _unknown(item, fields[key], f"{where}{key}.")
        else:
            yield where, key, list(fields)


def _check(path: Path, system: System) -> None:
    for pattern in system.hosts:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(
                f"{path}: {system.name}: hosts: {pattern!r} is no regular expression: {error}",
                r"write one like n\d+",
            ) from error
    for name, command in system.launchers.items():
        launcher_words(command, f"{path}: {system.name}: launcher {name}")


def launcher_words(command: str, where: str) -> list[str]:
    """A launcher's command as words.

    Raises:
        UsageError: it is empty, or its quotes don't match.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"{where}: {command!r}: {error}", "close the quotes") from error
    if not words:
        raise UsageError(f"{where} is empty", "write a command like: srun --mpi=pmix")
    return words


def choose_system(site: Site, name: str | None) -> System | None:
    """The system of that name, or the one that this host is of; None where the file has none.

    Raises:
        UsageError: there is no such system, or several and none has this host.
    """
    names = [system.name for system in site.systems]
    if name is not None:
        if name not in names:
            raise UsageError(f"unknown system {name!r}", nearest(name, names))
        return site.systems[names.index(name)]
    host = host_name()
    for system in site.systems:
        if any(re.fullmatch(pattern, host) for pattern in system.hosts):
            return system
    if len(site.systems) > 1:
        raise UsageError(
            f"{host} is of none of the systems {', '.join(names)}", "name one with --system"
        )
    return site.systems[0] if site.systems else None


def merged(system: System | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The command line's options over the partition's over the system's.

    Args:
        given: fields of Defaults; None where the command line is silent.

    Returns:
        All fields of Defaults; the launcher is a command, the partition Slurm's name.

    Raises:
        UsageError: a partition that the system does not list.
    """
    layers: list[Mapping[str, Any]] = [given]
    partition = given.get("partition") or (system.partition if system else None)
    if system is not None:
        if partition is not None and system.partitions:
            chosen = _partition(system, partition)
            partition = chosen.partition or chosen.name
            layers.append(msgspec.structs.asdict(chosen))
        layers.append(msgspec.structs.asdict(system))
    result: dict[str, Any] = {}
    for name in Defaults.__struct_fields__:
        values = [layer.get(name) for layer in layers]
        if name in ("directives", "modules"):
            result[name] = [item for value in reversed(values) for item in value or ()]
        elif name == "environment":
            result[name] = {k: v for value in reversed(values) for k, v in (value or {}).items()}
        else:
            result[name] = next((value for value in values if value is not None), None)
    result["partition"] = partition
    launchers = system.launchers if system else {}
    result["launcher"] = launchers.get(result["launcher"], result["launcher"])
    return result


def _partition(system: System, name: str) -> Partition:
    names = [partition.name for partition in system.partitions]
    if name not in names:
        raise UsageError(f"{system.name} has no partition {name!r}", nearest(name, names))
    return system.partitions[names.index(name)]
