"""The command line: one short function a command. What it needs is imported when it runs."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from shmbench import __version__
from shmbench.errors import ResultFormatError, ShmbenchError, Unavailable, UsageError
from shmbench.slurm.commands import slurm

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shmbench.peers import Peer
    from shmbench.results import ResultFile


def _show(*parts: RenderableType) -> None:
    from shmbench.report.terminal import show

    show(*parts)


def _show_json(value: Any) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())


def _sizes(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """Comma-separated message sizes, such as 8,4K,1M."""
    from shmbench.units import parse_bytes_list

    return None if value is None else tuple(parse_bytes_list(value))


def _size(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """One size, such as 4K."""
    from shmbench.units import parse_bytes

    return parse_bytes(value)


def _of_this_host(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """A path with {host} in its name: many nodes may write into one directory."""
    from shmbench.host import host_name

    if value is None or "{host}" not in value.name:
        return value
    return value.with_name(value.name.replace("{host}", host_name()))


def _names(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """Comma-separated names."""
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names:
        raise UsageError(f"{param.opts[0]} is empty", "give at least one name")
    return names


def _placements(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """Names of placements, or one list of CPUs by rank: a list has commas itself."""
    if value is not None and value.replace(",", "").replace("-", "").isdigit():
        return (value,)
    return _names(ctx, param, value)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    """How fast is this node's shared memory, and is that what the hardware can do?

    Measures every way in which processes on a Linux node share memory and pass messages, beside
    what the hardware can do; says which is best, and whether it has become slower.

    Exit codes: 0 fine, 1 a regression or a failed case, 2 wrong usage.
    """


@cli.command()
@click.argument("suite", required=False)
@click.option("--workload", "workloads", callback=_names, help="Only these, e.g. ping_pong,stream.")
@click.option("--channel", "channels", callback=_names, help="Only these, e.g. spin,pipe.")
@click.option("--region", "regions", callback=_names, help="Over these, e.g. anonymous,memfd.")
@click.option("--size", "sizes", callback=_sizes, help="Message sizes, e.g. 8,4K,1M.")
@click.option("--policy", "policies", callback=_names, help="Only these, e.g. none,auto.")
@click.option("--cache", "caches", callback=_names, help="Files that are cold, warm, or both.")
@click.option("--file-size", "file_sizes", callback=_sizes, help="Of mapped files: 256M,2G.")
@click.option("--ranks", type=click.IntRange(1, 1024), help="How many ranks.")
@click.option(
    "--launcher",
    type=click.Choice(["process", "mpi"]),
    help="mpi: ranks of an MPI job, which is started unless this is one; default of the suite mpi.",
)
@click.option(
    "--one-node-at-a-time", is_flag=True, help="Of several nodes, one after the other measures."
)
@click.option(
    "--across-nodes", is_flag=True, help="Also between the job's nodes, over the channels of MPI."
)
@click.option("--like", help="As this benchmark of OSU or IMB, e.g. osu_latency or PingPong.")
@click.option("--driver", type=click.Choice(["native", "python"]), help="Only this driver.")
@click.option(
    "--pages", callback=_names, help="untouched, prefault, thp, hugetlb; default: by region."
)
@click.option(
    "--placement",
    "placements",
    callback=_placements,
    help="same_cpu, smt, l3, node, cross_node, available, pairs, or CPUs such as 0,1; default: "
    "the closest pair of different cores.",
)
@click.option("--first-touch", type=click.IntRange(0), help="The rank that writes each page first.")
@click.option("--numa", help="local, interleave, or bind:N: the nodes of the region's memory.")
@click.option("--dir", "directories", callback=_names, help="Where file regions live.")
@click.option("--budget", "budget_s", type=click.FloatRange(0, min_open=True), help="Seconds.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), default=30.0)
@click.option("--quick", is_flag=True, help="Two or three groups a case: rough figures, soon.")
@click.option("--doctor", is_flag=True, help="Keep what `shmbench doctor` finds in the file, too.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_of_this_host,
    help="The result file; {host} in its name stands for this node's.",
)
def run(suite: str | None, output: Path | None, launcher: str | None, **options: Any) -> None:
    """Measure SUITE (quick, ipc, policy, mpi, survey, all), or what the options choose.

    Without a suite, the options choose from everything; without any, the suite is quick. Each case
    is measured in fresh groups of processes, all cases in turn, until its interval is narrow or the
    budget ends; each at least once.

    Over MPI: `shmbench run mpi --ranks 4`, or `mpirun -n 4 python -m mpi4py -m shmbench run mpi`.
    """
    from shmbench.session import measure

    _check_output(output)
    of_mpi = {name: options.pop(name) for name in _OF_MPI}
    if _over_mpi(launcher, suite, options["ranks"]):
        _run_in_job(suite, output, of_mpi, options)
        return
    for name in (name for name, value in of_mpi.items() if value):
        raise UsageError(f"--{name.replace('_', '-')} is about MPI ranks", "add --launcher mpi")
    axes = {name: options.pop(name) for name in list(options) if name not in _EFFORT}
    _show_run(measure(suite, axes, output=output, **options), output)


def _over_mpi(launcher: str | None, suite: str | None, ranks: int | None) -> bool:
    """Is this process a rank that is to measure? Where a job is wanted, it is started here."""
    from shmbench.group import mpi
    from shmbench.launch import find_launcher, start, started_ranks

    wanted = launcher == "mpi" or (launcher is None and suite == "mpi")
    if mpi.inside():
        if launcher == "process":
            raise UsageError("--launcher process in an MPI job", "start shmbench without mpirun")
        mpi.check_size(started_ranks(), ranks)
        return True
    if (started_ranks() or 1) > 1:
        raise UsageError(
            f"a launcher started {started_ranks()} ranks, but not through mpi4py, so one that "
            "fails would let the others hang",
            "start them with: python -m mpi4py -m shmbench run ...",
        )
    if wanted:
        sys.exit(start(find_launcher(), ranks or 2, ["-m", "shmbench", *sys.argv[1:]]))
    return False


def _run_in_job(
    suite: str | None, output: Path | None, of_mpi: dict[str, Any], options: dict[str, Any]
) -> None:
    """What each rank of an MPI job does; the first shows the results of all nodes."""
    from shmbench.job import Job, run_job
    from shmbench.session_mpi import Wanted, measure

    options.pop("ranks")  # of the job; a case has as many as it can use
    axes = {name: options.pop(name) for name in list(options) if name not in _EFFORT}
    if suite is None and not any(axes.values()):
        suite = "mpi"

    like = _peer(of_mpi["like"], axes)
    wanted = Wanted(suite, axes, of_mpi["one_node_at_a_time"], of_mpi["across_nodes"], like)

    def lead(job: Job) -> None:
        file = measure(job, wanted, output, **options)
        if job.is_first and like is not None:
            _show_like(like, file)
        elif job.is_first:
            _show_run(file, output)

    run_job(output, options["timeout_s"], lead)


def _peer(name: str | None, axes: dict[str, Any]) -> Peer | None:
    """The benchmark of others that is to be measured; it says what to measure, all but sizes."""
    from shmbench.peers import peer_named

    if name is None:
        return None
    for axis, value in axes.items():
        if value is not None and axis not in ("sizes", "placements"):
            raise UsageError(
                f"--like {name} says itself what it measures: {axis} can't be chosen",
                "choose with --size, --placement and --ranks only, or leave --like out",
            )
    return peer_named(name)


def _show_like(peer: Peer, file: ResultFile) -> None:
    """What that benchmark would have printed, for each host."""
    from shmbench.report.peers import lines

    for host in dict.fromkeys(result.host for result in file.results):
        of_host = [result for result in file.results if result.host == host]
        for line in lines(peer, of_host):
            click.echo(line)
    errors = [result.error for result in file.results if result.error]
    for error in errors:
        click.echo(f"shmbench: {error.message}; {error.remedy or ''}", err=True)
    if errors or file.plan["interrupted"]:
        sys.exit(1)


def _show_run(file: ResultFile, output: Path | None) -> None:
    from shmbench.report.tables import results_table

    _show(results_table(file))
    for line in _closing_lines(file.plan, output):
        click.echo(line)
    if file.plan["interrupted"] or any(result.error for result in file.results):
        sys.exit(1)


_EFFORT = ("budget_s", "timeout_s", "quick", "doctor")
_OF_MPI = ("one_node_at_a_time", "across_nodes", "like")


def _check_output(output: Path | None) -> None:
    if output is not None and not os.access(output.parent, os.W_OK):
        raise UsageError(
            f"--output {output}: the directory {output.parent} is missing or can't be written",
            "create it, or choose another",
        )


def _closing_lines(plan: dict[str, Any], output: Path | None) -> list[str]:
    lines = [f"left out: {label}: {why}" for label, why in plan["left_out"].items()]
    if plan["interrupted"]:
        lines.append("interrupted: these are the figures until then")
    if output is not None:
        lines.append(f"results: {output}")
    return lines


@cli.command("list")
@click.argument(
    "what",
    required=False,
    type=click.Choice(["regions", "channels", "policies", "workloads", "suites"]),
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_(what: str | None, as_json: bool) -> None:
    """What there is, whether it is available here, and if not, why and the remedy."""
    from shmbench.catalogue import catalogue
    from shmbench.report.tables import list_table

    found = catalogue() if what is None else {what: catalogue()[what]}
    if as_json:
        _show_json(found)
    else:
        _show(*(list_table(name, rows) for name, rows in found.items()))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor(as_json: bool) -> None:
    """What this node offers, what stands in the way of a good figure, and the remedy."""
    from shmbench.doctor import as_dicts, checks
    from shmbench.report.tables import doctor_table

    found = as_dicts(checks())
    if as_json:
        _show_json(found)
    else:
        _show(doctor_table(found))


@cli.command()
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--confidence", type=float, default=0.95, show_default=True)
@click.option("--threshold", type=float, default=0.05, show_default=True, help="Least change.")
@click.option("--other-machine", is_flag=True, help="Compare although the machines differ.")
@click.option("--all", "everything", is_flag=True, help="Show unchanged cases as well.")
def compare(base: Path, new: Path, everything: bool, **options: Any) -> None:
    """Compare two result files; exit 1 when something is significantly worse.

    What is less than the scatter between runs takes several of each, taken by turns (base, new,
    base, new, ...): BASE and NEW are directories of result files then, at least 4 in each.
    """
    from shmbench.compare import compare as compare_files
    from shmbench.report.tables import comparison_table
    from shmbench.results import load
    from shmbench.turns import compare_turns, load_runs

    if base.is_dir() != new.is_dir():
        raise UsageError(
            f"of {base} and {new} one is a directory", "give two result files, or two directories"
        )
    if base.is_dir():
        comparison = compare_turns(load_runs(base), load_runs(new), **options)
    else:
        comparison = compare_files(load(base), load(new), **options)
    _show(comparison_table(comparison, everything=everything))
    if comparison.regressions:
        sys.exit(1)


@cli.command()
@click.argument("results", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default="report.html",
    show_default=True,
)
def report(results: tuple[Path, ...], output: Path) -> None:
    """Write one HTML file that needs no network, from one result file or several."""
    from shmbench.report.html import write_report
    from shmbench.results import load

    _check_output(output)
    write_report([load(path) for path in results], output)
    click.echo(f"report: {output}")


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--pattern",
    required=True,
    help="sequential, reverse, strided[:STEP], streams[:N], random, zipf, or a TRACE: a text or "
    ".npy file of offsets.",
)
@click.option("--size", "access_bytes", callback=_size, default="4K", help="Of an access.")
@click.option("--policy", "policies", callback=_names, help="Only these; default: all.")
@click.option("--cache", type=click.Choice(["cold", "warm"]), help="Default: cold if possible.")
@click.option("--budget", "budget_s", type=click.FloatRange(0, min_open=True), default=60.0)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def tune(file: Path, pattern: str, as_json: bool, **options: Any) -> None:
    """Say which policy reads FILE fastest in an order, and how a program gets it.

    FILE is only read. Where it can be, it is evicted from the page cache again and again, so that
    it is cold for each policy.
    """
    from shmbench.report.tuning import tuning_lines, tuning_table
    from shmbench.session import shown_progress
    from shmbench.tune import tune as tune_file

    with shown_progress() as progress:
        found = tune_file(file, pattern, explain=progress.show, **options)
    if as_json:
        _show_json(found)
        return
    _show(tuning_table(found))
    for line in tuning_lines(found):
        click.echo(line)


@cli.group("asv")
def asv_() -> None:
    """Benchmarks over time, by asv: what goes before and beside it (see benchmarks/README.md)."""


@asv_.command("export")
@click.argument("files", metavar="RESULT.json ...", type=click.Path(path_type=Path), nargs=-1)
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=".asv/results",
    show_default=True,
    help="asv's results_dir.",
)
@click.option("--commit", default="HEAD", show_default=True, help="What was measured.")
@click.option(
    "--repo",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=".",
    show_default=True,
    help="The git repository of the commit.",
)
@click.option(
    "--machine", help="One name for all hosts, e.g. of their partition; default: each its own."
)
def asv_export(
    files: tuple[Path, ...], results: Path, commit: str, repo: Path, machine: str | None
) -> None:
    """Write result files as asv's results, for `asv publish`, `show` and `compare`.

    Without RESULT.json, only puts what was exported before into asv's list of benchmarks again;
    `asv run` drops it from there.
    """
    from shmbench.asv_export import export, register
    from shmbench.results import load

    if not files:
        click.echo(f"registered: {', '.join(register(results)) or 'nothing'}")
        return
    done = export([load(path) for path in files], results, commit, repo, machine)
    for line in done.left_out:
        click.echo(f"left out: {line}")
    for path in done.written:
        click.echo(f"asv: {path}")


@asv_.command("machine")
@click.argument("name")
def asv_machine(name: str) -> None:
    """Let asv know this machine by NAME, which stays when the host's name changes."""
    from shmbench.asv_site import name_machine

    click.echo(f"asv: {name}: {name_machine(name)}")


@asv_.command("site")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default="asv.conf.json",
    show_default=True,
)
def asv_site(config: Path) -> None:
    """Publish all results as a site that needs no network; nothing is measured."""
    from shmbench.asv_site import build

    site = build(config)
    click.echo(f"site: {site}; look at it with: asv-tachyon serve {site}")


@asv_.command("preflight")
@click.option(
    "--wait", "wait_s", type=click.FloatRange(0), default=0.0, help="Seconds, for it to be quiet."
)
def asv_preflight(wait_s: float) -> None:
    """Say whether this machine is quiet enough to measure on; exit 1 when it is not."""
    from shmbench.doctor import as_dicts
    from shmbench.preflight import noisy, wait_until_quiet
    from shmbench.report.tables import doctor_table

    found = wait_until_quiet(wait_s)
    _show(doctor_table(as_dicts(found)))
    if noisy(found):
        sys.exit(1)


@cli.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--dir", "directories", callback=_names, help="Where `run --dir` kept its files.")
def clean(dry_run: bool, directories: tuple[str, ...] | None) -> None:
    """Remove what a killed run left behind: only ours, and only where its maker is dead."""
    from shmbench.clean import leftovers, remove

    found = leftovers(directories or ())
    for path in found if dry_run else remove(found):
        click.echo(f"{'would remove' if dry_run else 'removed'} {path}")
    if not found:
        click.echo("nothing was left behind")


cli.add_command(slurm)


def _fail(message: str, code: int) -> NoReturn:
    from shmbench.group.mpi import is_first

    if is_first():
        click.echo(f"shmbench: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _interrupt(number: int, frame: Any) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a scheduler may send it again while we end
    raise KeyboardInterrupt


def main() -> None:
    """Run a command; an error is one line, and never a traceback."""
    from shmbench.group import mpi

    if not mpi.inside():
        _main()
        return
    code = 0
    try:
        _main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    mpi.leave(code)


def _main() -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        _fail(f"{error.format_message()} (see: shmbench --help)", 2)
    except (UsageError, ResultFormatError, Unavailable) as error:
        _fail(str(error), 2)
    except ShmbenchError as error:
        _fail(str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 1)
