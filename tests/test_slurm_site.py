"""A site's file: who is meant, what goes over what, and references that nodes are held to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from many_nodes import make_nodes, slow_down, write_nodes
from sample_results import sample_result

from shmbench.cli import cli
from shmbench.errors import UsageError
from shmbench.results import Limit
from shmbench.slurm.references import outside
from shmbench.slurm.site import Reference, choose_system, load_site, merged

EXAMPLE = r"""
[[systems]]
name = "alpha"
hosts = ["login\\d+", "n\\d+"]
partition = "cpu"
account = "p0123"
modules = ["python/3.11"]
environment = { OMP_NUM_THREADS = "1", COLOUR = "no" }
launcher = "pmi2"
launchers = { pmi2 = "srun --mpi=pmi2", hydra = "mpirun -bind-to none" }

[[systems.partitions]]
name = "cpu"
partition = "normal"
time = "00:10:00"
modules = ["mpich/4.2"]
environment = { COLOUR = "yes" }

[[systems.partitions]]
name = "big"
exclusive = false
launcher = "hydra"

[[systems.references]]
workload = "ping_pong"
channel = "spin"
size = "8"
value = 55
high = 0.2
unit = "ns"

[[systems]]
name = "beta"
hosts = ["b.*"]
"""


def write(directory: Path, text: str = EXAMPLE) -> Path:
    path = directory / "shmbench.toml"
    path.write_text(text)
    return path


def test_the_system_is_the_one_whose_hosts_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = load_site(write(tmp_path))
    for host, name in (("login1", "alpha"), ("n12", "alpha"), ("b", "beta")):
        monkeypatch.setenv("SLURMD_NODENAME", host)
        chosen = choose_system(site, None)
        assert chosen is not None
        assert chosen.name == name
    monkeypatch.setenv("SLURMD_NODENAME", "xn12")
    with pytest.raises(UsageError, match="none of the systems alpha, beta"):
        choose_system(site, None)
    with pytest.raises(UsageError, match="did you mean beta"):
        choose_system(site, "betta")


def test_the_command_line_goes_over_the_partition_and_that_over_the_system(tmp_path: Path) -> None:
    system = choose_system(load_site(write(tmp_path)), "alpha")
    found = merged(system, {"modules": ("own",), "environment": {"MINE": "1"}})
    assert found["partition"] == "normal"
    assert found["account"] == "p0123"
    assert found["time"] == "00:10:00"
    assert found["modules"] == ["python/3.11", "mpich/4.2", "own"]
    assert found["environment"] == {"OMP_NUM_THREADS": "1", "COLOUR": "yes", "MINE": "1"}
    assert found["launcher"] == "srun --mpi=pmi2"
    found = merged(system, {"partition": "big", "account": "other", "launcher": None})
    assert found["partition"] == "big"
    assert found["account"] == "other"
    assert found["exclusive"] is False
    assert found["launcher"] == "mpirun -bind-to none"
    assert merged(system, {"launcher": "mpiexec"})["launcher"] == "mpiexec"
    with pytest.raises(UsageError, match="did you mean big"):
        merged(system, {"partition": "bik"})


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ('[[system]]\nname = "x"', "unknown key system", "did you mean systems?"),
        (
            '[[systems]]\nname = "x"\n[[systems.partitions]]\nname = "p"\naccont = "a"',
            "unknown key systems[0].partitions[0].accont",
            "did you mean account?",
        ),
        ('[[systems]]\nname = "x"\ntime = 5', "Expected `str | null`, got `int`", None),
        ("[[systems]]\nhosts = []", "missing required field `name`", None),
        ('[[systems]]\nname = "x"\nhosts = ["("]', "'(' is no regular expression", None),
        ('[[systems]]\nname = "x"\nlaunchers = { a = "" }', "launcher a is empty", None),
        ("[[systems]", "not TOML", None),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_place(
    tmp_path: Path, text: str, message: str, remedy: str | None
) -> None:
    with pytest.raises(UsageError) as caught:
        load_site(write(tmp_path, text))
    assert message in caught.value.message
    assert str(tmp_path) in caught.value.message
    assert remedy is None or caught.value.remedy == remedy
    assert "\n" not in str(caught.value)


def test_a_reference_bounds_time_bandwidth_or_distance_from_the_limit() -> None:
    result = sample_result(
        median=60e-9, bytes_per_second=8e9, limit=Limit(name="core_to_core", value=5e-8, ratio=1.2)
    )

    def falls_out(**keys: object) -> bool:
        reference = Reference(**({"workload": "ping_pong"} | keys))  # type: ignore[arg-type]
        return bool(outside([reference], [result])[0])

    assert not falls_out(value=55, high=0.1, unit="ns")
    assert falls_out(value=54, high=0.1, unit="ns")
    assert falls_out(value=100, low=-0.3, unit="ns")
    assert not falls_out(value=9, low=-0.2, unit="GB/s")
    assert falls_out(value=9, low=-0.1, unit="GB/s")
    assert falls_out(value=1, high=0.1, unit="x")
    assert not falls_out(value=1, high=0.1, unit="x", channel="pipe")
    assert falls_out(value=1, high=0.1, unit="x", size="8", region="anonymous", ranks=2)
    assert not falls_out(value=1, high=0.1, unit="x", size="4K")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"unit": "nss", "high": 0.1}, "unknown unit"),
        ({"unit": "ns"}, "has no bound"),
        ({"unit": "ns", "low": 0.1}, "low <= 0 <= high"),
        ({"unit": "ns", "high": 0.1, "value": 0}, "positive value"),
    ],
)
def test_a_reference_that_can_not_be_held_is_refused(keys: dict[str, object], message: str) -> None:
    reference = Reference(**({"workload": "ping_pong", "value": 5} | keys))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        outside([reference], [])


def test_collect_ends_with_1_when_a_node_falls_out_of_its_references(tmp_path: Path) -> None:
    nodes = make_nodes(6)
    write_nodes(nodes, tmp_path)
    config = write(tmp_path)
    command = ["slurm", "collect", str(tmp_path), "--config", str(config), "--system", "alpha"]
    sound = CliRunner().invoke(cli, command)
    assert sound.exit_code == 0, sound.output
    for file in nodes.values():  # all of them: so nobody is slower than its peers
        slow_down(file, 1.4)
    write_nodes(nodes, tmp_path)
    fallen = CliRunner().invoke(cli, command)
    assert fallen.exit_code == 1
    assert "6 nodes: 6 ok" in fallen.output
    assert fallen.output.count("out of reference: n00") == 6
    assert "wanted at most 66 ns" in fallen.output
    plan = json.loads((tmp_path / "collected.json").read_text())["plan"]
    assert plan["system"] == "alpha"
    assert len(plan["outside_references"]) == 6


def test_a_reference_that_nothing_answers_to_is_said(tmp_path: Path) -> None:
    write_nodes(make_nodes(2), tmp_path)
    config = write(tmp_path, EXAMPLE.replace('"ping_pong"', '"pingpong"'))
    ended = CliRunner().invoke(
        cli, ["slurm", "collect", str(tmp_path), "--config", str(config), "--system", "alpha"]
    )
    assert "no result answers to the reference: pingpong spin 8 B" in ended.output
