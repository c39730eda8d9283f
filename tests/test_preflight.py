"""The look at the machine before a history is measured."""

from __future__ import annotations

from click.testing import CliRunner

from shmbench import preflight
from shmbench.cli import cli
from shmbench.doctor.check import Check, info, ok, warn
from shmbench.preflight import look, noisy, wait_until_quiet

BUSY = [warn("load now", "CPU 0 90 %", "ranks are preempted", "stop what else runs")]
QUIET = [ok("load now", "CPU 0 1 %"), info("governor", "no frequency control here")]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_it_looks_at_load_steal_strangers_and_the_frequency() -> None:
    found = {check.name for check in look(sample_s=0.05)}
    assert found == {"steal now", "load now", "other processes", "governor", "boost", "cpu quota"}


def test_only_what_spoils_figures_stands_in_the_way() -> None:
    assert noisy(QUIET) == []
    assert noisy(BUSY + QUIET) == BUSY


def test_it_waits_until_the_machine_is_quiet_and_no_longer() -> None:
    clock, looks = Clock(), [BUSY, BUSY, QUIET, BUSY]
    found = wait_until_quiet(60, lambda: looks.pop(0), clock, clock.sleep)
    assert found == QUIET
    assert len(looks) == 1


def test_it_gives_up_when_time_is_up() -> None:
    clock = Clock()
    assert wait_until_quiet(12, lambda: BUSY, clock, clock.sleep) == BUSY
    assert clock.now == 12


def test_the_command_refuses_a_noisy_machine(monkeypatch: object) -> None:
    def wait(found: list[Check]) -> int:
        monkeypatch.setattr(preflight, "wait_until_quiet", lambda wait_s: found)  # type: ignore[attr-defined]
        return CliRunner().invoke(cli, ["asv", "preflight"]).exit_code

    assert wait(QUIET) == 0
    assert wait(BUSY) == 1
