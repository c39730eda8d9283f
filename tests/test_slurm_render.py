"""Job scripts: the recorded texts, and nothing in them that a shell or Slurm could misread."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from shmbench.cli import cli
from shmbench.errors import UsageError
from shmbench.slurm.render import KINDS, JobOptions, Kind, render

ROOT = Path(__file__).parent.parent
RECORDED = Path(__file__).parent / "recorded" / "slurm"

EVERYTHING = JobOptions(
    "survey",
    name="nightly-survey",
    suite="quick",
    arguments=("--budget", "20", "--dir", "/scratch/it's here"),
    nodes=16,
    at_a_time=4,
    partition="cpu",
    account="p0123",
    qos="high",
    time="1-02:00:00",
    constraint="[rack1*4&rack2*4]",
    gres="gpu:a100:2",
    mail_user="someone@example.org",
    mail_type="END,FAIL",
    directives=("--comment=two words", "-H", "--reservation=maint"),
    modules=("python/3.11", "mpich/4.2"),
    venv="/home/some one/venv",
    environment={"OMP_NUM_THREADS": "1", "ODD": "$(id) `id` \"'\\"},
    results=Path("/scratch/results of mine"),
    directory=Path("/home/some one"),
)
MPIRUN = JobOptions(
    "mpi",
    nodes=4,
    ranks=8,
    launcher=("mpirun", "--bind-to", "none"),
    exclusive=False,
    cpus_per_task=2,
)

# Stand for Slurm's commands: they write down their words, and srun runs the task like a node's.
SRUN = """#!/bin/bash
for word in "$@"; do printf '%s\\0' "$word" >> "$WORDS"; done
"""
SCONTROL = '#!/bin/bash\necho "n1\nn2"\n'

odd_text = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp", "Zs")) | st.just(" "),
    min_size=1,
    max_size=20,
).filter(lambda text: text.isprintable())


def run_script(script: str, directory: Path, *arguments: str) -> list[str]:
    """Have bash run a script; gives all words that srun got."""
    tools = directory / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    words = directory / "words"
    words.unlink(missing_ok=True)
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "WORDS": str(words),
        "SLURM_JOB_ID": "7",
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_NTASKS": "4",
    }
    done = subprocess.run(
        ["bash", "-c", script, "job.sh", *arguments],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return words.read_text().split("\0")[:-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_scripts_to_use_by_hand_are_the_templates(kind: Kind) -> None:
    written = (ROOT / "slurm" / f"{kind}.sh").read_text()
    again = f"write it anew: shmbench slurm render {kind} > slurm/{kind}.sh"
    assert written == render(JobOptions(kind)), again
    assert written == CliRunner().invoke(cli, ["slurm", "render", kind]).output, again


@pytest.mark.parametrize(("name", "options"), [("everything", EVERYTHING), ("mpirun", MPIRUN)])
def test_a_script_with_options_is_as_recorded(name: str, options: JobOptions) -> None:
    assert render(options) == (RECORDED / f"{name}.sh").read_text()


@pytest.mark.parametrize("kind", ["node", "survey", "mpi", "array"])
def test_what_is_given_to_sbatch_goes_to_shmbench(kind: Kind, tmp_path: Path) -> None:
    words = run_script(render(JobOptions(kind)), tmp_path, "--dir", "a b", "--budget", "5")
    assert words[-4:] == ["--dir", "a b", "--budget", "5"]
    assert "shmbench" in words
    results = tmp_path / "shmbench-7"
    wanted = {"node": "all mpi", "survey": "n1 n2", "mpi": "mpi", "array": "task-0 task-1 task-2"}
    assert (results / "expected").read_text().split() == wanted[kind].split()


def test_an_array_s_task_gets_its_own_value_and_file(tmp_path: Path) -> None:
    options = JobOptions(
        "array", parameter="channel", values=("spin", "pipe"), arguments=("--quick",)
    )
    words = run_script(render(options), tmp_path)
    assert words[words.index("--channel") + 1] == "pipe"
    assert words[words.index("--output") + 1] == f"{tmp_path}/shmbench-7/task-1.json"


@settings(max_examples=40, deadline=None)
@given(text=odd_text)
def test_whatever_is_printable_reaches_the_program_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    directory = tmp_path_factory.mktemp("job")
    options = JobOptions("survey", arguments=("--dir", text), environment={"ODD": text})
    words = run_script(render(options), directory)
    assert words[words.index("--dir") + 1] == text
    echo = render(options).replace("set -uo pipefail", "").partition("\nexport results")[0]
    shown = subprocess.run(
        ["bash", "-c", echo + '\nprintf %s "$ODD"'], capture_output=True, text=True, check=True
    )
    assert shown.stdout == text


@pytest.mark.parametrize("kind", ["survey", "array"])
def test_a_directory_of_results_with_odd_characters_is_used_as_it_is(
    kind: Kind, tmp_path: Path
) -> None:
    results = tmp_path / "a b$HOME`id`'\"#*;&|é"
    words = run_script(render(JobOptions(kind, results=results)), tmp_path)
    assert words[words.index("--output") + 1].startswith(f"{results}/")
    assert (results / "expected").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"partition": "cpu\n#SBATCH --uid=0"}, "--partition"),
        ({"partition": "a b"}, "--partition"),
        ({"account": "$(id)"}, "--account"),
        ({"name": "it's"}, "--job-name"),
        ({"name": "a#b"}, "--job-name"),
        ({"qos": 'a"b'}, "--qos"),
        ({"mail_user": "x\\y"}, "--mail-user"),
        ({"directives": ("--comment=a\nb",)}, "--comment"),
        ({"directives": ('--comment="a"',)}, "--comment"),
        ({"directives": ("rm -rf /",)}, "rm -rf /"),
        ({"directives": ("--output=/x",)}, "--output"),
        ({"environment": {"A B": "x"}}, "A B"),
        ({"environment": {"A": "x\ny"}}, "--env A"),
        ({"venv": "/a\nb"}, "--venv"),
        ({"results": Path("/a%j")}, "--results"),
        ({"results": Path("/a\\b")}, "--results"),
        ({"arguments": ("a\x1bb",)}, "argument"),
    ],
)
def test_what_could_be_misread_is_refused_and_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        render(replace(JobOptions("survey"), **changes))
    assert named in caught.value.message
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_an_array_over_no_option_of_run_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        render(JobOptions("array", parameter="sise"))
    assert caught.value.remedy == "did you mean size?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--", "--bugdet", "5"), "Did you mean '--budget'"),
        (("--", "--size", "8Q"), "no known unit"),
        (("--", "--output", "x.json"), "job script's own"),
        (("--", "quick"), "unexpected extra argument"),
        (("--values", "8"), "take array"),
        (("--env", "A"), "has no value"),
        (("--system", "x"), "there is no shmbench.toml"),
        (("--launcher", "srun 'x"), "No closing quotation"),
    ],
)
def test_wrong_options_are_told_before_anything_is_submitted(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    ended = CliRunner().invoke(cli, ["slurm", "submit", "survey", *arguments])
    assert ended.exit_code != 0
    assert message in f"{ended.exception} {ended.output}"
    assert list(tmp_path.iterdir()) == []
