"""Rings: the channel contract for each wait strategy, and what a ring promises beyond it."""

from __future__ import annotations

import pytest
from channel_harness import (
    ONE_WAY,
    check_both_directions,
    check_delivery,
    check_fan_in,
    check_fan_out,
    check_nothing_left,
    check_too_small_buffer,
    run,
)
from hypothesis import given
from hypothesis import strategies as st

from shmbench.channels import CHANNELS, Channel
from shmbench.group import Group
from shmbench.native.ring import FRAGMENT_BYTES_MAX, Layout

STRATEGIES = ("spin", "futex", "adaptive", "semaphore", "eventfd")
SIZES = (1, 8, 56, 57, 4096, FRAGMENT_BYTES_MAX, 65536 + 13, (1 << 20) + 1)


@pytest.fixture(params=STRATEGIES)
def ring(request: pytest.FixtureRequest) -> type[Channel]:
    return CHANNELS.get(f"native/{request.param}")


@pytest.mark.parametrize("message_bytes", SIZES)
def test_messages_arrive_whole_and_in_order(ring: type[Channel], message_bytes: int) -> None:
    check_delivery(ring, message_bytes)


def test_a_message_reaches_all_readers(ring: type[Channel]) -> None:
    check_fan_out(ring)


def test_messages_of_several_writers_arrive(ring: type[Channel]) -> None:
    check_fan_in(ring)


@pytest.mark.parametrize("message_bytes", [8, 1 << 20])
def test_both_directions_at_once_do_not_block(ring: type[Channel], message_bytes: int) -> None:
    check_both_directions(ring, message_bytes)


def test_a_message_that_does_not_fit_is_refused(ring: type[Channel]) -> None:
    check_too_small_buffer(ring)


def test_nothing_is_left_of_two_hundred_rings(ring: type[Channel]) -> None:
    check_nothing_left(ring)


def test_messages_may_be_shorter_than_the_layout_was_made_for(ring: type[Channel]) -> None:
    def body(channel: Channel, group: Group) -> bytes:
        end = channel.sender(0) if group.rank == 0 else channel.receiver(0)
        buffer = memoryview(bytearray(100_000))
        for size in (100_000, 1, 70_000, 8, 33_000):
            if group.rank == 0:
                end.send(memoryview(bytes([size % 251]) * size))
            else:
                assert end.recv_into(buffer) == size
                assert buffer[:size] == bytes([size % 251]) * size
        return b"done"

    assert run(ring, ONE_WAY, 100_000, body) == [b"done", b"done"]


@given(st.integers(1, 1 << 26), st.integers(1, 64), st.sampled_from([16, 2048]))
def test_a_layout_has_room_for_every_slot_and_no_payload_straddles_its_slot(
    message_bytes: int, readers: int, small_slots: int
) -> None:
    layout = Layout(message_bytes, readers, small_slots)
    assert layout.slots & (layout.slots - 1) == 0
    assert layout.payload_offset + layout.fragment_bytes <= layout.stride_bytes
    assert layout.slots_offset % 64 == 0
    assert layout.size_bytes == layout.slots_offset + layout.slots * layout.stride_bytes
    if layout.fragment_bytes <= 56:
        assert 64 % layout.stride_bytes == 0  # stamp and payload share one line
    else:
        assert layout.stride_bytes % 64 == 0
