"""train/entry.py: exit codes, one line for each failure, and whose output folder it is."""

from __future__ import annotations

import errno
import os
import re
import signal
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.command.settings_read import anything
from config.errors import ConfigError, DataError, Failure
from config.schema import Run
from tests.support import config_of, write_config
from tests.train.conftest import MakeRun, Pretended
from train import entry
from train.distributed.comm import Comm, Solo
from train.distributed.process_groups import RankRemoved
from train.distributed.stop_request import SIGNALS
from train.entry import main, tell


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Signals answered as before, after each test."""
    before = {kind: signal.getsignal(kind) for kind in SIGNALS}
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


@pytest.fixture
def argv(stores: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    words = ["entry", "--config", str(write_config(tmp_path / "c.json", config_of(stores)))]
    monkeypatch.setattr("sys.argv", words)
    return words


def outcome(work: Any, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error."""
    code = main("itm_hn", "A test.", work, anything)
    out = capsys.readouterr()
    assert out.out == ""
    return code, out.err


@pytest.mark.parametrize(("error", "code"),
                         [(ConfigError("x=1: no"), 2), (DataError("a: gone"), 3), (Failure("full"), 1)])
def test_a_failure_that_a_user_can_mend_is_one_line(
    error: Exception, code: int, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*_: Any) -> int:
        raise error

    assert outcome(work, capsys) == (code, f"itm_hn: {error}\n")


@pytest.mark.parametrize("error", [Failure("full"), OSError(errno.ENOSPC, "No space left on device", "a.json")])
def test_what_else_went_wrong_on_the_way_out_is_in_that_line(
    error: Exception, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*_: Any) -> int:
        error.add_note("step-00000003:\ncould not be saved\n")
        raise error

    code, said = outcome(work, capsys)
    assert code == 1
    assert re.fullmatch(r"itm_hn: .*(full|No space left on device); step-00000003: could not be saved.*\n", said)


def test_our_own_mistakes_keep_their_trace(argv: list[str]) -> None:
    def work(*_: Any) -> int:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        main("itm_hn", "", work, anything)


def test_work_gets_the_run_its_flags_and_the_group(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def work(run: Run, args: Namespace, comm: Comm) -> int:
        assert run.matcher.name == "uniter"
        assert args.dry_run is True
        assert isinstance(comm, Solo)
        return 75

    argv.append("--dry_run")
    assert outcome(work, capsys) == (75, "")


class Lonely(Solo):
    """A rank of two that nobody watches."""

    rank, size = 0, 2

    def means_lost_rank(self, error: BaseException) -> bool:
        return "peer" in str(error)


@pytest.fixture
def unwatched(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command line of such a rank."""
    argv += ["--stall_timeout", "0"]
    monkeypatch.setattr(entry, "join_process_group", Lonely)


@pytest.mark.usefixtures("unwatched")
def test_a_collective_that_fails_where_nobody_watches_is_told_with_its_place(
    capsys: pytest.CaptureFixture[str]
) -> None:
    def work(_: Run, __: Namespace, comm: Comm) -> int:
        comm.progress.begin_step(4)
        with comm.progress.in_collective("stop"):
            raise RuntimeError("connection reset by peer\nand more")

    code, told = outcome(work, capsys)
    assert code == 1
    assert told == ("itm_hn, rank 0: a collective failed at step 4 in stop: RuntimeError: connection reset by peer; "
                    "what is saved is whole; start again with the same command\n")


class Elastic(Lonely):
    """Whoever is left goes on."""

    elastic = True


@pytest.mark.parametrize(("kind", "code", "end"), [
    (Lonely, 1, "what is saved is whole; start again with the same command"),
    (Elastic, None, "going on with those who are there"),
])
def test_a_checkpoint_that_was_lost_with_a_rank_is_told_too(
    kind: type[Lonely], code: int | None, end: str, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*_: Any) -> int:
        error = RuntimeError("connection reset by peer")
        error.add_note("step-00000003: could not be saved")
        raise error

    optim = {"global_batch_size": 4} if kind.elastic else {}
    run = make_run(cluster={"stall_timeout": 0.0, "elastic": kind.elastic}, optim=optim)
    assert entry.run_group("itm_hn", run, Namespace(), kind(), work) == code
    assert capsys.readouterr().err.endswith(f"by peer; step-00000003: could not be saved; {end}\n")


class Left(BaseException):
    """The process would have ended."""


@pytest.mark.parametrize(("error", "code", "told"), [
    (ConfigError("no horovod"), 2, "no horovod"),
    (Failure("nobody came"), 1, "nobody came; what is saved is whole; start again with the same command"),
    (RankRemoved("no place"), 0, "no place"),
])  # fmt: skip
def test_a_rank_without_a_group_leaves_in_a_line_and_waits_for_nobody(
    error: Exception, code: int, told: str, argv: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> Comm:
        raise error

    def leave(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr(entry, "join_process_group", fails)
    monkeypatch.setattr(entry, "leave", leave)
    with pytest.raises(Left) as left:
        main("itm_hn", "", lambda *_: 0, anything)
    assert left.value.args == (code,)
    assert capsys.readouterr().err == f"itm_hn: {told}\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_gives_way_is_told_in_a_line(
    number: int, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*_: Any) -> int:
        raise OSError(number, os.strerror(number), "out/x.npy")

    code, told = outcome(work, capsys)
    assert code == 1
    assert told == (f"itm_hn: out/x.npy: {os.strerror(number)}; what is saved is whole; "
                    "start again with the same command, once there is room\n")


def test_other_errors_of_files_keep_their_trace(argv: list[str]) -> None:
    def work(*_: Any) -> int:
        raise OSError(errno.EBADF, "a bug")

    with pytest.raises(OSError, match="a bug"):
        main("itm_hn", "", work, anything)


@pytest.mark.usefixtures("unwatched")
def test_errors_of_several_ranks_name_the_rank(capsys: pytest.CaptureFixture[str]) -> None:
    def work(*_: Any) -> int:
        raise DataError("a: gone")

    assert outcome(work, capsys) == (3, "itm_hn, rank 0: a: gone\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_where_no_update_runs_asks_to_be_started_again(
    number: int, code: int, argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []

    def work(*_: Any) -> int:
        os.kill(os.getpid(), number)
        return 0

    monkeypatch.setattr(entry, "leave", left.append)
    outcome(work, capsys)
    assert left == [code]


class Told:
    """A watch that writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *values: self.asked.append((name, *values))


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_0_leaves_first_and_the_others_with_it(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    watch: Any = Told()
    monkeypatch.setattr(entry, "leave", lambda code: watch.asked.append(("leave", code)))
    entry.answer_signals(Pretended(rank, 2), watch)
    os.kill(os.getpid(), signal.SIGUSR1)
    first = ("wait_for_exit", entry.GOODBYE_S) if rank else ("wait_for_failures",)
    assert watch.asked == [("forward_signal", signal.SIGUSR1), first, ("goodbye", 75), ("leave", 75)]


def test_a_line_is_told_and_its_code_returned(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell("who", "what", 3) == 3
    assert capsys.readouterr().err == "who: what\n"
