"""docs/policy.md: its snippets run, its defaults are the code's, its figures come from a file."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from needs import need

from shmbench import policy
from shmbench.errors import UsageError
from shmbench.policy.distance import Distance
from shmbench.policy.guided import Follower
from shmbench.policy.trial import Trial
from shmbench.policy.watch import Watcher
from shmbench.policy.window import Law
from shmbench.report.docs import PLACE, fill, markdown, render
from shmbench.report.docs_figures import plots
from shmbench.report.docs_plots import draw
from shmbench.results import load

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "policy.md"
RECORDED = Path(__file__).parent / "recorded" / "policy.json"
MISSING = "warm-disk"  # the figure that the recorded file has no results for
PARAMETERS: dict[str, Any] = {
    "Ahead": policy.Ahead,
    "Distance": Distance,
    "Follower": Follower,
    "Law": Law,
    "MappingCache": policy.MappingCache,
    "Trial": Trial,
    "Watcher": Watcher,
    "open": policy.open,
}


def snippets(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def defaults() -> list[tuple[str, str]]:
    return re.findall(r"^\| `([A-Za-z]+\.\w+)` \| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    need(find_spec("matplotlib") is not None, "no matplotlib", "pip install 'shmbench[docs]'")
    (tmp_path / "docs").mkdir()
    path = tmp_path / "docs" / "policy.md"
    path.write_text(PAGE.read_text())
    return path


def test_every_snippet_runs_in_its_order(tmp_path: Path) -> None:
    found = snippets(PAGE)
    assert len(found) >= 7
    done = run("-W", "error", "-c", "\n".join(found), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the file ends at 4096" in done.stdout


def test_the_snippet_of_the_readme_runs(tmp_path: Path) -> None:
    given = """
import numpy
from pathlib import Path
numpy.zeros(1 << 15).tofile("data.npy.raw")
Path("data.bin").write_bytes(bytes(1 << 20))
offsets, use = range(0, 1 << 20, 4096), len
"""
    done = run("-c", "\n".join([given, *snippets(ROOT / "README.md")]), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "value"), defaults())
def test_a_default_is_what_the_code_has(name: str, value: str) -> None:
    owner, _, parameter = name.partition(".")
    found = inspect.signature(PARAMETERS[owner]).parameters[parameter].default
    assert found == eval(value, {}), name


def test_each_technique_has_its_parameters() -> None:
    assert {name.partition(".")[0] for name, _ in defaults()} == set(PARAMETERS)


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`((?:policy|native)/[\w.]+|hint_table\.py)`", PAGE.read_text()))
    assert len(named) > 8
    for name in named:
        where = ROOT / "shmbench" / ("policy" if "/" not in name else "") / name
        assert where.exists(), name
    for image in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", PAGE.read_text()):
        assert (PAGE.parent / image).exists(), image


def test_every_figure_has_its_place_and_every_place_its_figure() -> None:
    places = [name for name, _ in PLACE.findall(PAGE.read_text())]
    assert sorted(places) == sorted(plots(load(RECORDED)))


def test_one_command_makes_all_figures_and_tables_and_again_the_same_bytes(page: Path) -> None:
    figures = page.parent / "figures"
    done = run("-m", "shmbench.report.docs", RECORDED, figures, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, f"no file has results for the figure {MISSING}\n")
    made = [{path.name: path.read_bytes() for path in [page, *figures.iterdir()]}]
    assert render([load(RECORDED)], figures, page) == [MISSING]
    made.append({path.name: path.read_bytes() for path in [page, *figures.iterdir()]})
    assert made[0] == made[1]
    assert set(made[0]) == {
        "policy.md",
        *(f"{name}.svg" for name in plots(load(RECORDED)) if name != MISSING),
    }
    for image in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text()):
        assert (page.parent / image).exists()
    assert PLACE.sub("", page.read_text()) == PLACE.sub("", PAGE.read_text())


def test_conditions_stand_in_each_figure_and_below_each_table(page: Path) -> None:
    file = load(RECORDED)
    file.machine["kernel"], file.created = "9.9.9-test", "2031-02-03T04:05:06+00:00"
    found = plots(file)
    assert found["cold"] is not None
    draw(found["cold"], page)
    below = [content for _, content in PLACE.findall(fill(PAGE.read_text(), found, "figures"))]
    below = [shown for shown in below if "has no figures for this" not in shown]
    assert len(below) == 5
    for shown in (page.read_text(), *below):
        words = re.sub(r"<[^>]*>|\s+", " ", shown)
        for part in ("AMD EPYC", "Linux 9.9.9-test", "16 MiB", "python driver", "2031-02-03"):
            assert part in words, part
    assert "ext4 (rw,relatime)" in below[1]


def test_a_table_has_ratios_with_intervals_and_marks() -> None:
    found = plots(load(RECORDED))["cold"]
    assert found is not None
    rows = {row: i for i, row in enumerate(found.rows)}
    point = found.series["guided"][rows["strided 1M by 4 KiB"]]
    assert point is not None
    assert 1 < point.low <= point.value <= point.high
    assert re.fullmatch(r"[\d.]+\S* \([\d.]+-[\d.]+\)", point.text)
    assert f"| {point.text} |" in markdown(found, "figures")


def test_what_a_file_has_no_results_for_is_said_and_its_old_figure_goes(page: Path) -> None:
    file = load(RECORDED)
    figures = page.parent / "figures"
    figures.mkdir()
    (figures / "reopen.svg").write_text("of another run")
    file.results = [result for result in file.results if result.cache == "cold"]
    assert render([file], figures, page) == ["map-ahead", MISSING, "reopen"]
    assert {path.name for path in figures.iterdir()} == {"cold.svg", "guided.svg", "hints.svg"}
    assert "has no figures for this" in page.read_text()


def test_each_figure_comes_from_the_first_file_that_has_it(page: Path) -> None:
    first, second = load(RECORDED), load(RECORDED)
    first.results = [result for result in first.results if result.cache == "cold"]
    first.created, second.created = "2031-02-03T04:05:06+00:00", "2032-02-03T04:05:06+00:00"
    assert render([first, second], page.parent / "figures", page) == [MISSING]
    days = {name: re.findall(r"203\d", text) for name, text in PLACE.findall(page.read_text())}
    assert days["cold"] == ["2031"]
    assert days["map-ahead"] == days["reopen"] == ["2032"]


@pytest.mark.parametrize(
    "text",
    [
        "<!-- figures: cold -->\n",
        "<!-- figures: cold -->\n<!-- figures: hints -->\n<!-- end -->\n",
        "<!-- figures: colt -->\n<!-- end -->\n",
    ],
)
def test_a_place_that_does_not_end_or_has_no_figure_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        fill(text, plots(load(RECORDED)), "figures")


def test_a_file_that_is_no_result_file_is_one_line_and_code_2(tmp_path: Path) -> None:
    done = run("-m", "shmbench.report.docs", os.devnull, tmp_path, cwd=ROOT)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
