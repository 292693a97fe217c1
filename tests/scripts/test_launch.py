"""The launcher, with shells for ranks: exit codes come back, signals go through, nobody is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scripts import launch
from scripts.launch import Ranks, by_srun, inside_allocation, signal_ranks, start_ranks, wait_for_ranks
from tests.processes import started as started_program
from tests.processes import wait_until
from tests.support import ROOT, environment

LISTENING = """
for name in USR1 TERM INT; do trap "echo rank $HOROVOD_RANK heard $name; sleep $1; exit $2" $name; done
echo $$ >up.$HOROVOD_RANK
while true; do sleep 0.05; done
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "listen.sh").write_text(LISTENING)
    (tmp_path / "fail.sh").write_text("[ $HOROVOD_RANK = 0 ] && exec sleep 60\nexit $1\n")
    (tmp_path / "deaf.sh").write_text("echo $$ >up.$HOROVOD_RANK\nexec sleep 60\n")
    return tmp_path


def words(folder: Path, program: str, *flags: str, launcher: tuple[str, ...] = ("-np", "2")) -> list[str]:
    """Two ranks of a shell program, in `folder`."""
    inner = f"cd {folder} && exec sh {program} {' '.join(flags)}"
    return [sys.executable, str(ROOT / "scripts/launch.py"), *launcher, "sh", "-c", inner]


@pytest.fixture
def listening(folder: Path, request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A launcher whose two ranks listen, and the numbers of their processes."""
    with started_program(words(folder, *request.param), folder / "log") as process:
        ups = [folder / f"up.{rank}" for rank in range(2)]
        wait_until(lambda: all(up.exists() and up.read_text().strip() for up in ups), 60)
        yield process, [int(up.read_text()) for up in ups]


def called(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)


def test_the_code_of_the_rank_that_failed_comes_back(folder: Path) -> None:
    done = called(words(folder, "fail.sh", "3"))
    assert done.returncode == 3
    assert "Process 1 exit with status code 3" in done.stdout


def test_ranks_that_end_well_end_well(folder: Path) -> None:
    (folder / "end.sh").write_text("echo this is $HOROVOD_RANK of $HOROVOD_SIZE\n")
    done = called(words(folder, "end.sh"))
    assert done.returncode == 0, done.stderr
    assert {"[0]<stdout>:this is 0 of 2", "[1]<stdout>:this is 1 of 2"} <= set(done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("listening", [("listen.sh", "6", "75")], indirect=True)
def test_ranks_that_are_told_to_stop_get_the_time_they_need(
    folder: Path, listening: tuple[subprocess.Popen[bytes], list[int]]
) -> None:
    """Horovod's own launcher would have killed them after five seconds."""
    process, _ = listening
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 75
    assert (folder / "log").read_text().count("heard USR1") == 2


@pytest.mark.parametrize("listening", [("listen.sh", "0", "75")], indirect=True)
def test_sigterm_goes_through(folder: Path, listening: tuple[subprocess.Popen[bytes], list[int]]) -> None:
    process, _ = listening
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert "rank 0 heard TERM" in (folder / "log").read_text()


@pytest.mark.parametrize("listening", [("listen.sh", "60", "130")], indirect=True)
def test_a_second_interrupt_kills(folder: Path, listening: tuple[subprocess.Popen[bytes], list[int]]) -> None:
    process, ranks = listening
    process.send_signal(signal.SIGINT)
    wait_until(lambda: (folder / "log").read_text().count("heard INT") == 2, 30)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert not any(psutil.pid_exists(rank) for rank in ranks)


@pytest.mark.parametrize("listening", [("deaf.sh",)], indirect=True)
def test_ranks_that_cannot_listen_yet_have_nothing_to_save(
    listening: tuple[subprocess.Popen[bytes], list[int]]
) -> None:
    process, _ = listening
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 75


@pytest.mark.parametrize("listening", [("listen.sh", "0", "75")], indirect=True)
def test_ranks_of_a_killed_launcher_are_told_to_save(
    folder: Path, listening: tuple[subprocess.Popen[bytes], list[int]]
) -> None:
    process, ranks = listening
    process.kill()
    process.wait(10)
    wait_until(lambda: not any(psutil.pid_exists(rank) for rank in ranks), 30)


def test_elastic_ranks_that_leave_with_75_are_not_replaced(folder: Path) -> None:
    (folder / "hosts.sh").write_text("#!/bin/sh\necho localhost:1\necho 127.0.0.1:1\n")
    (folder / "hosts.sh").chmod(0o755)
    (folder / "leave.sh").write_text("echo once >>starts\nsleep $HOROVOD_RANK\nexit 75\n")
    flags = ("-np", "2", "--min-np", "1", "--network-interfaces", "lo", "--host-discovery-script",
             str(folder / "hosts.sh"))
    done = called(words(folder, "leave.sh", launcher=flags))
    assert done.returncode == 75, done.stderr
    assert (folder / "starts").read_text().split() == ["once"] * 2


@pytest.mark.parametrize(("flags", "told"), [
    (("-np", "2", "--mpi", "true"), "--mpi and --jsrun start ranks in their own ways"),
    (("-np", "2"), "no program is named; give it after the flags"),
    (("-np", "4", "-H", "localhost:2", "true"), "-H localhost:2 has room for 2 ranks; lower -np or name more hosts"),
    (("-np", "x", "true"), "argument -np/--num-proc: invalid int value: 'x'; horovodrun --help lists the flags"),
    (("-np", "2", "--network-interface", "none0", "true"), "--network-interface none0: there is no such interface"),
])
def test_what_cannot_be_started_is_told_in_one_line(flags: tuple[str, ...], told: str) -> None:
    done = called([sys.executable, str(ROOT / "scripts/launch.py"), *flags])
    assert done.returncode in (1, 2)
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("launch: ")
    assert told in done.stderr


def happened() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def test_a_rank_that_does_not_leave_is_killed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PATIENCE_S", 0.5)
    begin = time.monotonic()
    code = Ranks().execute("sh -c 'trap \"\" TERM; sleep 60 & wait; sleep 60'", index=0, events=[happened()])
    assert code == 128 + signal.SIGKILL
    assert time.monotonic() - begin < 30


def test_a_rank_that_was_terminated_for_another_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ranks().execute("sleep 60", index=0, events=[happened()]) == 128 + signal.SIGTERM


def test_what_a_dead_rank_has_left_behind_does_not_hold_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading worker of a killed rank keeps its output open."""
    monkeypatch.setattr(launch, "PATIENCE_S", 0.5)
    assert Ranks().execute("sh -c 'sleep 60 & exit 4'", index=0) == 4


def test_nothing_is_started_once_all_leave() -> None:
    ranks = Ranks()
    assert ranks.execute("sh -c 'exit 75'", index=0) == 75
    assert ranks.execute("sh -c 'exit 5'", index=0) == 75


def test_waiting_ends_with_the_child_the_event_or_the_patience() -> None:
    child = start_ranks("sleep 60")
    try:
        assert wait_for_ranks(child, lambda: True) is None
        assert wait_for_ranks(child, patience_s=0.2) is None
    finally:
        launch.kill(child)
    assert wait_for_ranks(child) == -signal.SIGKILL


def test_remote_ranks_are_told_through_srun_and_never_through_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []

    class Fake:
        def __init__(self, args: str) -> None:
            self.args = args

        def send_signal(self, number: int) -> None:
            heard.append(number)

    for command in ("exec env A=1 python x", f"exec {by_srun('x', host='n2')}", "exec ssh -o X n2 x"):
        signal_ranks(Fake(command), signal.SIGTERM)  # type: ignore[arg-type]
    assert heard == [signal.SIGTERM, signal.SIGUSR1]
    assert by_srun("'cd x; env A=1 y'", host="n2", port=None).endswith("--nodelist=n2 bash -c 'cd x; env A=1 y'")


def test_other_hosts_are_nodes_only_inside_an_allocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not inside_allocation({"SLURM_JOB_ID": "7"})
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    assert inside_allocation({"SLURM_JOB_ID": "7"})
    assert not inside_allocation({})
