"""Results in the text that OSU's and Intel's benchmarks print: what reads those reads these.

Sizes in bytes; times in microseconds; MB are 10^6 bytes. What is ours stands in comments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shmbench import __version__
from shmbench.peers import Peer
from shmbench.results import Result

_OSU_VERSION = "v7.3"  # whose layout it is
_OSU_WIDTH, _IMB_WIDTH = 18, 13
_OSU_HEADINGS = {
    "latency": ("Latency (us)",),
    "bandwidth": ("Bandwidth (MB/s)",),
    "rate": ("MB/s", "Messages/s"),
    "average": ("Avg Latency(us)",),
    "overlap": ("Overall(us)", "Compute(us)", "Pure Comm.(us)", "Overlap(%)"),
}
_TIMES = ("t_min[usec]", "t_max[usec]", "t_avg[usec]")
_IMB_HEADINGS = {
    "time": ("t[usec]", "Mbytes/sec"),
    "times": _TIMES,
    "times_rate": (*_TIMES, "Mbytes/sec"),
    "band_rate": ("Mbytes/sec", "Msg/sec"),
    "overlap": ("t_ovrl[usec]", "t_pure[usec]", "t_CPU[usec]", "overlap[%]"),
}


def lines(peer: Peer, results: Sequence[Result]) -> list[str]:
    """What the benchmark would have printed; results that failed have no line."""
    measured = [result for result in results if result.median is not None]
    shown = _osu(peer, measured) if peer.suite == "OSU" else _imb(peer, measured)
    return [*_by_whom(results), *shown]


def _by_whom(results: Sequence[Result]) -> Iterator[str]:
    for result in results[:1]:
        mpi = result.mpi or {}
        yield (
            f"# shmbench {__version__}, through mpi4py: {mpi.get('vendor')} {mpi.get('version')}, "
            f"{result.ranks} ranks on {result.host}, {result.placement}"
        )


def _osu(peer: Peer, results: Sequence[Result]) -> Iterator[str]:
    headings = _OSU_HEADINGS[peer.columns]
    yield ""
    yield f"# {peer.title} {_OSU_VERSION}"
    if peer.workload.startswith("one_sided"):
        yield "# Window creation: MPI_Win_allocate"
        yield "# Synchronization: MPI_Win_flush"
    if peer.columns == "rate" and results:
        yield f"# [ pairs: {results[0].ranks // 2} ] [ window size: {peer.window} ]"
    if peer.columns == "overlap":
        yield "# Overall = Coll. Init + Compute + MPI_Test + MPI_Wait"
        yield ""
    if not peer.most:  # nothing is moved, so there is no size
        yield f"# {headings[0]}"
        width = len(headings[0]) + 2
        yield from (f"{_figures(peer, result)[0]:{width}.2f}" for result in results)
        return
    yield f"{'# Size':<10}" + "".join(f"{each:>{_OSU_WIDTH}}" for each in headings)
    for result in results:
        figures = "".join(f"{each:{_OSU_WIDTH}.2f}" for each in _figures(peer, result))
        yield f"{result.message_bytes:<10}" + figures


def _imb(peer: Peer, results: Sequence[Result]) -> Iterator[str]:
    headings = ("#repetitions", *_IMB_HEADINGS[peer.columns])
    if peer.most:
        headings = ("#bytes", *headings)
    rule = "#" + "-" * (len(headings) * _IMB_WIDTH - 1)
    yield ""
    yield rule
    yield f"# Benchmarking {peer.title} "
    yield f"# #processes = {results[0].ranks if results else 0} "
    yield rule
    if peer.workload == "one_sided":
        yield "#"
        yield "#    MODE: NON-AGGREGATE "
        yield "#"
    yield "".join(f"{each:>{_IMB_WIDTH}}" for each in headings)
    for result in results:
        counts = [peer.loops(result.message_bytes or 0)[1]]
        if peer.most:
            counts.insert(0, result.message_bytes or 0)
        yield "".join(f"{each:{_IMB_WIDTH}d}" for each in counts) + "".join(
            f"{each:{_IMB_WIDTH}.{0 if heading == 'Msg/sec' else 2}f}"
            for heading, each in zip(
                _IMB_HEADINGS[peer.columns], _figures(peer, result), strict=True
            )
        )


def _figures(peer: Peer, result: Result) -> tuple[float, ...]:
    """What stands in the columns of one line."""
    assert result.median is not None
    seconds = result.median  # of an operation, of which a window has many
    rate = peer.sends / seconds
    bytes_per_us = rate * (result.message_bytes or 0) * 1e-6
    if peer.columns == "overlap":
        computation, alone, hidden = (
            result.figures[name][0] for name in ("computation_s", "alone_s", "hidden_share")
        )
        overall, computation, alone = (1e6 * each for each in (seconds, computation, alone))
        parts = (computation, alone) if peer.suite == "OSU" else (alone, computation)
        return (overall, *parts, 100 * hidden)
    by_rank = {
        name: result.figures.get(f"{name}_rank_s", [seconds])[0] * 1e6
        for name in ("fastest", "slowest", "mean")
    }
    times = tuple(by_rank[name] * (peer.window or 1) for name in ("fastest", "slowest", "mean"))
    return {
        "latency": (seconds * 1e6,),
        "bandwidth": (bytes_per_us,),
        "rate": (bytes_per_us, rate),
        "average": (by_rank["mean"],),
        "time": (seconds * 1e6, bytes_per_us),
        "times": times,
        "times_rate": (*times, bytes_per_us),
        "band_rate": (bytes_per_us, rate),
    }[peer.columns]
