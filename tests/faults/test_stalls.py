"""Every way in which one rank can fail the others ends all of them in time, in a line that names who, when and where.

The faults are those of `program.py`. Each is tried under torch.distributed with ranks of tests.flow.warm, and under
horovodrun those that Horovod does not see itself; every one, of either rank, under both, is for `make soak`.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.program import STEP
from tests.flow import warm
from tests.processes import entry, started, wait_until, words_of
from tests.support import config_of, write_config

pytestmark = pytest.mark.slow
Stores = tuple[Path, Path]
TIMEOUT_S = 10.0
PATIENCE_S = 60.0
"""For a machine with other work; what matters is who ends the ranks, and in which words."""
MENDED = "what is saved is whole; start again with the same command"

GONE = r"lost rank {rank} {process}, last seen at step \d+ .*: its process is gone"
LEFT = r"lost rank {rank} {process}, last seen at step {step} .*: it left with exit code "
STALLED = r"rank {rank} {process} stalled at step {step} outside of collectives: nothing has gone on for \d+ s"
SILENT = r"rank {rank} {process} stalled at step \d+ .*: no sign of life for \d+ s"
IN = r"; rank {other} is at step {step} in gradient\.\S+; "
ANYWHERE = r"; rank {other} is at step \d+ .*; "

FAULTS = {
    "exception": LEFT + r"1 \(ArithmeticError: a mistake of {{ours}}\)" + IN,
    "SIGKILL": GONE + ANYWHERE,
    "SIGSTOP": SILENT + IN,
    "hang": STALLED + IN,
    "sys.exit(0)": LEFT + r"0 \(SystemExit: 0\)" + IN,
    "os._exit(0)": GONE + ANYWHERE,
    "uneven": r"(rank 1 {process} stalled at step {step} in \S+: the others wait in another|lost rank 0 {process})",
    "shape": r"rank \d {process} (stalled|failed) at step {step} in gradient\.\S+: .*; rank \d is at step {step} in ",
    "disk full": r"lost rank {rank} {process}, last seen at step \d+ .*: it left with exit code 1 \(.*No space",
}
"""What is said of each; `rank` is the broken one.

Collectives of torch.distributed have no names: two that do not fit together may end a process inside the library, and
then it is that one which is named.
"""
UNSEEN = [("SIGSTOP", 1), ("uneven", 1), ("shape", 1)]
"""Faults that Horovod does not see, or sees on another rank."""
EVERY = [(fault, rank) for fault in FAULTS for rank in ((1,) if fault in ("uneven", "shape") else (0, 1))]


ONCE = [one for one in EVERY if one[1] == 1 or one[0] in ("SIGKILL", "SIGSTOP")]


def marked(quick: list[tuple[str, int]]) -> list[Any]:
    """Every fault of either rank; those that are not among the quick ones are left for `make soak`."""
    return [pytest.param(*one, marks=[] if one in quick else pytest.mark.soak) for one in EVERY]


def command_of(fault: str, rank: int, stores: Stores, folder: Path) -> list[str]:
    """The command of a training that would go on for long."""
    early = fault == "disk full"
    config = config_of(stores, optim={"num_train_steps": 100000}, cluster={"stall_timeout": TIMEOUT_S},
                       eval={"valid_steps": STEP if early else 100000, "full_val": True}, data={"n_workers": 1})
    return ["tests/faults/program.py", fault, str(rank), "train/itm_hn.py", "--config",
            str(write_config(folder / "c.json", config)), "--output_dir", str(folder / "out")]


def check(fault: str, rank: int, said: str, folder: Path) -> None:
    """One line names who is to blame, and the logs hold the stacks of who could still tell."""
    lines = [line for line in said.splitlines() if re.search(r"itm_hn, rank \d: .*(lost|stalled at|failed at)", line)]
    assert len(lines) == 1, said[-4000:]
    pattern = FAULTS[fault].format(rank=rank, other=1 - rank, step=STEP, process=r"\(host \S+, process \d+\)")
    assert re.search(rf"itm_hn, rank \d: {pattern}", lines[0]), lines[0]
    assert lines[0].endswith(f"; stacks in {folder}/out/log*.txt; {MENDED}")
    logs = (folder / "out").glob("log*.txt")
    assert any("Current thread" in log.read_text() for log in logs)


@pytest.mark.parametrize(("fault", "rank"), marked(ONCE))
def test_a_fault_of_one_rank_of_torch_distributed(fault: str, rank: int, stores: Stores, tmp_path: Path) -> None:
    with warm.group(tuple(command_of(fault, rank, stores, tmp_path)), tmp_path, ranks=2) as programs:
        wait_until(lambda: is_broken(tmp_path / f"{rank}-err"), 2 * PATIENCE_S)
        start = time.monotonic()
        codes = [program.wait(PATIENCE_S) for program in programs]
        took = time.monotonic() - start
    said = "".join((tmp_path / f"{number}-err").read_text() for number in range(2))
    assert codes[1 - rank] in (1, -6), said
    assert codes[rank] == {"SIGKILL": -9, "SIGSTOP": -9, "sys.exit(0)": 1 - rank, "os._exit(0)": 0}.get(fault, 1)
    check(fault, rank, said, tmp_path)
    print(f"{fault} of rank {rank}, torch.distributed: {took:.1f} s")


@pytest.mark.parametrize(("fault", "rank"), marked(UNSEEN))
def test_a_fault_of_one_rank_of_horovod(fault: str, rank: int, stores: Stores, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(entry(*command_of(fault, rank, stores, tmp_path), ranks=2), log) as process:
        wait_until(lambda: is_broken(log), 2 * PATIENCE_S)
        start = time.monotonic()
        family = [one for one in psutil.Process(process.pid).children(recursive=True) if is_rank(one)]
        wait_until(lambda: not any(is_there(one) for one in family), PATIENCE_S)
        took = time.monotonic() - start
        assert process.wait(PATIENCE_S) == 1
    check(fault, rank, log.read_text(), tmp_path)
    print(f"{fault} of rank {rank}, horovodrun: {took:.1f} s")


def is_broken(said: Path) -> bool:
    """Whether the fault has happened."""
    return said.exists() and "broken at" in said.read_text(errors="replace")


def is_rank(process: psutil.Process) -> bool:
    """Whether it is a rank itself, or its reading worker."""
    return "tests/faults/program.py" in words_of(process)[1:3]


def is_there(process: psutil.Process) -> bool:
    """Whether it runs, or is stopped."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_signal_of_one_rank_ends_both_between_updates(stores: Stores, tmp_path: Path) -> None:
    """SIGTERM for rank 1 alone, while rank 0 waits for it in a validation: both leave to be started again."""
    words = command_of("hang in validation", 1, stores, tmp_path)
    config = config_of(stores, optim={"num_train_steps": 100000}, eval={"valid_steps": STEP, "full_val": True})
    write_config(tmp_path / "c.json", config)
    with warm.group(tuple(words), tmp_path, ranks=2) as programs:
        wait_until(lambda: is_broken(tmp_path / "1-err"), 2 * PATIENCE_S)
        subprocess.run(["kill", "-TERM", str(programs[1].pid)], check=True)
        codes = [program.wait(PATIENCE_S) for program in programs]
    said = "".join((tmp_path / f"{number}-err").read_text() for number in range(2))
    assert codes == [75, 75], said
    assert "lost" not in said
