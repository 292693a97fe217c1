"""A real SLURM cluster of two nodes on this host: munged, slurmctld and two slurmd of our own, gone afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support import ROOT, environment

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "squeue")
PACKAGES = ("slurm-wlm", "slurmctld", "slurmd", "munge")
WORDS = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldPort={ports[0]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=30
JobRequeue=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 State=UNKNOWN
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=n1,n2 MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""  # noqa: E501


class Cluster:
    """What a user of the cluster does: submit, look, wait."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in environment().items() if not name.startswith("SLURM_")}
        self.environment = kept | {"SLURM_CONF": str(folder / "slurm.conf")}

    def call(self, *words: str | Path, **variables: str) -> str:
        """What a command prints; an error, with its words, where it fails."""
        done = subprocess.run([str(word) for word in words], env=self.environment | variables, cwd=ROOT,
                              capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, *words: str | Path, flags: tuple[str, ...] = ()) -> str:
        """A job's number, submitted as a user does: scripts/slurm/submit.py on CPUs."""
        program = ROOT / "scripts/slurm/submit.py"
        return self.call(sys.executable, program, "--gpus", "0", "--nic", "lo", *flags, *words)

    def preempt(self, seconds: int) -> str:
        """The number of a job of higher priority that takes both nodes for so long."""
        out = self.folder / "high.log"
        return self.call("sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", f"--output={out}",
                         "--wrap", f"sleep {seconds}")

    def signal(self, job: str, name: str) -> None:
        """A signal to a job's batch script, as SLURM sends it; where it has one just then."""
        subprocess.run(["scancel", "--batch", f"--signal={name}", job], env=self.environment, capture_output=True,
                       check=False)
        time.sleep(1)

    def state(self, job: str) -> dict[str, str]:
        """What SLURM knows of a job (of the first task of an array)."""
        words = self.call("scontrol", "--oneliner", "show", "job", job).splitlines()[0].split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def finished(self, job: str, patience_s: float = 300.0) -> dict[str, str]:
        """The state of a job that has ended for good."""
        return self.until(job, lambda known: known["JobState"] not in
                          ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "PREEMPTED", "SUSPENDED"),
                          patience_s)

    def until(self, job: str, holds: Callable[[dict[str, str]], bool], patience_s: float = 120.0) -> dict[str, str]:
        """The state of a job as soon as it is as wanted."""
        end = time.monotonic() + patience_s
        while not holds(known := self.state(job)):
            assert time.monotonic() < end, f"waited in vain: {known}"
            time.sleep(0.2)
        return known


def install() -> None:
    """Debian's packages, where they are missing and may be installed; else the tests are skipped, in words."""
    if os.geteuid() != 0:
        pytest.skip("a cluster of our own needs root: its daemons start jobs as other users do")
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing and shutil.which("apt-get") is None:
        pytest.skip(f"{', '.join(missing)}: not installed, and there is no apt-get; install SLURM and munge")
    if missing:
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES], env=quiet,
                              capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"apt-get could not install {' '.join(PACKAGES)}: {done.stderr.strip()[-200:]}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


def write_settings(folder: Path) -> None:
    """What the daemons read, and the folders that they write."""
    for name in ("state", "spool.n1", "spool.n2", "log"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(WORDS.format(host=socket.gethostname(), folder=folder, ports=free_ports(3)))
    (folder / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)


def daemons(folder: Path) -> list[list[str]]:
    """The commands of the cluster, in the order in which they are started."""
    munge = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key",
             f"--pid-file={folder}/munge.pid", f"--seed-file={folder}/munge.seed", f"--log-file={folder}/log/munge.log"]
    return [munge, ["slurmctld", "-D", "-i", "-c"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]]


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """The cluster, ready to take jobs; its jobs and daemons are gone afterwards."""
    install()
    write_settings(folder)
    cluster = Cluster(folder)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for words in daemons(folder):
            with (folder / "log" / f"{words[0]}{len(started)}.log").open("wb") as log:
                started.append(subprocess.Popen(words, env=cluster.environment, stdout=log, stderr=log))
            if words[0] == "munged":
                wait_for(lambda: (folder / "munge.socket").exists(), "munged", folder)
        wait_for(lambda: idle_nodes(cluster) == 2, "two idle nodes", folder)
        yield cluster
    finally:
        subprocess.run(["scancel", "--full", "--signal=KILL", "--state=RUNNING"], env=cluster.environment, check=False)
        subprocess.run(["scancel", "--user=root"], env=cluster.environment, check=False)
        time.sleep(2)
        for process in reversed(started):
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """A daemon and what it has started."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in family:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def idle_nodes(cluster: Cluster) -> int:
    """How many nodes wait for jobs."""
    done = subprocess.run(["sinfo", "--noheader", "--Node", "--partition=low", "--format=%t"], env=cluster.environment,
                          capture_output=True, text=True, check=False)
    return done.stdout.split().count("idle")


def wait_for(holds: Callable[[], bool], what: str, folder: Path, patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < end, f"no {what} in {patience_s:.0f} s; {folder}/log says why"
        time.sleep(0.2)
