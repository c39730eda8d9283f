"""A site of all that asv knows: `asv publish` with the pages of asv-tachyon, complete offline.

The pages let one choose a value of each parameter. One that some results lack can't be chosen;
those that the machine's name implies have to be chosen beside it; and for what a machine has not
measured they ask in vain. `build` publishes a copy of the results in which none of that is so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from shmbench.asv_export import need_asv, register
from shmbench.errors import ShmbenchError, UsageError

_LACKING = "none"  # the value of a parameter that some results have and others have not
_IMPLIED = frozenset({"os", "arch", "cpu", "num_cpu", "ram"})  # by the machine; in machine.json


def name_machine(name: str) -> Path:
    """Keep this machine's facts by a name that stays, where asv looks for them.

    `asv machine --yes --machine NAME` keeps nothing but the name.

    Returns:
        the file, ~/.asv-machine.json.
    """
    need_asv()
    from asv.machine import Machine, MachineCollection

    MachineCollection.save(name, {**Machine.get_defaults(), "machine": name})
    return Path(MachineCollection.get_machine_file_path())


def build(config: Path) -> Path:
    """Publish all results.

    Args:
        config: asv.conf.json; its `results_dir` is read, and its `html_dir` written.

    Returns:
        the site's folder, for any static web server.

    Raises:
        Unavailable: asv is not installed.
        UsageError: no such configuration, or nothing was measured yet.
        ShmbenchError: asv can't publish.
    """
    need_asv()
    from asv.config import Config
    from asv.util import UserError

    try:
        settings = Config.load(str(config))
    except UserError as error:
        raise UsageError(str(error), "name asv.conf.json with --config") from error
    folder = config.parent.resolve()
    results = folder / settings.results_dir
    site: Path = folder / settings.html_dir
    if not results.is_dir():
        raise UsageError(f"{results}: no results", "measure first: make history, or asv run")
    register(results)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "results"
        shutil.copytree(results, copy)
        _level(copy)
        paths = {"repo": str(folder / settings.repo), "html_dir": str(site)}
        changed = {**vars(settings), **paths, "results_dir": str(copy)}
        config = Path(scratch) / "asv.conf.json"
        config.write_text(json.dumps({"version": Config.api_version, **changed}))
        _run("asv", "--config", str(config), "publish")
    _run("asv_tachyon", "install", str(site), "--no-backup")
    _complete(site, folder / settings.repo)
    return site


def _run(module: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise ShmbenchError(f"{module} {arguments[-1]}: exit {done.returncode}: {done.stdout}")


def _level(results: Path) -> None:
    """Give all results the same parameters, and only those that tell them apart."""
    from asv.results import iter_results

    found = list(iter_results(str(results)))
    names = {name for each in found for name in each.params} - _IMPLIED
    for each in found:
        told = {name: each.params.get(name, _LACKING) for name in names}
        each.params.clear()
        each.params.update(told)
        each.save(str(results))


def _complete(site: Path, repository: Path) -> None:
    """Write what the pages ask for and `asv publish` leaves out."""
    from asv.graph import Graph
    from asv.util import load_json, write_json

    index: dict[str, Any] = load_json(str(site / "index.json"))
    for parameters in index["graph_param_list"]:
        for benchmark in index["benchmarks"]:
            graph = Path(f"{Graph.get_file_path(parameters, benchmark)}.json")
            for path, nothing in (
                (site / graph, "[]"),
                (site / "samples" / graph.relative_to("graphs"), "{}"),
            ):
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(nothing)
    subjects = {
        revision: subprocess.check_output(
            ["git", "show", "--no-patch", "--format=%s", commit], cwd=repository, text=True
        ).strip()
        for revision, commit in index["revision_to_hash"].items()
    }
    write_json(str(site / "commits.json"), {"by_revision": subjects})
    write_json(str(site / "profiles.json"), {})
    write_json(str(site / "regressions-ignore.json"), [])
