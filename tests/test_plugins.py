"""Another package's channel and region, installed as a user would, are there like our own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent / "plugin_example"

CARRY_A_MESSAGE = """
import json
from shmbench.channels import CHANNELS, ChannelSpec, Link
from shmbench.group.process import run_ranks
from shmbench.regions import REGIONS, RegionSpec

channel_class = CHANNELS.get("python/example_socketpair")
region_class = REGIONS.get("example_memfd")
spec, region_spec = ChannelSpec((Link(0, (1,)),), 5), RegionSpec(4096)
wires, memory = channel_class.inherit(spec), region_class.inherit(region_spec)

def body(group):
    region = region_class.open(group, region_spec, memory)
    channel = channel_class.open(group, spec, region, wires)
    buffer = bytearray(5)
    if group.rank == 0:
        region.memory[:6] = b"region"
        channel.sender(0).send(memoryview(b"hello"))
    else:
        channel.receiver(0).recv_into(memoryview(buffer))
    seen = bytes(buffer) + b" " + bytes(region.memory[:6])
    channel.close()
    region.close()
    return seen

seen = run_ranks(2, body, timeout_s=10.0)[1].decode()
print(json.dumps({"channels": CHANNELS.names(), "regions": REGIONS.names(), "seen": seen}))
"""

BROKEN = """
from shmbench.channels import CHANNELS
from shmbench.errors import UsageError

try:
    CHANNELS.get("python/example_socketpair")
except UsageError as error:
    print(error)
"""

Run = Callable[[str], str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the example installed in it; offline, by the pip and setuptools here."""
    source = tmp_path_factory.mktemp("source") / "example"
    shutil.copytree(EXAMPLE, source)  # a build leaves things in the tree
    target = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    install += ["--no-build-isolation", "--no-compile", "--target", str(target), str(source)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def run(site: Path) -> Run:
    """Runs a program in a fresh interpreter that sees the example."""

    def run_it(program: str) -> str:
        command = [sys.executable, "-c", program]
        environment = os.environ | {"PYTHONPATH": str(site)}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_it


def test_an_installed_package_adds_a_channel_and_a_region_that_work(run: Run) -> None:
    seen = json.loads(run(CARRY_A_MESSAGE))
    assert "python/example_socketpair" in seen["channels"]
    assert "example_memfd" in seen["regions"]
    assert seen["seen"] == "hello region"


def test_a_package_whose_module_is_gone_is_named_in_one_line(site: Path, run: Run) -> None:
    module = site / "shmbench_example.py"
    aside = module.rename(site / "aside.py")
    try:
        message = run(BROKEN)
    finally:
        aside.rename(module)
    assert "python/example_socketpair" in message
    assert "shmbench_example" in message
    assert "reinstall or remove" in message
    assert message.count("\n") == 1
