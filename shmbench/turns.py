"""Has it become slower? Several runs a side, taken by turns: base, new, base, new, ...

Two runs, one after the other, can't tell 10 % on a machine whose speed changes from minute to
minute: a run as a whole lies off by as much, and two runs can only assume by how much. Here it is
seen. A turn is a run of the base and the run of the new one beside it, and one sample:

1. In each turn a case has the log ratio of `shmbench.compare`, as measured and less the drift of
   the machine in that turn (its rules 1 and 4).
2. A turn doesn't count for a case that one of its runs calls untrusted, or whose first two ranks'
   CPUs were further apart in one run than in the other (a hypervisor had moved them), or that
   failed in the base run. One that failed in a new run has failed, however often it did not.
3. The ratio is the median over the turns. Its interval is Student's t, for one turn less, times the
   standard error by bootstrap over turns, at a confidence corrected for the number of cases.
4. Worse or better is what rule 5 there calls so, the surer of the two measures being enough. The
   effect is the share of turns in which the new run is slower, less that in which it is faster.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np

from shmbench import compare as two
from shmbench.compare import Comparison, Direction, Key, Pair, Row
from shmbench.errors import UsageError
from shmbench.results import Result, ResultFile, load

TURNS_MIN = 4


def load_runs(directory: Path) -> list[ResultFile]:
    """The result files of a directory, in the order in which they were taken.

    Raises:
        UsageError: there are fewer than `TURNS_MIN`.
        ResultFormatError: one of the .json files is no result file.
    """
    runs = [load(path) for path in sorted(directory.glob("*.json"))]
    if len(runs) < TURNS_MIN:
        raise UsageError(
            f"{directory} has {len(runs)} result files (*.json), which is too few for turns",
            f"measure {TURNS_MIN} at least of each, by turns, or give two files",
        )
    return sorted(runs, key=lambda run: run.created)


def compare_turns(
    base: Sequence[ResultFile],
    new: Sequence[ResultFile],
    *,
    confidence: float = 0.95,
    threshold: float = 0.05,
    other_machine: bool = False,
) -> Comparison:
    """Compare the runs of two builds or settings, turn by turn, by the rule above.

    Args:
        base, new: as many of each, in the order in which they were taken.
        confidence: of all intervals together.
        threshold: relative change below which nothing is worse or better; 0.05 is 5 %.
        other_machine: compare although the runs are from different machines.

    Raises:
        UsageError: there are not as many of each, the machines differ, or confidence or threshold
            make no sense.
    """
    two.check_options(confidence, threshold)
    if len(base) != len(new):
        raise UsageError(
            f"{len(base)} runs of the base and {len(new)} of the new one are no turns",
            "compare as many of each, taken one of each at a time",
        )
    turns = [(two.by_case(one), two.by_case(other)) for one, other in zip(base, new, strict=True)]
    pairs = [two.pair_up(old, now, confidence) for old, now in turns]
    keys = list(dict.fromkeys(key for found in pairs for key in found))
    by_case = {key: [found[key] for found in pairs if key in found] for key in keys}
    each = two.of_each(confidence, max(1, len(keys)))
    return Comparison(
        rows=[
            *(_row(of_case, each, threshold) for of_case in by_case.values()),
            *_singles([now for _, now in turns], "only in new", by_case),
            *_singles([old for old, _ in turns], "only in base", by_case),
        ],
        confidence=confidence,
        threshold=threshold,
        drift=two.median_ratio(
            [pair.shift for of_case in by_case.values() for pair in of_case if pair.comparable]
        ),
        causes=_causes(base, new, other_machine),
    )


def _singles(
    runs: list[dict[Key, Result]], direction: Direction, both: Container[Key]
) -> list[Row]:
    """Rows of the cases that only these runs have."""
    found = {key: result for run in runs for key, result in run.items()}
    return [two.single(result, direction) for key, result in found.items() if key not in both]


def _causes(
    base: Sequence[ResultFile], new: Sequence[ResultFile], other_machine: bool
) -> list[str]:
    pairs = list(zip(base, new, strict=True))
    causes = [cause for pair in pairs for cause in two.causes_of(*pair, other_machine)]
    taken = [max(pair[0].created, pair[1].created) for pair in pairs]
    following = [min(pair[0].created, pair[1].created) for pair in pairs[1:]]
    if any(next_one < last for last, next_one in zip(taken, following, strict=False)):
        causes.append("the runs were not taken by turns, so that a drift of the machine counts")
    return list(dict.fromkeys(causes))


def _why_not(pair: Pair) -> str:
    """Why this turn doesn't count; empty where it does."""
    if not pair.comparable:
        return pair.failure()
    return pair.moved or (f"the {pair.untrusted} run is untrusted" if pair.untrusted else "")


def _row(turns: list[Pair], confidence: float, threshold: float) -> Row:
    case = turns[-1].new.case()
    medians = [
        [each.median for each in side if each.median is not None]
        for side in ([pair.base for pair in turns], [pair.new for pair in turns])
    ]
    base, new = (float(np.median(side)) if side else None for side in medians)
    broken = [pair for pair in turns if not two.has_figure(pair.new)]
    if broken:
        reason = f"in {len(broken)} of {len(turns)} turns; {broken[-1].failure()}"
        return Row(case=case, direction="failed", base=base, new=new, reason=reason)
    good, left_out = [], []
    for pair in turns:
        why = _why_not(pair)
        if why:
            left_out.append(why)
        else:
            good.append(pair)
    if len(good) < TURNS_MIN:
        reason = "; ".join(
            [f"only {len(good)} turns count, of {TURNS_MIN} at least", *left_out[:1]]
        )
        return Row(case=case, direction="undecided", base=base, new=new, reason=reason)
    shifts = np.array([pair.shift for pair in good])
    steady = shifts - np.array([pair.drift for pair in good])
    quantile = two.student_t(confidence, len(good) - 1)
    widths = [quantile * math.sqrt(two.median_variance(each)) for each in (shifts, steady)]
    shift = float(np.median(shifts))
    drift = shift - float(np.median(steady))
    beyond = math.log1p(threshold)
    direction: Direction = "no change"
    reason = ""
    if abs(shift) > beyond:
        direction, reason = two.judge(shift, drift, (widths[0], widths[1]), beyond, surer_one=True)
    return Row(
        case=case,
        direction=direction,
        base=base,
        new=new,
        ratio=math.exp(shift),
        interval=(math.exp(shift - widths[0]), math.exp(shift + widths[0])),
        drift=math.exp(drift),
        effect_size=float(np.sign(shifts).mean()),
        reason=reason,
    )
