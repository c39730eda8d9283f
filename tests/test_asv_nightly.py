"""The nightly job of slurm/, on a real Slurm: asv measures, compares and publishes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from asv_harness import WITHOUT_MPI, Clone
from slurm_harness import running_cluster


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_night_measures_what_is_new_and_publishes_it(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    new = clone.commit("Change something")
    few = ("--quick", "--bench", "HandOver", "--config", WITHOUT_MPI)
    night = ("sbatch", "--parsable", "--export=ALL,COMMITS=1", "slurm/nightly.sh", *few)
    with running_cluster() as cluster:
        cluster.environment.update(HOME=clone.environment["HOME"])
        cluster.environment.update(PIP_CONFIG_FILE=clone.environment.get("PIP_CONFIG_FILE", ""))
        job_id = cluster.run(*night, cwd=clone.path).stdout.strip()
        cluster.await_state(job_id, "COMPLETED", timeout_s=300)
    (measured,) = (clone.path / ".asv/results/shmbench-all").glob(f"{new[:8]}-*.json")
    assert "bench_hardware.HandOver.track_time" in json.loads(measured.read_text())["results"]
    published = json.loads((clone.path / ".asv/html/index.json").read_text())
    assert published["params"]["machine"] == ["shmbench-all"]
