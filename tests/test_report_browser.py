"""The report in a real browser: Debian's Chromium, headless, driven by playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from many_nodes import make_nodes, plant_five, write_nodes
from needs import need
from sample_results import sample_file, sample_result

from shmbench.report.html import write_report
from shmbench.results import ResultFile, load
from shmbench.slurm.collect import collect

RECORDED = Path(__file__).parent / "recorded" / "policy.json"

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    need(chromium is not None, "there is no Chromium", "apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield running
        running.close()


class Opened:
    """A page, and what it complained about and asked for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.page = browser.new_page(**context)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        self.page.goto(path.as_uri())
        self.page.wait_for_function("!document.querySelector('.plot:not(:has(.main-svg))')")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report([sample_file()], path)
    return path


@pytest.fixture(scope="module")
def opened(browser: Any, report: Path) -> Opened:
    return Opened(browser, report, viewport={"width": 1200, "height": 900})


def test_the_page_asks_for_nothing_but_itself_and_complains_of_nothing(
    opened: Opened, report: Path
) -> None:
    assert opened.requests == [report.as_uri()]
    assert opened.complaints == []


def test_every_plot_draws_its_data(opened: Opened) -> None:
    drawn = opened.page.evaluate(
        """() => Array.from(document.querySelectorAll(".plot"), (plot) => ({
            title: plot.getAttribute("aria-label"),
            marks: plot.querySelectorAll(".point, .js-line, .hm image").length,
            traces: plot.data.length,
            width: plot.querySelector(".main-svg").getBoundingClientRect().width,
        }))"""
    )
    assert len(drawn) >= 12
    for plot in drawn:
        assert plot["marks"] >= plot["traces"] > 0, plot
        assert plot["width"] > 500


def test_a_point_tells_its_unit_driver_and_conditions(opened: Opened) -> None:
    plot = opened.page.locator(".plot").first
    plot.scroll_into_view_if_needed()
    box = plot.locator(".point").first.bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    hover = plot.locator(".hoverlayer .hovertext")
    hover.wait_for()
    for part in ("native", "ns per one-way message", "2 ranks", "placement l3"):
        assert part in hover.text_content()


def test_a_click_on_a_heading_sorts_by_value_and_not_by_text(opened: Opened) -> None:
    opened.page.get_by_role("button", name="median", exact=True).click()
    medians = (
        "[...document.querySelectorAll('#results tbody tr')].map(r => r.cells[%d].dataset.key)"
    )
    column = opened.page.evaluate(
        "[...document.querySelectorAll('#results th')].findIndex(h => h.ariaSort === 'ascending')"
    )
    keys = [float(key) for key in opened.page.evaluate(medians % column) if key]
    assert keys == sorted(keys)
    opened.page.get_by_role("button", name="median", exact=True).click()
    keys = [float(key) for key in opened.page.evaluate(medians % column) if key]
    assert keys == sorted(keys, reverse=True)


def test_the_filter_keeps_rows_with_all_words(opened: Opened) -> None:
    opened.page.locator("#filter").fill("python mp_queue stream")
    rows = opened.page.locator("#results tbody tr:visible")
    assert rows.count() == 5
    opened.page.locator("#filter").fill("")
    assert rows.count() == len(sample_file().results)


@pytest.mark.parametrize(("width", "scheme"), [(600, "dark"), (1200, "light")])
def test_the_page_fits_its_window_in_both_colour_schemes(
    opened: Opened, width: int, scheme: str
) -> None:
    opened.page.set_viewport_size({"width": width, "height": 900})
    opened.page.emulate_media(color_scheme=scheme)
    opened.page.wait_for_function(
        "document.querySelector('.plot .main-svg').getBoundingClientRect().width < innerWidth"
    )
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    ink, ground = opened.page.evaluate(
        """() => [
            getComputedStyle(document.querySelector(".plot .xtick text")).fill,
            getComputedStyle(document.body).backgroundColor,
        ].map((colour) => Number(colour.match(/\\d+/)[0]))"""
    )
    assert (ink > ground) == (scheme == "dark")
    assert opened.complaints == []


def test_the_map_of_the_policies_draws_and_its_tables_open(browser: Any, tmp_path: Path) -> None:
    path, file = tmp_path / "policy.html", load(RECORDED)
    file.results = [result for result in file.results if result.workload == "random_read"]
    write_report([file], path)
    opened = Opened(browser, path, viewport={"width": 1300, "height": 1600})
    plot = opened.page.locator(".plot").first
    assert "python driver" in plot.get_attribute("aria-label")
    assert plot.locator(".hm image").count() == 1
    assert plot.locator(".heatmap-label").first.text_content()
    box = plot.locator(".hm image").bounding_box()
    opened.page.mouse.move(box["x"] + 30, box["y"] + 30, steps=5)
    hover = plot.locator(".hoverlayer .hovertext")
    hover.wait_for()
    assert "policy none" in hover.text_content()
    figure = opened.page.locator("figure").first
    for summary in figure.locator("summary").all():
        summary.click()
    assert figure.locator("table:visible").count() == 2
    opened.page.set_viewport_size({"width": 600, "height": 900})
    opened.page.wait_for_function("() => document.documentElement.scrollWidth <= 600")
    assert opened.complaints == []
    assert opened.requests == [path.as_uri()]
    opened.page.close()


def test_the_strips_of_many_nodes_draw_and_name_the_slow_ones(browser: Any, tmp_path: Path) -> None:
    nodes = make_nodes(60)
    planted = plant_five(nodes)
    write_nodes(nodes, tmp_path)
    path = tmp_path / "survey.html"
    write_report([collect([tmp_path])], path)
    opened = Opened(browser, path, viewport={"width": 1300, "height": 1600})
    plot = opened.page.locator(".plot").first
    assert plot.get_attribute("aria-label").startswith("60 nodes compared, native driver")
    assert plot.locator(".point").count() == 60 * 24
    names = set(plot.locator(".textpoint").all_text_contents()) - {""}
    assert names == set(planted)
    rows = opened.page.locator(".nodes tbody tr")
    assert set(rows.locator("th").all_text_contents()) == set(planted)
    assert "governor: powersave" in " ".join(rows.all_text_contents())
    opened.page.locator("figure summary").first.click()
    assert opened.page.locator("figure table:visible tbody tr").count() == 24
    opened.page.set_viewport_size({"width": 600, "height": 900})
    opened.page.wait_for_function("() => document.documentElement.scrollWidth <= 600")
    assert opened.complaints == []
    assert opened.requests == [path.as_uri()]
    opened.page.close()


def test_names_that_are_markup_do_not_run(browser: Any, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    results = [
        sample_result(
            channel=evil,
            region=evil,
            placement=evil,
            operation=evil,
            message_bytes=size,
            percentiles={evil: 1e-9},
        )
        for size in (8, 64)
    ]
    file = sample_file()
    bad = ResultFile(
        schema=file.schema,
        machine={evil: evil},
        created=evil,
        plan={evil: evil},
        results=[*results, sample_result(workload=evil, channel=evil, flags=[evil])],
    )
    write_report([bad], tmp_path / "bad.html")
    opened = Opened(browser, tmp_path / "bad.html")
    opened.page.locator(".plot .point").first.hover(force=True)
    assert opened.complaints == []
    assert opened.requests == [(tmp_path / "bad.html").as_uri()]
    assert opened.page.locator("img").count() == 0
    opened.page.close()
