"""DAX, and another kernel (Debian 12's 6.1 has no cachestat): real, in a virtual machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from virtual_machine import run_pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_policies_over_files_on_dax(tmp_path: Path) -> None:
    run_pytest(["inside_dax.py"], tmp_path, options="dax=always", pmem_bytes=1 << 30)


def test_policies_on_another_kernel(tmp_path: Path) -> None:
    names = ("mapping", "guided", "residency", "eviction", "touch")
    files = [f"test_{name}.py" for name in names]
    run_pytest(files, tmp_path, options="dax=never", pmem_bytes=4 << 30)
