"""Fills docs/policy.md from result files: figures, tables and conditions; nothing typed by hand.

    python -m shmbench.report.docs RESULT.json ... docs/figures

Each figure comes from one file, the first that has results for it.

The page has places for figures, which this fills again and again:

    <!-- figures: NAME -->
    <!-- end -->
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from shmbench.errors import ShmbenchError, UsageError
from shmbench.report.docs_figures import Plot, Point, plots
from shmbench.report.docs_plots import draw
from shmbench.results import ResultFile, load

PLACE = re.compile(r"<!-- figures: (?P<name>[^\n]*?) -->\n(?P<content>.*?)<!-- end -->", re.DOTALL)
_MISSING = "The result file that this page was made from has no figures for this.\n"


def fill(page: str, found: Mapping[str, Plot | None], folder: str) -> str:
    """The page with the present figures in their places.

    Args:
        page: Markdown.
        found: by name; None where there is nothing to show.
        folder: of the SVG files, from the page.

    Raises:
        UsageError: a place for a figure that there is not, or one that doesn't end.
    """
    places = PLACE.findall(page)
    if any("<!-- figures:" in content for _, content in places) or (
        page.count("<!-- figures:") != len(places)
    ):
        raise UsageError("a place for figures doesn't end", "close it with a line <!-- end -->")
    if unknown := [name for name, _ in places if name not in found]:
        raise UsageError(f"no figure is named {unknown[0]!r}", f"known: {', '.join(found)}")

    def filled(place: re.Match[str]) -> str:
        name = place["name"]
        plot = found[name]
        content = _MISSING if plot is None else markdown(plot, folder)
        return f"<!-- figures: {name} -->\n{content}<!-- end -->"

    return PLACE.sub(filled, page)


def markdown(plot: Plot, folder: str) -> str:
    """A figure as it stands in the page: the image, the table, the conditions."""

    def cell(point: Point | None) -> str:
        return "" if point is None else point.text

    rows = [
        ["", *plot.series],
        ["---", *("---:" for _ in plot.series)],
        *(
            [row, *(cell(points[i]) for points in plot.series.values())]
            for i, row in enumerate(plot.rows)
        ),
    ]
    lines = [
        f"![{plot.title}]({folder}/{plot.name}.svg)",
        "",
        *(f"| {' | '.join(text.replace('|', '/') for text in row)} |" for row in rows),
        "",
        f"In {plot.axis}. {plot.legend}.",
        "",
        f"*{plot.caption}.*",
    ]
    return "\n".join(lines) + "\n"


def render(files: Sequence[ResultFile], figures: Path, page: Path) -> list[str]:
    """Draw all figures and fill the page; gives the names of those that no file has.

    Raises:
        Unavailable: matplotlib is not installed.
        UsageError: see `fill`.
        OSError: something can't be read or written.
    """
    found: dict[str, Plot | None] = {}
    for file in files:
        found |= {name: plot for name, plot in plots(file).items() if not found.get(name)}
    text = fill(
        page.read_text(encoding="utf-8"),
        found,
        Path(os.path.relpath(figures, page.parent)).as_posix(),
    )
    figures.mkdir(parents=True, exist_ok=True)
    for name, plot in found.items():
        path = figures / f"{name}.svg"
        if plot is None:
            path.unlink(missing_ok=True)
        else:
            draw(plot, path)
    page.write_text(text, encoding="utf-8")
    return [name for name, plot in found.items() if plot is None]


def main() -> None:
    """The command; an error is one line, exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m shmbench.report.docs", description="Fill docs/policy.md from result files."
    )
    parser.add_argument("results", type=Path, nargs="+", help="of `shmbench run ... --output`")
    parser.add_argument("figures", type=Path, help="the folder of the SVG files")
    parser.add_argument("--page", type=Path, help="default: policy.md beside that folder")
    given = parser.parse_args()
    page = given.page or given.figures.parent / "policy.md"
    try:
        missing = render([load(path) for path in given.results], given.figures, page)
    except (ShmbenchError, OSError) as error:
        print(f"docs: {error}", file=sys.stderr)
        sys.exit(2)
    for name in missing:
        print(f"no file has results for the figure {name}", file=sys.stderr)


if __name__ == "__main__":
    main()
