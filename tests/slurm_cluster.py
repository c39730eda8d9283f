"""A real Slurm on loopback: munged, slurmctld and simulated nodes, in a directory of their own.

`python slurm_cluster.py DIRECTORY` brings it up, says so in one line, and serves until standard
input ends: so it goes when whoever started it is gone, however that ended. Daemons, jobs and
directory go with it. By hand: run it in a terminal, and set SLURM_CONF in another.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

NODES = ("n1", "n2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "squeue")
START_S = 20.0
_GONE_S = 10.0
_PR_SET_CHILD_SUBREAPER = 36

_SLURM_CONF = """\
ClusterName=shmbench
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
TmpFS={directory}
SlurmctldPidFile={directory}/slurmctld.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmdLogFile={directory}/slurmd-%n.log
SlurmdParameters=config_overrides
TaskProlog={directory}/task_prolog
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=5,batch_sched_delay=0
ReturnToService=2
MpiDefault=pmi2
KillWait=5
UnkillableStepTimeout=20
OverTimeLimit=0
JobRequeue=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=all Nodes={names} Default=YES MaxTime=1440 State=UP
"""

# What a test puts beside it runs before each task: `task_prolog.sh`, with SLURMD_NODENAME set.
_TASK_PROLOG = """\
#!/bin/bash
if [[ -x {directory}/task_prolog.sh ]]; then exec {directory}/task_prolog.sh; fi
"""


def missing() -> list[str]:
    """The programs that this machine lacks."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _configure(directory: Path) -> Path:
    ports = _free_ports(1 + len(NODES))
    cpus = os.cpu_count() or 1
    nodes = [
        f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={cpus}"
        " Sockets=1 ThreadsPerCore=1 RealMemory=2048 State=UNKNOWN "
        f"CoresPerSocket={cpus}"
        for name, port in zip(NODES, ports[1:], strict=True)
    ]
    (directory / "state").mkdir()
    for name in NODES:
        (directory / f"spool-{name}").mkdir()
    prolog = directory / "task_prolog"
    prolog.write_text(_TASK_PROLOG.format(directory=directory))
    prolog.chmod(0o755)
    configuration = directory / "slurm.conf"
    configuration.write_text(
        _SLURM_CONF.format(
            directory=directory,
            ports=ports,
            user=os.environ.get("USER") or "root",
            nodes="\n".join(nodes),
            names=",".join(NODES),
        )
    )
    key = directory / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    return configuration


def _daemons(directory: Path) -> list[list[str]]:
    munged = ["munged", "--foreground", "--force", f"--key-file={directory}/munge.key"]
    munged += [f"--{what}-file={directory}/munge.{what}" for what in ("log", "pid", "seed")]
    munged.append(f"--socket={directory}/munge.socket")
    return [munged, ["slurmctld", "-D", "-c"], *(["slurmd", "-D", "-N", name] for name in NODES)]


def _answer(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=10, check=False
    ).stdout


def _await_nodes(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        states = _answer(["sinfo", "-h", "-N", "-o", "%T"], environment).split()
        if states == ["idle"] * len(NODES):
            return
        time.sleep(0.05)
    raise SystemExit("slurm_cluster: the nodes did not come up; see the logs in the directory")


@contextmanager
def _running(directory: Path) -> Iterator[None]:
    """Everything up; afterwards nothing is left, the jobs' processes included."""
    configuration = _configure(directory)
    environment = os.environ | {
        "SLURM_CONF": str(configuration),
        "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
    }
    try:
        for command in _daemons(directory):
            subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=(directory / f"{command[0]}.err").open("ab"),
            )
            if command[0] == "munged":
                _await(directory / "munge.socket")
        _await_nodes(environment)
        # Orphans come to us, and are reaped by the kernel, as an init would; not before all daemons
        # run, because they would inherit it.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        yield
    finally:
        _kill_descendants()


def _await(path: Path) -> None:
    deadline = time.monotonic() + START_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"slurm_cluster: {path} did not appear")
        time.sleep(0.01)


def _children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in listed.split()]


def _kill_descendants() -> None:
    """Orphans become our children (subreaper): killing those until there are none gets all."""
    deadline = time.monotonic() + _GONE_S
    while time.monotonic() < deadline:
        for pid in _children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not _children():
            return
        time.sleep(0.01)


def main() -> None:
    """Serve until standard input ends."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="slurm-"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    directory.chmod(0o755)
    try:
        with _running(directory):
            print(f"export SLURM_CONF={directory}/slurm.conf", flush=True)
            sys.stdin.buffer.read()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
