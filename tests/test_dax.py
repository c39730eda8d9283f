"""DAX, and another kernel (Debian 12's 6.1 has no cachestat): real, in a virtual machine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from virtual_machine import run_pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAMES = ("mapping", "guided", "residency", "eviction", "touch")


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """Both at once: each keeps little more than one CPU busy."""

    def start(files: list[str], dax: str, pmem_gib: int) -> Future[None]:
        folder = tmp_path_factory.mktemp("machine")
        options = f"dax={dax}"
        return pool.submit(run_pytest, files, folder, options=options, pmem_bytes=pmem_gib << 30)

    with ThreadPoolExecutor() as pool:
        yield {
            "dax": start(["inside_dax.py"], "always", 1),
            "kernel": start([f"test_{name}.py" for name in NAMES], "never", 4),
        }


def test_policies_over_files_on_dax(machines: dict[str, Future[None]]) -> None:
    machines["dax"].result()


def test_policies_on_another_kernel(machines: dict[str, Future[None]]) -> None:
    machines["kernel"].result()
