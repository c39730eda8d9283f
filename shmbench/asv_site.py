"""A site of all that asv knows: `asv publish` with the pages of asv-tachyon, complete offline.

Both are made for what asv has measured itself. What a machine has not measured they ask for in
vain, and a parameter that some results lack can't be chosen; `build` sees to both.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from shmbench.asv_export import need_asv, register
from shmbench.errors import ShmbenchError, UsageError

_LACKING = "none"  # the value of a parameter that some results have and others have not


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
    results = config.parent / settings.results_dir
    site: Path = config.parent / settings.html_dir
    register(results)
    _level(results)
    _run("asv", "--config", str(config), "publish")
    _run("asv_tachyon", "install", str(site), "--no-backup")
    _complete(site, config.parent / settings.repo)
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
    """Give all results the same parameters."""
    from asv.results import iter_results

    found = list(iter_results(str(results)))
    if not found:
        raise UsageError(f"{results}: no results", "measure first: make history, or asv run")
    names = {name for each in found for name in each.params}
    for each in found:
        if missing := names - each.params.keys():
            each.params.update(dict.fromkeys(missing, _LACKING))
            each.save(str(results))


def _complete(site: Path, repository: Path) -> None:
    """Write what the pages ask for and `asv publish` leaves out."""
    from asv.graph import Graph
    from asv.util import load_json, write_json

    index: dict[str, Any] = load_json(str(site / "index.json"))
    for parameters in index["graph_param_list"]:
        for benchmark in index["benchmarks"]:
            graph = site / f"{Graph.get_file_path(parameters, benchmark)}.json"
            if not graph.exists():
                graph.write_text("[]")
    subjects = {
        revision: subprocess.check_output(
            ["git", "show", "--no-patch", "--format=%s", commit], cwd=repository, text=True
        ).strip()
        for revision, commit in index["revision_to_hash"].items()
    }
    write_json(str(site / "commits.json"), {"by_revision": subjects})
    write_json(str(site / "profiles.json"), {})
    write_json(str(site / "regressions-ignore.json"), [])
