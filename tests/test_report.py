from __future__ import annotations

import builtins
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from sample_results import sample_file, sample_machine, sample_result

from shmbench import peers
from shmbench.compare import compare
from shmbench.errors import Unavailable
from shmbench.measure.flags import Flag
from shmbench.report import figures, tables, text
from shmbench.report.html import write_report
from shmbench.results import SCHEMA, Failure, Limit, Result, ResultFile

EVIL = "<script>alert(1)</script>"


def shown(renderable: RenderableType, width: int = 180) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


def file_of(*results: Result) -> ResultFile:
    return ResultFile(
        schema=SCHEMA,
        machine=sample_machine(),
        created="2026-03-01T09:30:00+00:00",
        plan={},
        results=list(results),
    )


class TestWords:
    def test_distance_from_a_limit_is_a_multiple_for_time_and_a_share_for_bandwidth(self) -> None:
        near = Limit(name="core_to_core", value=1.0, ratio=1.05)
        assert text.of_limit(sample_result(limit=near)) == "1.05x"
        assert text.of_limit(sample_result(limit=near, bytes_per_second=1e9)) == "95 %"
        assert text.of_limit(sample_result()) == ""

    def test_short_messages_are_counted_and_long_ones_weighed(self) -> None:
        short = sample_result(message_bytes=8, median=50e-9, bytes_per_second=160e6)
        long = sample_result(message_bytes=1 << 20, median=100e-6, bytes_per_second=10.5e9)
        assert text.rate(short) == "20 M/s"
        assert text.rate(long) == "10.5 GB/s"

    def test_every_flag_is_explained_once(self) -> None:
        legend = text.legend(["preempted", "untrusted", "preempted", "of another version"])
        assert [flag for flag, _, _ in legend] == ["preempted", "untrusted", "of another version"]
        assert legend[1][1:] == (Flag.UNTRUSTED.text, Flag.UNTRUSTED.hint)

    def test_further_figures_are_shares_and_durations_over_all_groups(self) -> None:
        found = sample_result(figures={"hidden_share": [0.2, 0.4, 0.9], "alone_s": [2e-6]})
        assert text.further(found) == "hidden 40 %, alone 2 us"
        assert "hidden" in shown(tables.results_table(file_of(found)))
        assert "hidden" not in shown(tables.results_table(file_of(sample_result())))

    def test_what_does_not_apply_is_not_among_the_conditions(self) -> None:
        bare = sample_result(region=None, pages=None, first_touch=None)
        assert text.conditions(bare) == ["2 ranks", "placement l3 (0,1)", "5 process groups"]


class TestTables:
    def test_drivers_are_never_in_one_table(self) -> None:
        output = shown(tables.results_table(sample_file()))
        native, python = output.index("native driver"), output.index("python driver")
        assert "spin" in output[native:python]
        assert "mp_queue" not in output[native:python]

    def test_a_row_has_figure_interval_tail_limit_and_flags(self) -> None:
        result = sample_result(
            percentiles={"p50": 55e-9, "p99": 180e-9},
            limit=Limit(name="core_to_core", value=52e-9, ratio=1.06),
            flags=["preempted", "budget"],
        )
        other = sample_result(channel="futex", flags=["budget"])
        output = shown(tables.results_table(file_of(result, other)))
        row = next(line for line in output.splitlines() if line.strip().startswith("spin"))
        for cell in ("8 B", "55 ns", "-2 +2 %", "180 ns", "1.06x", "preempted"):
            assert cell in row
        assert "core_to_core" in output
        assert "budget" not in row
        assert "all flagged budget" in output

    def test_conditions_that_all_rows_share_are_said_once(self) -> None:
        same = [sample_result(message_bytes=size) for size in (8, 64)]
        assert shown(tables.results_table(file_of(*same))).count("anonymous") == 1
        other = sample_result(region="memfd")
        assert shown(tables.results_table(file_of(*same, other))).count("anonymous") == 2

    def test_failed_cases_come_with_error_and_remedy(self) -> None:
        output = shown(tables.results_table(sample_file()))
        assert "no huge pages are reserved (vm.nr_hugepages = 0)" in output
        assert "sysctl vm.nr_hugepages=64" in output

    def test_only_flags_that_occur_are_explained(self) -> None:
        output = shown(tables.results_table(sample_file()))
        assert Flag.PREEMPTED.text in output
        assert Flag.STEAL.text not in output

    def test_hand_over_between_cpus_is_a_matrix_and_for_many_cpus_a_range(self) -> None:
        def output(cpus: int) -> str:
            file = sample_file(cpus=cpus)
            file.results = [r for r in file.results if r.workload == "core_to_core"]
            return shown(tables.results_table(file))

        assert len(re.findall(r"^ *[0-3] ", output(4), re.MULTILINE)) == 4
        assert "120 pairs of 16 CPUs" in output(16)

    @pytest.mark.parametrize("width", [80, 120, 180])
    def test_no_figure_is_cut_at_any_width(self, width: int) -> None:
        output = shown(tables.results_table(sample_file()), width)
        assert "…" not in output

    def test_names_are_not_taken_for_markup(self) -> None:
        result = sample_result(channel="[red]x[/red]", flags=["[bold]"])
        output = shown(tables.results_table(file_of(result)))
        assert "[red]x[/red]" in output
        assert "[bold]" in output

    def test_a_file_without_results_is_an_empty_table(self) -> None:
        assert shown(tables.results_table(file_of())).strip() == ""

    def test_a_comparison_shows_what_changed_worst_first(self) -> None:
        base, new = sample_file(groups=10, seed=1), sample_file(groups=10, seed=2)
        for result, factor in zip(new.results[:2], (1.5, 2.0), strict=True):
            result.samples = [sample * factor for sample in result.samples]
        comparison = compare(base, new)
        output = shown(tables.comparison_table(comparison))
        worse = [line for line in output.splitlines() if line.strip().startswith("worse")]
        assert "256 B" in worse[0]
        assert "8 B" in worse[1]
        assert "no change  " not in output
        assert f"{comparison.count()['no change']} no change" in output
        assert shown(tables.comparison_table(comparison, everything=True)).count("no change") > 150

    def test_doctor_and_list_show_their_rows(self) -> None:
        check = {"name": "thp", "status": "warn", "found": "never", "cost": "x", "remedy": None}
        assert "never" in shown(tables.doctor_table([check]))
        row = {
            "name": "hugetlb",
            "available": False,
            "reason": "none",
            "remedy": "y",
            "summary": "",
        }
        assert re.search(r"hugetlb +no ", shown(tables.list_table("regions", [row])))


class TestFigures:
    @pytest.fixture
    def drawn(self) -> dict[str, figures.Figure]:
        return {figure.title: figure for figure in figures.figures(sample_file().results)}

    def test_each_workload_and_driver_has_its_plots(self, drawn: dict[str, Any]) -> None:
        assert set(drawn) >= {
            "ping_pong: latency by message size, native driver",
            "ping_pong: latency by message size, python driver",
            "ping_pong: distribution of latency, native driver",
            "ping_pong: regions compared, native driver",
            "ping_pong: effect of placement, native driver",
            "stream: bandwidth by message size, native driver",
            "stream: bandwidth by message size, python driver",
            "fan_out, native driver",
            "contention, native driver",
            "core_to_core: hand-over between CPUs, native driver",
        }

    def test_no_plot_holds_both_drivers(self, drawn: dict[str, Any]) -> None:
        for title, figure in drawn.items():
            other = "python" if "native" in title else "native"
            assert f"<b>{other} " not in json.dumps(figure.traces)

    def test_latency_stands_beside_its_limit(self, drawn: dict[str, Any]) -> None:
        traces = drawn["ping_pong: latency by message size, native driver"].traces
        (limit,) = [trace for trace in traces if trace["name"].startswith("limit")]
        assert set(limit["y"]) == {52e-9}

    def test_bandwidth_stands_beside_what_one_and_two_copies_can_do(
        self, drawn: dict[str, Any]
    ) -> None:
        traces = drawn["stream: bandwidth by message size, native driver"].traces
        lines = {t["name"]: dict(zip(t["x"], t["y"], strict=True)) for t in traces}
        once = lines["limit: memcpy (1 copy)"][1 << 20]
        twice = lines["limit: memcpy (2 copies)"][1 << 20]
        assert once == pytest.approx(40e9)
        assert once == pytest.approx(2 * twice)
        assert "null" not in lines

    def test_a_line_has_its_interval_and_a_hover_text_with_unit_and_conditions(self) -> None:
        results = [sample_result(message_bytes=size, median=1.0, ci=[0.9, 1.2]) for size in (8, 64)]
        (line,) = figures.figures(results)[0].traces
        assert line["error_y"]["array"] == pytest.approx([0.2, 0.2])
        assert line["error_y"]["arrayminus"] == pytest.approx([0.1, 0.1])
        for part in ("native spin", "8 B", "1 s", "900 ms to 1.2 s", "l3 (0,1)", "2 ranks"):
            assert part in line["hovertext"][0]

    def test_a_line_that_is_unusual_says_in_what(self) -> None:
        results = [
            sample_result(message_bytes=size, region=region, channel=channel)
            for size in (8, 64)
            for channel, region in (("spin", "memfd"), ("futex", "memfd"), ("spin", "file"))
        ]
        names = [trace["name"] for trace in figures.figures(results)[0].traces]
        assert names == ["spin", "futex", "spin · file"]

    def test_percentiles_stand_in_their_order_where_some_are_missing(self) -> None:
        few = sample_result(percentiles={"p50": 1e-6, "max": 3e-6}, channel="futex")
        many = sample_result(percentiles={"p50": 1e-6, "p99": 2e-6, "p99.9": 2e-6, "max": 3e-6})
        (figure,) = [f for f in figures.figures([few, many]) if "distribution" in f.title]
        assert figure.layout["xaxis"]["categoryarray"] == ["p50", "p99", "p99.9", "max"]

    def test_the_matrix_is_symmetric_and_empty_on_its_diagonal(self, drawn: dict[str, Any]) -> None:
        (heat,) = drawn["core_to_core: hand-over between CPUs, native driver"].traces
        z = heat["z"]
        assert [z[i][i] for i in range(4)] == [None] * 4
        assert z[0][1] == z[1][0] == pytest.approx(52, rel=0.1)

    def test_an_axis_starts_at_zero_for_figures_that_are_alike(self, drawn: dict[str, Any]) -> None:
        assert drawn["ping_pong: regions compared, native driver"].layout["xaxis"]["type"] == (
            "linear"
        )
        assert drawn["fan_out, native driver"].layout["xaxis"]["type"] == "log"

    @pytest.mark.parametrize("factor", [1.0, 1.01, 3.0, 7.0, 80.0, 1e7])
    def test_every_axis_has_a_few_ticks_that_read_well(self, factor: float) -> None:
        for low in (1e-9, 5.5e-8, 9.9e-6, 0.3):
            axis = figures.traces.figure_axis("t", [low, low * factor])
            inside = [tick for tick in axis["tickvals"] if low / 2 <= tick <= low * factor * 2]
            assert inside
            assert len(axis["tickvals"]) <= 15

    def test_failed_cases_and_files_without_results_draw_nothing(self) -> None:
        failed = sample_result(
            samples=[], median=None, ci=None, error=Failure(type="PeerFailed", message="died")
        )
        assert figures.figures([failed]) == []
        assert figures.figures([]) == []

    def test_names_are_escaped_wherever_plotly_would_take_them_for_markup(self) -> None:
        results = [
            sample_result(
                message_bytes=size,
                channel=EVIL,
                region=EVIL + region,
                placement=place,
                flags=[EVIL],
            )
            for size in (8, 64)
            for region in "ab"
            for place in (EVIL, "l3")
        ]
        results.append(sample_result(workload="barrier", channel=EVIL, operation=EVIL))
        for figure in figures.figures(results):
            assert "<script" not in json.dumps([figure.traces, figure.layout])


class _Page(HTMLParser):
    """Tags and attributes of a page, and the text of its rows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if len(data) < 1000:
            self.data.append(data)


def page_of(tmp_path: Path, *files: ResultFile) -> str:
    write_report(files, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


class TestPage:
    def test_every_result_is_a_row_with_its_driver(self, tmp_path: Path) -> None:
        file = sample_file()
        page = _Page(page_of(tmp_path, file))
        rows = [tag for tag, _ in page.tags].count("tr") - 1
        assert rows == len(file.results)
        badges = [a["class"] for tag, a in page.tags if tag == "span" and "class" in a]
        assert badges.count("driver python") >= sum(r.driver == "python" for r in file.results)

    def test_the_names_of_other_benchmarks_are_there_where_mpi_ranks_measured(
        self, tmp_path: Path
    ) -> None:
        by_mpi = sample_result(launcher="mpi", driver="python", channel="mpi_p2p")
        data = _Page(page_of(tmp_path, file_of(by_mpi))).data
        assert {row[1] for row in peers.table()} <= set(data)
        assert "osu_latency" not in _Page(page_of(tmp_path, file_of(sample_result()))).data

    def test_machine_plan_flags_and_failures_are_there(self, tmp_path: Path) -> None:
        data = "\n".join(_Page(page_of(tmp_path, sample_file())).data)
        for part in (
            *("node-a · 2026-03-01 09:30", "AMD EPYC 9B14", "24 GiB", "budget 90.0 s"),
            *("suite ipc", "groups 5 to 20", "sizes 8,4096", "there is one NUMA node"),
            *("PeerFailed: rank 1 was killed by signal 9 (SIGKILL)", Flag.PREEMPTED.text),
        ):
            assert part in data

    def test_figures_of_several_runs_are_labelled_by_host_and_date(self, tmp_path: Path) -> None:
        later = sample_file(host="node-b", created="2026-04-01T08:00:00+00:00")
        data = _Page(page_of(tmp_path, sample_file(), later)).data
        captions = [part for part in data if "5 process groups;" in part]
        assert sum(part.startswith("node-a · 2026-03-01 09:30; ") for part in captions) > 5
        assert sum(part.startswith("node-b · 2026-04-01 08:00; ") for part in captions) > 5

    def test_nothing_is_asked_for_from_anywhere(self, tmp_path: Path) -> None:
        page = _Page(page_of(tmp_path, sample_file()))
        links = [a.get(key) for _, a in page.tags for key in ("src", "href", "action") if key in a]
        assert links == ["data:,"]
        (policy,) = [a["content"] for _, a in page.tags if "http-equiv" in a]
        assert policy is not None
        assert policy.startswith("default-src 'none'")

    def test_names_from_a_file_never_become_markup(self, tmp_path: Path) -> None:
        names = ("channel", "workload", "region", "directory", "placement", "host", "operation")
        evil = sample_result(**dict.fromkeys(names, EVIL), flags=[EVIL])
        evil.percentiles = {EVIL: 1e-9}
        evil.error = Failure(type=EVIL, message=EVIL, remedy=EVIL)
        also = sample_result(channel="</script><b>", message_bytes=64, percentiles={"]]>": 1.0})
        file = file_of(evil, also)
        file.machine |= {EVIL: EVIL, "cpu_model": EVIL}
        file.plan = {EVIL: EVIL, "left_out": {EVIL: EVIL}}
        file.created = EVIL
        page = _Page(page_of(tmp_path, file))
        scripts = [a for tag, a in page.tags if tag == "script"]
        assert len(scripts) == 3
        assert all(script["nonce"] for script in scripts)
        assert EVIL in page.data

    def test_a_file_without_results_still_makes_a_page(self, tmp_path: Path) -> None:
        assert "0 cases" in page_of(tmp_path, file_of())

    def test_facts_of_another_version_are_shown_as_they_are(self, tmp_path: Path) -> None:
        file = file_of()
        file.machine = {"colour": {"case": "beige"}, "hostname": None}
        assert "beige" in page_of(tmp_path, file)


def test_a_missing_extra_is_said_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_jinja2(name: str, *args: Any, **keys: Any) -> Any:
        if name == "jinja2":
            raise ImportError(name)
        return real(name, *args, **keys)

    monkeypatch.setattr(builtins, "__import__", without_jinja2)
    with pytest.raises(Unavailable, match="needs jinja2 and plotly") as caught:
        write_report([], tmp_path / "report.html")
    assert caught.value.remedy == "pip install 'shmbench[report]'"
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_imported_without_plotting(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    program = "import shmbench.report.html, sys; print({'plotly', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
