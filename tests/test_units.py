"""Sizes, durations and rates, from text and to text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmbench import units
from shmbench.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8", 8),
        ("8B", 8),
        ("4K", 4096),
        ("4k", 4096),
        ("4 KiB", 4096),
        ("1M", 1 << 20),
        ("64MiB", 64 << 20),
        ("2G", 2 << 30),
        ("1.5K", 1536),
        (".5M", 1 << 19),
        ("1T", 1 << 40),
    ],
)
def test_a_size_is_read_in_binary_units(text, size_bytes):
    assert units.parse_bytes(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "K",
        "-8",
        "0",
        "0K",
        "1e3",
        "4KB",
        "4 X",
        "1.3",
        "8,",
        "0x10",
        "nan",
        "inf",
        "٣",
        "9" * 400,
    ],
)
def test_garbage_instead_of_a_size_is_one_line_with_a_remedy(text):
    with pytest.raises(UsageError) as caught:
        units.parse_bytes(text)
    assert repr(text) in caught.value.message
    assert caught.value.remedy is not None
    assert "\n" not in str(caught.value)


def test_a_list_of_sizes_keeps_its_order():
    assert units.parse_bytes_list("1M, 8,4K") == [1 << 20, 8, 4096]


@pytest.mark.parametrize("text", ["", "8,", "8,,4K", "8;4K"])
def test_a_list_with_a_hole_is_refused(text):
    with pytest.raises(UsageError):
        units.parse_bytes_list(text)


@given(st.integers(1, 1023), st.sampled_from([0, 10, 20, 30, 40]))
def test_whole_units_come_back_exactly(number, power):
    size_bytes = number << power
    assert units.parse_bytes(units.format_bytes(size_bytes)) == size_bytes


@given(st.integers(0, 2**50))
def test_a_formatted_size_is_within_half_a_percent(size_bytes):
    number, name = units.format_bytes(size_bytes).split()
    shown = float(number) * {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}[name]
    assert shown == pytest.approx(size_bytes, rel=0.005)


@given(st.floats(1e-9, 1e5))
def test_a_formatted_duration_is_read_back_within_half_a_percent(seconds):
    assert units.parse_duration(units.format_duration(seconds)) == pytest.approx(seconds, rel=0.005)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (47.2e-9, "47.2 ns"),
        (3.1e-6, "3.1 us"),
        (999.9e-9, "1 us"),
        (0.5, "500 ms"),
        (123.4, "123 s"),
        (4321, "4320 s"),
        (0, "0 ns"),
        (0.25e-9, "0.25 ns"),
    ],
)
def test_a_duration_has_three_digits_and_the_unit_that_fits(seconds, text):
    assert units.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("2min", 120), ("1h", 3600), ("1.5 ms", 0.0015)]
)
def test_a_duration_without_a_unit_is_in_seconds(text, seconds):
    assert units.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "-1", "5 parsecs", "1e-6", "5 S"])
def test_garbage_instead_of_a_duration_is_refused(text):
    with pytest.raises(UsageError, match=r"duration|unit of time"):
        units.parse_duration(text)


def test_rates_are_decimal():
    assert units.format_rate(9.3e9) == "9.3 GB/s"
    assert units.format_rate(512) == "512 B/s"
    assert units.format_rate(999_999) == "1 MB/s"
    assert units.format_frequency(21.4e6) == "21.4 M/s"
    assert units.format_frequency(7) == "7 /s"
