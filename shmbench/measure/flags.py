"""What a figure must be read with: all flags, each with its text and a hint, in this one place."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Flag(StrEnum):
    """One remark about how a figure was obtained; its value is what the result file holds.

    Attributes:
        text: what happened, one line.
        hint: what would cure it, one line.
    """

    text: str
    hint: str

    def __new__(cls, value: str, text: str, hint: str) -> Self:
        flag = str.__new__(cls, value)
        flag._value_ = value
        flag.text = text
        flag.hint = hint
        return flag

    # about a batch, which is then left out of the headline
    PREEMPTED = (
        "preempted",
        "batches in which a rank had to wait for its CPU were left out",
        "stop other work on these CPUs, or choose others with --placement",
    )
    MOVED = (
        "moved",
        "batches in which a rank changed its CPU were left out",
        "have the launcher bind its ranks to CPUs",
    )
    # about a process group
    UNTRUSTED = (
        "untrusted",
        "more than half of the batches were disturbed: the figure can't be trusted",
        "measure again on a quiet machine",
    )
    UNSTABLE = (
        "unstable",
        "the batches still differed when the warm-up ended",
        "give it more time with --budget, or fix the CPU's frequency",
    )
    DISPLACED = (
        "displaced",
        "the CPUs were nearer to each other, or farther, than in most of the run: left out",
        "a hypervisor moves them: measure where virtual CPUs are bound to cores",
    )
    FOREIGN_CPU = (
        "foreign_cpu",
        "others used a noticeable share of the ranks' CPUs meanwhile",
        "stop other work on these CPUs, or choose others with --placement",
    )
    STEAL = (
        "steal",
        "the hypervisor gave a noticeable share of the ranks' CPUs to others",
        "measure on a machine whose CPUs aren't shared",
    )
    # about a case
    WIDE = (
        "wide",
        "the interval is wider than the target",
        "give it more time with --budget",
    )
    BUDGET = (
        "budget",
        "the time budget ended before the interval was narrow enough",
        "give it more time with --budget",
    )
    FEW_GROUPS = (
        "few_groups",
        "so few process groups that the interval covers the median in less than 95 % of runs",
        "give it more time with --budget",
    )
    LIMIT_UNTRUSTED = (
        "limit_untrusted",
        "the limit beside it was disturbed itself: the ratio to it can't be trusted",
        "measure again on a quiet machine",
    )
    OVERSUBSCRIBED = (
        "oversubscribed",
        "more ranks than CPUs: spinning ranks give their CPU away",
        "use as many ranks as there are CPUs with --ranks",
    )
    UNTOUCHED = (
        "untouched",
        "pages that nobody has written: all of them are one page of zeros",
        "use --pages prefault for memory as programs use it",
    )
    NOT_EVICTED = (
        "not_evicted",
        "pages of the file were still in memory when a cold batch began",
        "end what else has the file open or mapped, or choose a --dir on a local disk",
    )
    SAME_PROCESSES = (
        "same_processes",
        "all samples come from the same processes: MPI ranks can't be made anew",
        "take --launcher process where the interval has to cover the placement of memory",
    )
    THP_NOT_GOT = (
        "thp_not_got",
        "the kernel gave small pages where huge ones were asked for",
        "see `shmbench doctor` for transparent huge pages",
    )
