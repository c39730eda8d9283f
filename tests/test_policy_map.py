"""The map of the policies: what is compared with what, what is marked, and how it is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sample_results import sample_file, sample_result

from shmbench.report import tables
from shmbench.report.policy_figure import policy_figures
from shmbench.report.policy_map import Row, policy_maps, written
from shmbench.results import Failure, Result, load
from shmbench.speedup import speedup

RECORDED = Path(__file__).parent / "recorded" / "policy.json"
EVIL = "<script>alert(1)</script>"


def measured(policy: str, seconds: float, **changes: Any) -> Result:
    """Random reads of a cold file, five process groups that differ by 1 %."""
    samples = [seconds * factor for factor in (0.99, 0.995, 1.0, 1.005, 1.01)]
    keys: dict[str, Any] = {
        "workload": "random_read",
        "channel": None,
        "region": "file",
        "pages": None,
        "policy": policy,
        "cache": "cold",
        "directory": "/data",
        "file_bytes": 64 << 20,
        "driver": "python",
        "message_bytes": None,
        "ranks": 1,
        "placement": "same_cpu",
        "operation": "page",
        "samples": samples,
        "median": seconds,
        "ci": [samples[0], samples[-1]],
        "first_touch": None,
        "evidence": {"filesystem": "ext4", "mount_options": "rw,noatime", "access_bytes": 4096},
    }
    return sample_result(**keys | changes)


def failed(policy: str) -> Result:
    error = Failure(type="Unavailable", message="no such thing")
    return measured(policy, 1.0, samples=[], median=None, ci=None, error=error)


def only_row(*results: Result) -> Row:
    (found,) = policy_maps(results)
    (row,) = found.rows
    return row


def shown(*results: Result, width: int = 180) -> str:
    file = sample_file()
    file.results = list(results)
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables.results_table(file))
    return console.export_text()


class TestSpeedup:
    def test_it_is_the_ratio_of_the_medians_with_its_interval(self) -> None:
        found = speedup(measured("none", 10e-6), measured("auto", 5e-6))
        assert found is not None
        assert found.interval is not None
        assert found.interval[0] < found.ratio == 2.0 < found.interval[1]
        assert found.sure

    def test_of_two_groups_there_is_no_interval(self) -> None:
        two = measured("auto", 5e-6, samples=[5e-6, 5e-6])
        found = speedup(measured("none", 10e-6), two)
        assert found is not None
        assert found.interval is None

    def test_of_a_failed_case_there_is_none(self) -> None:
        assert speedup(measured("none", 1.0), failed("auto")) is None
        assert speedup(failed("none"), measured("auto", 1.0)) is None

    def test_what_is_untrusted_is_never_sure(self) -> None:
        doubtful = measured("auto", 5e-6, flags=["untrusted"])
        found = speedup(measured("none", 10e-6), doubtful)
        assert found is not None
        assert not found.sure


class TestMap:
    def test_drivers_never_share_a_map(self) -> None:
        results = [
            measured(policy, 1e-6, driver=driver)
            for driver in ("native", "python")
            for policy in ("none", "random")
        ]
        maps = policy_maps(results)
        assert [each.driver for each in maps] == ["python", "native"]
        for each in maps:
            assert {cell.result.driver for _, _, cell in each.cells} == {each.driver}

    def test_a_row_is_compared_with_its_own_default_only(self) -> None:
        results = [
            measured("none", 10e-6),
            measured("auto", 5e-6),
            measured("none", 1e-6, cache="warm"),
            measured("auto", 2e-6, cache="warm"),
        ]
        (found,) = policy_maps(results)
        ratios = [row.cells["auto"].speedup for row in found.rows]
        assert [each and each.ratio for each in ratios] == [2.0, 0.5]

    def test_a_row_says_pattern_block_cache_file_system_and_size(self) -> None:
        row = only_row(measured("none", 1.0), measured("auto", 1.0))
        assert row.name == "random_read by 4 KiB, cold, ext4 64 MiB"

    def test_rows_that_would_have_one_name_say_in_what_they_differ(self) -> None:
        results = [
            measured(policy, 1.0, directory=directory)
            for directory in ("/a", "/b")
            for policy in ("none", "auto")
        ]
        (found,) = policy_maps(results)
        assert [row.where for row in found.rows] == [
            "cold, ext4 64 MiB, in /a",
            "cold, ext4 64 MiB, in /b",
        ]

    def test_rows_without_a_default_are_counted_and_left_out(self) -> None:
        results = [
            *(measured("none", 1.0), measured("auto", 1.0)),
            *(measured(policy, 1.0, cache="warm") for policy in ("auto", "random")),
        ]
        (found,) = policy_maps(results)
        assert (len(found.rows), found.left_out) == (1, 1)

    def test_the_default_alone_is_no_map(self) -> None:
        assert policy_maps([measured("none", 1.0)]) == []
        assert policy_maps([sample_result()]) == []

    def test_the_best_is_the_fastest_that_is_faster_for_sure(self) -> None:
        lucky = measured("random", 0.5, samples=[0.4, 0.45, 0.5, 3.0, 3.0])
        row = only_row(measured("none", 1.0), lucky, measured("auto", 0.8))
        assert row.best == "auto"

    def test_where_nothing_is_faster_for_sure_the_default_is_the_best(self) -> None:
        assert only_row(measured("none", 1.0), measured("auto", 1.001)).best == "none"

    def test_a_limit_is_never_the_best(self) -> None:
        results = (measured("none", 1.0), measured("auto", 0.9), measured("mapped", 0.1))
        assert only_row(*results).best == "auto"

    def test_without_a_trusted_default_nothing_is_the_best(self) -> None:
        row = only_row(measured("none", 1.0, flags=["untrusted"]), measured("auto", 3.0))
        assert (row.best, row.remark) == (None, None)

    @pytest.mark.parametrize(
        ("auto_s", "random_s", "why"),
        [
            (1.1, 1.2, "auto is below 0.95 of the default"),
            (0.8, 0.5, "auto is more than 15 % behind random"),
            (0.55, 0.5, None),
            (1.04, 1.2, None),
        ],
    )
    def test_auto_is_marked_where_it_loses_to_the_default_or_to_the_best(
        self, auto_s: float, random_s: float, why: str | None
    ) -> None:
        row = only_row(
            measured("none", 1.0), measured("auto", auto_s), measured("random", random_s)
        )
        assert (row.remark and row.remark.why) == why
        assert ("▼" in written(row, "auto") or "▽" in written(row, "auto")) == (why is not None)

    def test_flags_mark_a_cell_unless_all_of_the_map_has_them(self) -> None:
        base, plain = measured("none", 1.0, flags=["few_groups"]), ["few_groups"]
        row = only_row(
            base,
            measured("auto", 1.0, flags=plain),
            measured("random", 0.5, flags=[*plain, "steal"]),
            measured("populate", 0.5, flags=[*plain, "untrusted"]),
        )
        cells = {policy: written(row, policy) for policy in row.cells}
        assert [name for name, cell in cells.items() if "*" in cell] == ["random"]
        assert [name for name, cell in cells.items() if "?" in cell] == ["populate"]


@pytest.fixture(scope="module")
def recorded() -> list[Result]:
    return load(RECORDED).results


class TestFigure:
    def test_each_driver_has_its_own_figure_and_says_so(self, recorded: list[Result]) -> None:
        titles = [figure.title for figure in policy_figures(recorded)]
        assert [title.rpartition(", ")[2] for title in titles] == ["python driver", "native driver"]

    def test_every_cell_has_its_ratio_interval_marks_and_conditions(
        self, recorded: list[Result]
    ) -> None:
        figure, found = policy_figures(recorded)[0], policy_maps(recorded)[0]
        (heat,) = figure.traces
        at = heat["y"], heat["x"].index("guided")
        row = next(i for i in at[0] if found.rows[i].what == "strided 1M by 4 KiB")
        ratio = found.rows[row].cells["guided"].speedup
        assert ratio is not None
        assert heat["z"][row][at[1]] > 1
        assert f"{ratio.ratio:.2f}"[:3] in heat["text"][row][at[1]]
        hover = heat["hovertext"][row][at[1]]
        for part in (
            *("python", "policy guided", "times as fast as none", "none: ", " us per page"),
            *("in /var/tmp", "ext4 (rw,relatime)", "16 MiB", "1 ranks", "cold cache"),
            *("3 process groups", "best of its row", "flags: "),
        ):
            assert part in hover, (part, hover)

    def test_cells_that_are_not_there_are_empty(self, recorded: list[Result]) -> None:
        (heat,) = policy_figures(recorded)[1].traces
        holes = [
            (heat["text"][y][x], heat["hovertext"][y][x])
            for y, row in enumerate(heat["z"])
            for x, value in enumerate(row)
            if value is None
        ]
        assert holes
        assert set(holes) == {("", "")}

    def test_an_untrusted_cell_is_hatched(self) -> None:
        doubtful = measured("auto", 1.0, flags=["untrusted"])
        (figure,) = policy_figures([measured("none", 1.0), measured("random", 1.0), doubtful])
        assert len(figure.layout["shapes"]) == 1

    def test_a_failed_cell_says_why(self) -> None:
        (figure,) = policy_figures([measured("none", 1.0), failed("random")])
        assert figure.traces[0]["text"][0][1] == "failed"
        assert "no such thing" in figure.traces[0]["hovertext"][0][1]

    def test_the_tables_hold_the_map_and_the_counters(self, recorded: list[Result]) -> None:
        figure, found = policy_figures(recorded)[0], policy_maps(recorded)[0]
        as_table, counters = figure.tables
        assert [row[0] for row in as_table.rows] == [row.name for row in found.rows]
        assert any(re.match(r"[\d.]+★\*? \([\d.]+-[\d.]+\)", cell) for cell in as_table.rows[0])
        assert {"minor faults", "major faults", "read from the device"} <= set(counters.columns)
        assert len(counters.rows) == len(list(found.cells))

    def test_counters_are_those_of_one_pass(self) -> None:
        counted = {"batches": 4.0, "process_major_faults": 400.0, "device_read_bytes": 8.0 * 2**20}
        results = [measured(policy, 1.0, counters=counted) for policy in ("none", "auto")]
        table = policy_figures(results)[0].tables[1]
        assert dict(zip(table.columns, table.rows[0], strict=True)) == {
            "": "random_read by 4 KiB, cold, ext4 64 MiB",
            "policy": "none",
            "major faults": "100",
            "read from the device": "2 MiB",
        }

    def test_names_are_escaped_wherever_plotly_would_take_them_for_markup(self) -> None:
        evil = {"variant": EVIL, "directory": EVIL, "evidence": {"filesystem": EVIL}}
        results = [measured(policy, 1.0, flags=[EVIL], **evil) for policy in ("none", EVIL, "auto")]
        (figure,) = policy_figures(results)
        assert "<script" not in str([figure.traces, figure.layout])


def test_the_terminal_has_the_speed_up_beside_each_median_and_the_meaning_of_the_marks() -> None:
    output = shown(measured("none", 10e-6), measured("auto", 5e-6), measured("random", 2e-6))
    row = next(line for line in output.splitlines() if " random " in line)
    assert re.search(r"5\.00★ \(4\.\d+-5\.\d+\)", row)
    assert "▽" in next(line for line in output.splitlines() if " auto " in line)
    assert "speed-up: times as fast as policy none" in output


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_narrow_terminal_no_speed_up_is_cut(recorded: list[Result], width: int) -> None:
    output = shown(*recorded, width=width)
    assert "…" not in output
    (found, _) = policy_maps(recorded)
    for row, policy, _ in found.cells:
        assert written(row, policy) in output


def test_without_policies_the_terminal_says_nothing_of_speed_ups() -> None:
    assert "speed-up" not in shown(sample_result())
