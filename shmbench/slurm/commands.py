"""`shmbench slurm ...`: one short function a command. What it needs is imported when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shmbench.errors import UsageError
from shmbench.slurm.render import KINDS, JobOptions
from shmbench.slurm.render import render as rendered

if TYPE_CHECKING:
    from shmbench.results import ResultFile
    from shmbench.slurm.site import System

_BASE = Path("shmbench-jobs")
_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)

# Options that make no sense with other kinds.
_ONLY_OF = {
    "nodes": ("survey", "mpi"),
    "ranks": ("mpi", "node"),
    "at_a_time": ("survey",),
    "parameter": ("array",),
    "values": ("array",),
    "suite": ("node", "survey", "mpi", "array"),
}


@click.group()
def slurm() -> None:
    """Jobs of Slurm's that measure: render, submit, follow, collect.

    \b
    KIND is one of:
      node      one node, all suites
      survey    the same short suite on every node, to find the slow one
      mpi       the ranks of an MPI job over several nodes
      array     a job array over one parameter
      nightly   the nightly regression test, by asv

    Defaults of a site stand in shmbench.toml. What follows -- goes to `shmbench run`,
    or to `asv run`.
    """


def _variables(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Any:
    """NAME=VALUE, several times."""
    pairs = [each.partition("=") for each in value]
    for name, equals, _ in pairs:
        if not equals:
            raise UsageError(f"--env {name!r} has no value", "write NAME=VALUE")
    return {name: text for name, _, text in pairs}


def _split(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """Comma-separated values."""
    return None if value is None else tuple(part.strip() for part in value.split(","))


_SITE_OPTIONS = (
    click.option("--config", type=_FILE, help="The site's file; default: see slurm/README.md."),
    click.option("--system", "system_name", help="Of the file; default: the one of this host."),
)

_JOB_OPTIONS = (
    click.argument("kind", type=click.Choice(list(KINDS))),
    click.argument("arguments", nargs=-1, type=click.UNPROCESSED),
    click.option("--suite", help="Of `shmbench run`; default: by KIND."),
    click.option("--name", help="Of the job."),
    click.option("--nodes", type=click.IntRange(1), help="How many (survey, mpi); default: 2."),
    click.option("--ranks", type=click.IntRange(2), help="Of MPI, on each node; default: 2."),
    click.option("--at-a-time", type=click.IntRange(1), help="Nodes of a survey; default: all."),
    click.option("--parameter", help="Of an array: an option of `shmbench run`; default: size."),
    click.option("--values", callback=_split, help="Of an array's parameter: 8,4K,1M."),
    click.option("--partition"),
    click.option("--account"),
    click.option("--qos"),
    click.option("--time", help="The limit, as sbatch takes it; default: by KIND."),
    click.option("--constraint"),
    click.option("--gres"),
    click.option("--exclusive/--shared", default=None, help="Nodes for this job alone (default)."),
    click.option("--cpus-per-task", type=click.IntRange(1), help="For --shared."),
    click.option("--mail-user"),
    click.option("--mail-type"),
    click.option("--directive", "directives", multiple=True, help="Another option of sbatch."),
    click.option("--module", "modules", multiple=True, help="To load; may be repeated."),
    click.option("--venv", help="To activate; submit takes the one that it runs in."),
    click.option("--launcher", help="Of MPI ranks: a name of the site's, or a command."),
    click.option("--env", "environment", multiple=True, callback=_variables, help="NAME=VALUE."),
    *_SITE_OPTIONS,
)


def _job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_JOB_OPTIONS):
        command = option(command)
    return command


def _site_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_SITE_OPTIONS):
        command = option(command)
    return command


def _system(config: Path | None, name: str | None) -> System | None:
    """The system that this is about; None where no site's file says anything."""
    from shmbench.slurm.site import choose_system, find, load_site

    path = find(config)
    if path is not None:
        return choose_system(load_site(path), name)
    if name is not None:
        raise UsageError(f"--system {name}: there is no shmbench.toml", "name one with --config")
    return None


def _job(
    config: Path | None, system_name: str | None, given: dict[str, Any]
) -> tuple[JobOptions, System | None]:
    """The options of a job, the site's defaults below them."""
    from shmbench.slurm.site import Defaults, launcher_words, merged

    system = _system(config, system_name)
    defaults = merged(system, {name: given.pop(name) for name in Defaults.__struct_fields__})
    launcher = launcher_words(defaults.pop("launcher") or "srun", "--launcher")
    exclusive = defaults.pop("exclusive")
    _check_arguments(given["kind"], given["suite"], given["arguments"])
    for name, only_of in _ONLY_OF.items():
        if given[name] is None:
            del given[name]  # JobOptions has its default
        elif given["kind"] not in only_of:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{option}: a job of kind {given['kind']} has none", f"take {' or '.join(only_of)}"
            )
    for name in ("directives", "modules"):
        defaults[name] = tuple(defaults[name])
    options = JobOptions(
        **given,
        **defaults,
        launcher=tuple(launcher),
        exclusive=exclusive is not False,
    )
    return options, system


def _check_arguments(kind: str, suite: str | None, arguments: tuple[str, ...]) -> None:
    """Have `shmbench run` look at its arguments now, not when the job runs."""
    if kind == "nightly":
        return  # they are asv's
    own = {"node": "all", "survey": "survey", "mpi": "mpi"}.get(kind)
    words = [word for word in (suite or own, *arguments) if word is not None]
    run = click.get_current_context().find_root().command
    assert isinstance(run, click.Group)
    parsed = run.commands["run"].make_context("shmbench run", words).params
    for name in ("output", "launcher"):
        if parsed[name] is not None:
            raise UsageError(f"--{name} is the job script's own", f"leave --{name} out after --")


@slurm.command()
@_job_options
@click.option("--results", type=_DIRECTORY, help="Where the job writes; default: beside its log.")
def render(config: Path | None, system_name: str | None, **given: Any) -> None:
    """Print the script of a job, to read, to change, or to hand to sbatch."""
    click.echo(rendered(_job(config, system_name, given)[0]), nl=False)


@slurm.command()
@_job_options
@click.option("--results", type=_DIRECTORY, default=_BASE, show_default=True, help="For all jobs.")
@click.option("--wait", is_flag=True, help="Follow the job to its end; exit 1 when it fails.")
@click.option("--test-only", is_flag=True, help="Ask sbatch about the script; submit nothing.")
def submit(
    config: Path | None,
    system_name: str | None,
    results: Path,
    wait: bool,
    test_only: bool,
    **given: Any,
) -> None:
    """Submit a job. Its script, log and results come into one directory below --results."""
    from dataclasses import replace

    from shmbench.slurm import jobs

    given["venv"] = given["venv"] or _own_venv()
    options, system = _job(config, system_name, given)
    options = replace(options, directory=Path.cwd())
    if test_only:
        click.echo(jobs.test_only(rendered(options), Path.cwd()))
        return
    # What is wrong in it is said before anything is made.
    rendered(replace(options, results=results.absolute()))
    directory = jobs.new_directory(results, options.kind)
    script = rendered(replace(options, results=directory))
    record = jobs.submit(script, options.kind, directory, system.name if system else None)
    click.echo(f"job {record.job_id}: {directory}")
    if wait:
        _follow(directory)
    else:
        click.echo(f"follow it:  shmbench slurm status {directory}")
    if options.kind != "nightly":
        click.echo(f"afterwards: shmbench slurm collect {directory}")
    if wait and jobs.failed(directory):
        sys.exit(1)


def _own_venv() -> str | None:
    """The virtual environment that this program runs in."""
    inside = sys.prefix != sys.base_prefix and (Path(sys.prefix) / "bin/activate").exists()
    return sys.prefix if inside else None


def _follow(directory: Path) -> None:
    from shmbench.session import shown_progress
    from shmbench.slurm.jobs import follow

    try:
        with shown_progress() as progress:
            click.echo(follow(directory, progress.show))
    except KeyboardInterrupt:
        click.echo(f"the job goes on; follow it: shmbench slurm status {directory}", err=True)
        raise


@slurm.command()
@click.argument("directories", nargs=-1, type=_DIRECTORY)
def status(directories: tuple[Path, ...]) -> None:
    """How jobs are, and how far their results; default: all below ./shmbench-jobs."""
    from shmbench.report.tables import jobs_table
    from shmbench.report.terminal import show
    from shmbench.slurm import jobs

    chosen = directories or tuple(sorted(path.parent for path in _BASE.glob(f"*/{jobs.JOB_FILE}")))
    if not chosen:
        raise UsageError(f"there is no job below {_BASE}", "name the directory of one")
    show(jobs_table([jobs.row(directory) for directory in chosen]))


@slurm.command()
@click.argument("directories", nargs=-1, required=True, type=_DIRECTORY)
@click.option("--output", type=_FILE, help="The result file; default: collected.json there.")
@click.option(
    "--false-alarms",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.05,
    show_default=True,
    help="Sound nodes called slow in all, on average.",
)
@click.option(
    "--least",
    type=click.FloatRange(0),
    default=0.10,
    show_default=True,
    help="A node is slow from this share above the median on.",
)
@_site_options
def collect(
    directories: tuple[Path, ...],
    output: Path | None,
    false_alarms: float,
    least: float,
    config: Path | None,
    system_name: str | None,
) -> None:
    """Merge the results of all nodes into one file, rank the nodes, and name those that stand out.

    Exit code 1 when a node is slow, disturbed, failed, or out of the site's references.
    """
    from shmbench.report.tables import survey_table
    from shmbench.report.terminal import show
    from shmbench.results import save
    from shmbench.slurm.collect import COLLECTED
    from shmbench.slurm.collect import collect as merge
    from shmbench.survey import Rule, survey

    system = _system(config, system_name)
    file = merge(directories)
    outside, unanswered = _hold(file, system)
    found = survey(file, Rule(false_alarms, 1 + least))
    output = output or directories[0] / COLLECTED
    save(file, output)
    show(survey_table(found))
    for line in outside:
        click.echo(f"out of reference: {line}")
    for line in unanswered:
        click.echo(f"no result answers to the reference: {line}")
    click.echo(f"results: {output}\nnext: shmbench report {output} --output report.html")
    if outside or len(found.of("ok")) < len(found.verdicts):
        sys.exit(1)


def _hold(file: ResultFile, system: System | None) -> tuple[list[str], list[str]]:
    """Hold the results to the site's references; who falls out stands in the file, too."""
    from shmbench.slurm.references import label, outside

    found, unanswered = outside(system.references if system else [], file.results)
    lines = [str(each) for each in found]
    if system is not None:
        file.plan["system"] = system.name
        file.plan["outside_references"] = lines
    return lines, [label(reference) for reference in unanswered]
