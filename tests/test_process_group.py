"""Forked ranks: they meet, they report, and none outlives a failure."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from needs import need

from shmbench.errors import CaseTimeout, PeerFailed, Unavailable
from shmbench.group.process import ProcessGroup, run_ranks
from shmbench.measure.distance import hand_over_s


def children() -> set[str]:
    with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as listing:
        return set(listing.read().split())


@pytest.mark.parametrize("size", [1, 2, 5])
def test_what_each_rank_returns_comes_back_in_rank_order(size: int) -> None:
    def body(group: ProcessGroup) -> bytes:
        everyone = group.allgather(f"from {group.rank}".encode())
        for _ in range(200):
            group.barrier()
        return b"|".join(everyone) + f" seen by {group.rank}".encode()

    everyone = "|".join(f"from {rank}" for rank in range(size))
    expected = [f"{everyone} seen by {rank}".encode() for rank in range(size)]
    assert run_ranks(size, body, timeout_s=20) == expected


def test_the_first_two_ranks_measure_how_far_apart_their_cpus_are() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    need(len(cpus) >= 2, "this needs two CPUs", "run it on a machine with two")

    def body(group: ProcessGroup) -> bytes:
        os.sched_setaffinity(0, {cpus[min(group.rank, 1)]})
        return json.dumps([hand_over_s(group) for _ in range(3)]).encode()

    first, second, third = (json.loads(a) for a in run_ranks(3, body, timeout_s=20))
    assert all(seconds > 0 for seconds in (*first, *second))
    assert third == [0.0, 0.0, 0.0]


def test_an_answer_may_be_larger_than_a_pipe_holds() -> None:
    answers = run_ranks(2, lambda group: bytes([group.rank]) * 3_000_000, timeout_s=20)
    assert [len(answer) for answer in answers] == [3_000_000, 3_000_000]


def test_an_item_that_the_group_can_not_carry_is_refused() -> None:
    with pytest.raises(PeerFailed, match="rank 0 raised ValueError: allgather carries 65536"):
        run_ranks(1, lambda group: group.allgather(bytes(65537))[0], timeout_s=20)


def test_a_killed_rank_is_named_and_the_others_are_gone() -> None:
    def body(group: ProcessGroup) -> bytes:
        if group.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        group.barrier()  # never completes
        return b""

    before = children()
    with pytest.raises(PeerFailed, match="rank 1 was killed by SIGKILL"):
        run_ranks(3, body, timeout_s=20)
    assert children() == before


def test_a_rank_that_exits_without_a_word_is_named() -> None:
    def body(group: ProcessGroup) -> bytes:
        if group.rank == 0:
            os._exit(7)
        group.barrier()
        return b""

    with pytest.raises(PeerFailed, match="rank 0 exited with status 7"):
        run_ranks(2, body, timeout_s=20)


def test_the_cause_is_named_and_not_the_rank_that_saw_its_peer_go() -> None:
    def body(group: ProcessGroup) -> bytes:
        if group.rank == 0:
            raise BrokenPipeError("the peer is gone")
        time.sleep(0.03)
        raise ValueError("this is why")

    with pytest.raises(PeerFailed, match="rank 1 raised ValueError: this is why"):
        run_ranks(2, body, timeout_s=20)


def test_our_own_errors_keep_their_class_and_remedy() -> None:
    def body(group: ProcessGroup) -> bytes:
        raise Unavailable("no huge pages", "reserve some")

    with pytest.raises(Unavailable) as caught:
        run_ranks(2, body, timeout_s=20)
    assert caught.value.remedy == "reserve some"


def test_ranks_that_hang_end_with_the_time_out() -> None:
    def body(group: ProcessGroup) -> bytes:
        if group.rank == 1:
            time.sleep(600)
        return b""

    before = children()
    with pytest.raises(CaseTimeout, match="no answer from rank 1 within"):
        run_ranks(2, body, timeout_s=0.3)
    assert children() == before


def test_ranks_die_with_their_leader() -> None:
    read_end, write_end = os.pipe()
    leader = os.fork()
    if leader == 0:

        def body(group: ProcessGroup) -> bytes:
            os.write(write_end, b"x")
            time.sleep(600)
            return b""

        run_ranks(2, body, timeout_s=600)
        os._exit(0)
    os.close(write_end)
    assert len(os.read(read_end, 1) + os.read(read_end, 1)) == 2
    os.kill(leader, signal.SIGKILL)
    os.waitpid(leader, 0)
    assert os.read(read_end, 1) == b""  # the ranks held the other end: they are gone
    os.close(read_end)
