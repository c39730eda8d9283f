"""Registries: names to classes, with a remedy for a name that isn't there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shmbench.channels import CHANNELS
from shmbench.errors import UsageError
from shmbench.regions import REGIONS
from shmbench.registry import Registry


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("python/semaphor", "python/semaphore"),
        ("native/futx", "native/futex"),
        ("python/mq_pipe", "python/mp_pipe"),
    ],
)
def test_an_unknown_name_is_answered_with_its_nearest_match(wrong: str, right: str) -> None:
    with pytest.raises(UsageError) as caught:
        CHANNELS.get(wrong)
    assert caught.value.message == f"unknown channel '{wrong}'"
    assert caught.value.remedy == f"did you mean {right}?"


def test_a_name_like_no_other_is_answered_with_all_names() -> None:
    with pytest.raises(UsageError) as caught:
        REGIONS.get("xyz")
    assert caught.value.remedy is not None
    assert all(name in caught.value.remedy for name in REGIONS.names())


def test_a_class_that_is_missing_is_a_usage_error() -> None:
    registry: Registry[object] = Registry("thing", {"gone": "shmbench.errors:NoSuchThing"})
    with pytest.raises(UsageError, match="thing 'gone' can't be loaded"):
        registry.get("gone")


def test_every_python_channel_says_what_it_is_registered_as() -> None:
    for name in CHANNELS.names():
        if name.startswith("python/"):
            channel = CHANNELS.get(name)
            assert f"{channel.driver}/{channel.kind}" == name


def test_names_are_listed_without_importing_what_they_name() -> None:
    program = (
        "import sys; from shmbench.channels import CHANNELS; CHANNELS.names(); "
        "print([name for name in sys.modules if name.startswith('shmbench.channels.')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
