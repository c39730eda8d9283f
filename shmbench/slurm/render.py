"""A job script from a template: what the options say, and nothing that anybody could misread.

Bash gets every value quoted (shlex). Slurm reads directives by rules of its own, which differ
between versions, so a value there has only characters that mean themselves.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shmbench.errors import Unavailable, UsageError
from shmbench.registry import nearest

Kind = Literal["node", "survey", "mpi", "array", "nightly"]
KINDS: dict[Kind, str] = {
    "node": "One node, all suites.",
    "survey": "The same short suite on every node, to find the slow one.",
    "mpi": "The ranks of an MPI job over several nodes.",
    "array": "A job array over one parameter.",
    "nightly": "The nightly regression test, by asv.",
}
_TIMES: dict[Kind, str] = {
    "node": "02:00:00",
    "survey": "00:15:00",
    "mpi": "00:30:00",
    "array": "00:15:00",
    "nightly": "04:00:00",
}

# Options of `shmbench run` that an array can be over.
PARAMETERS = (
    *("workload", "channel", "region", "policy", "size", "cache", "file-size", "ranks", "driver"),
    *("pages", "placement", "first-touch", "numa", "dir"),
)

# They mean themselves to sbatch in all versions: no blank, no quote, no backslash, $, # or %.
_PLAIN = re.compile(r"[\w.,:;=/@+*&|()\[\]!~^-]+", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_DIRECTIVE = re.compile(r"(--?[a-zA-Z][\w-]*)(?:[= ](.+))?", re.ASCII)
# Those that the templates need as they are.
_OURS = (
    "--output",
    "--error",
    "--array",
    "--nodes",
    "--job-name",
    "--signal",
    "--open-mode",
    "--chdir",
)


@dataclass(frozen=True)
class JobOptions:
    """Everything that a script depends on.

    Attributes:
        suite: of `shmbench run`; None: what `arguments` choose.
        arguments: further arguments of `shmbench run`.
        nodes: how many.
        ranks: of MPI, on each node.
        at_a_time: how many nodes of a survey measure at the same time; None: all.
        parameter, values: what an array is over: an option of `shmbench run`, without dashes.
        launcher: the words of the command that starts MPI ranks.
        results: the directory to write into; None: one beside where the job was submitted.
        directory: where the job runs; None: where it was submitted.
    """

    kind: Kind
    name: str | None = None
    suite: str | None = None
    arguments: tuple[str, ...] = ()
    nodes: int | None = None
    ranks: int = 2
    at_a_time: int | None = None
    parameter: str = "size"
    values: tuple[str, ...] = ("8", "4K", "1M")
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    constraint: str | None = None
    gres: str | None = None
    exclusive: bool = True
    cpus_per_task: int | None = None
    mail_user: str | None = None
    mail_type: str | None = None
    directives: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    venv: str | None = None
    launcher: tuple[str, ...] = ("srun",)
    environment: dict[str, str] = field(default_factory=dict)
    results: Path | None = None
    directory: Path | None = None

    @property
    def job_name(self) -> str:
        return self.name or f"shmbench-{self.kind}"


def render(options: JobOptions) -> str:
    """The script.

    Raises:
        UsageError: a value that Slurm or a shell could misread.
        Unavailable: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise Unavailable("slurm needs jinja2", "pip install 'shmbench[report]'") from error
    _check(options)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=False,  # a shell's quoting is not HTML's: every value goes through `sh`
    )
    environment.filters["sh"] = shell
    environment.filters["words"] = lambda words: " ".join(map(shell, words))
    template = environment.get_template(f"{options.kind}.sh.jinja")
    return template.render(
        job=options,
        summary=KINDS[options.kind],
        directives=_directives(options),
        with_srun=Path(options.launcher[0]).name == "srun",
    )


def shell(value: object) -> str:
    """A value as one word of a shell's."""
    return shlex.quote(str(value))


def _check(options: JobOptions) -> None:
    texts: list[tuple[str, str | None]] = [
        ("--venv", options.venv),
        ("--results", str(options.results) if options.results else None),
        ("the directory", str(options.directory) if options.directory else None),
        *(("--module", each) for each in options.modules),
        *(("--values", each) for each in options.values),
        *(("--launcher", each) for each in options.launcher),
        *((f"--env {name}", value) for name, value in options.environment.items()),
        *(("an argument of run", each) for each in options.arguments),
    ]
    for what, text in texts:
        if text is not None and not text.isprintable():
            raise UsageError(
                f"{what}: {text!r} has a line break or another control character",
                "no name in a job script can have one: choose another",
            )
    if options.results and set("%\\") & set(str(options.results)):
        raise UsageError(
            f"--results: {str(options.results)!r} has a % or a backslash, and Slurm takes them for "
            "patterns in the path of the job's log",
            "choose another directory",
        )
    for name in options.environment:
        if not _NAME.fullmatch(name):
            raise UsageError(f"--env {name!r} is no name of a variable", "write NAME=VALUE")
    if options.kind == "array" and options.parameter not in PARAMETERS:
        raise UsageError(
            f"--parameter {options.parameter!r} is no option of shmbench run with a value",
            nearest(options.parameter, PARAMETERS),
        )
    if options.kind == "array" and not all(options.values):
        raise UsageError("--values: one of them is empty", "write them like 8,4K,1M")


def _directives(options: JobOptions) -> list[str]:
    """What follows #SBATCH, a line each."""
    ranks = {"mpi": options.ranks, "node": options.ranks}.get(options.kind, 1)
    one_node = options.kind not in ("survey", "mpi")
    pairs: list[tuple[str, Any]] = [
        ("job-name", options.job_name),
        ("partition", options.partition),
        ("account", options.account),
        ("qos", options.qos),
        ("nodes", 1 if one_node else options.nodes or 2),
        ("ntasks-per-node", ranks),
        ("cpus-per-task", options.cpus_per_task),
        ("array", f"0-{len(options.values) - 1}" if options.kind == "array" else None),
        ("time", options.time or _TIMES[options.kind]),
        ("constraint", options.constraint),
        ("gres", options.gres),
        ("mail-user", options.mail_user),
        ("mail-type", options.mail_type),
    ]
    lines = [f"--{name}={_plain(f'--{name}', str(value))}" for name, value in pairs if value]
    if options.exclusive:
        lines.append("--exclusive")
    return lines + [_own_directive(each) for each in options.directives]


def _plain(what: str, value: str) -> str:
    if not _PLAIN.fullmatch(value):
        raise UsageError(
            f"{what}: {value!r} has characters that Slurm could misread",
            "letters, digits and . , : ; = / @ + * & | ( ) [ ] ! ~ ^ _ - mean themselves",
        )
    return value


def _own_directive(text: str) -> str:
    """One of the user's own; a value with blanks is quoted."""
    found = _DIRECTIVE.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is no option of sbatch", "write it like --comment=x")
    name, value = found[1], found[2]
    if name in _OURS:
        raise UsageError(
            f"{text!r}: the script has its own {name}, and relies on it",
            "see `shmbench slurm render --help` for what can be chosen",
        )
    if value is None:
        return name
    _plain(name, value.replace(" ", ""))
    joint = "=" if name.startswith("--") else " "
    return f'{name}{joint}"{value}"' if " " in value else f"{name}{joint}{value}"
