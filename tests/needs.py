"""What a test wants of the machine: skipped with a reason and a remedy, or demanded."""

import os

import pytest


def need(condition: bool, why: str, remedy: str) -> None:
    """Skip the test unless `condition`; where SHMBENCH_REQUIRE is set, fail instead."""
    if condition:
        return
    message = f"{why}; {remedy}"
    if os.environ.get("SHMBENCH_REQUIRE"):
        pytest.fail(message)
    pytest.skip(message)
