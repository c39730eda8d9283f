"""What `shmbench tune` says: a table, the winner in a sentence, and how to have it."""

from __future__ import annotations

from rich import box
from rich.table import Table

from shmbench.tune import Candidate, Tuning
from shmbench.units import format_bytes, format_duration


def tuning_table(tuning: Tuning) -> Table:
    """A row a policy, the fastest first."""
    table = Table(
        title=f"{tuning.file}: {tuning.pattern}, {tuning.accesses} accesses of "
        f"{format_bytes(tuning.access_bytes)}, {tuning.cache}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("policy")
    for name in ("an access", "speed-up", "95 % interval"):
        table.add_column(name, justify="right")
    table.add_column("")
    for each in tuning.candidates:
        table.add_row(
            each.policy,
            "" if each.seconds is None else format_duration(each.seconds),
            "" if each.speedup is None else f"{each.speedup:.2f}",
            _interval(each),
            each.error.message if each.error else ", ".join(each.flags),
        )
    return table


def tuning_lines(tuning: Tuning) -> list[str]:
    """The verdict, the notes, and the snippet."""
    lines = [f"note: {note}" for note in tuning.notes]
    winner = tuning.candidate(tuning.winner)
    if tuning.winner == "none":
        lines.append("none wins: nothing is faster for sure than what the kernel does by itself")
    else:
        lines.append(f"{_verdict(winner)}: {winner.summary}")
    if tuning.as_fast:
        lines.append(f"perhaps as fast: {', '.join(tuning.as_fast)}")
    lines += ["", *_program(winner)]
    if tuning.without_order != tuning.winner:
        other = tuning.candidate(tuning.without_order)
        lines += ["", f"where the order isn't known beforehand: {_verdict(other)}"]
        lines += ["", *_program(other)]
    return lines


def _interval(each: Candidate) -> str:
    if each.interval is None or each.policy == "none":
        return ""
    return f"{each.interval[0]:.2f} to {each.interval[1]:.2f}"


def _verdict(each: Candidate) -> str:
    if each.policy == "none":
        return "none wins"
    return f"{each.policy} wins, {each.speedup:.2f} times ({_interval(each)}) as fast as none"


def _program(each: Candidate) -> list[str]:
    modules = [name for name in ("numpy", "shmbench.policy") if f"{name}." in each.snippet]
    lines = [f"import {name}" for name in modules] + each.snippet.splitlines()
    return [f"    {line}" for line in lines]
