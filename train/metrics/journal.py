"""The journal of a run: events in metrics.jsonl, TensorBoard as a reader of them, and the log.

Every event is one JSON object a line, appended and flushed at once, so that a killed run keeps all but the
line it died in. Rank 0 writes; of rank r > 0 only warnings are kept, in log.rank{r}.txt.
"""

from __future__ import annotations

import errno
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from config.errors import ConfigError, DataError

METRICS = "metrics.jsonl"
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
LONGEST = 32
"""Numbers of a list that TensorBoard shows each as a curve of its own; of a longer one it shows none."""


class Journal:
    """Writes events, talk and progress of one process; with `folder` None it only talks (a dry run).

    every: a progress line is written each so many steps. Talk goes to log.txt and to `talk`, which is
    standard error unless given; the bar is drawn only where `talk` is a terminal.

    Raises:
        ConfigError: nothing may be written to the folder.
    """

    def __init__(self, folder: str | Path | None, rank: int = 0, tensorboard: bool = True, every: int = 50,
                 talk: TextIO | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.rank = rank
        self.every = every
        self._talk = sys.stderr if talk is None else talk
        self.pace = Pace()
        self._bar: Any = None
        self._metrics: TextIO | None = None
        self._log: TextIO | None = None
        self._board: TensorBoard | None = None
        if self.folder is not None and rank == 0:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._metrics = _open_whole(self.folder / METRICS)
                self._log = (self.folder / "log.txt").open("a", encoding="utf-8")
            except OSError as error:
                if error.errno not in FORBIDDEN:
                    raise
                told = f"output_dir={self.folder}: cannot be written ({error.strerror}); name another folder"
                raise ConfigError(told) from error
            self._board = TensorBoard(self.folder / "tb") if tensorboard else None

    def event(self, kind: str, step: int | None = None, **values: Any) -> None:
        """Append one event. Values are numbers, texts, lists or mappings of these, arrays and tensors too.

        A "start" event with a step says that the run goes on from there: later steps written before it
        no longer count. A number that is not finite is written as null.
        """
        if self._metrics is None:
            return
        event: dict[str, Any] = {"event": kind}
        if step is not None:
            event["step"] = step
        event |= {"time": round(time.time(), 3)} | {name: _plain(value) for name, value in values.items()}
        _append(self._metrics, json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n")
        if self._board is not None:
            self._board.read(event)

    def say(self, text: str) -> None:
        """One line of talk from rank 0, to the log and to the terminal."""
        if self.rank:
            return
        self._write_log(text)
        line = f"{time.strftime('%H:%M:%S')}  {text}"
        if self._bar is not None:
            self._bar.write(line, file=self._talk)
            return
        self._talk.write(f"{line}\n")
        self._talk.flush()

    def warn(self, text: str) -> None:
        """A warning of any rank: rank 0 says it, the others write it to their own log file."""
        if not self.rank:
            self.say(f"warning: {text}")
            return
        if self._log is None and self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._log = (self.folder / f"log.rank{self.rank}.txt").open("a", encoding="utf-8")
        self._write_log(f"warning: {text}")

    def progress(self, step: int, total: int, values: Mapping[str, Any] | None = None, note: str = "") -> None:
        """To be called after each step: moves the bar, and each `every` steps writes a line; `note` is part of both."""
        if self.rank:
            return
        self.pace.start(step)
        shown = [f"{name} {value:.4g}" for name, value in _numbers(_plain(values or {}))] + ([note] if note else [])
        on_terminal = self._talk.isatty()
        if on_terminal:
            self._move_bar(step, total, "  ".join(shown))
        if step % self.every and step != total:
            return
        line = "  ".join([f"step {step}/{total}", *shown, self.pace.line(step, total)])
        if on_terminal:
            self._write_log(line)  # the terminal has the bar
        else:
            self.say(line)

    def close(self) -> None:
        """Close all files; the journal writes no more."""
        for file in (self._metrics, self._log):
            if file is not None:
                with suppress(OSError):  # every line was flushed when it was written; what failed was told then
                    file.close()
        for part in (self._bar, self._board):
            if part is not None:
                part.close()
        self._bar = self._metrics = self._log = self._board = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_log(self, text: str) -> None:
        if self._log is not None:
            _append(self._log, f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")

    def _move_bar(self, step: int, total: int, shown: str) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=step, file=self._talk, dynamic_ncols=True, leave=False)
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update(step - self._bar.n)


class Pace:
    """How fast the steps go since the last line, and the time left at the mean pace, pauses included."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None

    def start(self, step: int) -> None:
        """Steps count from the first step given here, which is not 0 after a resume."""
        if self._first is None:
            self._first = self._last = (step, self._clock())

    def left_s(self, step: int, total: int) -> float | None:
        """Seconds until step `total`, or None before there is anything to judge by."""
        if self._first is None or step <= self._first[0]:
            return None
        return (self._clock() - self._first[1]) / (step - self._first[0]) * (total - step)

    def line(self, step: int, total: int) -> str:
        """Such as "2.50 steps/s  0:12:03 left"."""
        left_s = self.left_s(step, total)
        if left_s is None or self._last is None:
            return "pace not known yet"
        now = self._clock()
        rate = (step - self._last[0]) / max(now - self._last[1], 1e-9)
        self._last = (step, now)
        return f"{rate:.3g} steps/s  {timedelta(seconds=round(left_s))} left"


class TensorBoard:
    """A reader of the stream: numbers of events with a step become scalars named event/value, those of lists too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def read(self, event: Mapping[str, Any]) -> None:
        """Add the numbers of one event; a "start" that resumes hides what was drawn beyond its step."""
        step, starts = event.get("step"), event["event"] == "start"
        if step is None:
            return
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=step + 1 if starts and step else None)
        if starts:
            return
        for name, value in _numbers(_numbered({key: event[key] for key in event if key not in ("step", "time")})):
            self._writer.add_scalar(f"{event['event']}/{name}", value, step, walltime=event["time"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """The events that count, in order of writing: one for each event, step and split, the last written.

    Where a "start" event says that the run went on from step s, what was written before it for steps
    beyond s is left out. The last line may be torn by a kill and is then dropped.
    Raises DataError for a missing file or a damaged line before the last.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give an output folder in which training has begun")
    kept: dict[Any, dict[str, Any]] = {}
    for number, event in enumerate(_lines(path)):
        step = event.get("step")
        if event["event"] == "start" and step is not None:
            kept = {name: old for name, old in kept.items() if old.get("step", -1) <= step}
        name = number if step is None else (event["event"], step, event.get("split"))
        kept.pop(name, None)
        kept[name] = event
    return list(kept.values())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line end is empty or torn
        try:
            event = json.loads(line)
            if not isinstance(event["event"], str) or type(event.get("step", 0)) is not int:
                raise TypeError
        except (ValueError, TypeError, KeyError):
            raise DataError(f"{path}: line {number} is no event; delete this line to read the rest") from None
        yield event


def _open_whole(path: Path) -> TextIO:
    """Open for appending, after cutting off a last line that was torn by a kill."""
    if path.is_file():
        whole = path.read_bytes().rfind(b"\n") + 1
        with path.open("r+b") as file:
            file.truncate(whole)
    return path.open("a", encoding="utf-8")


def _append(file: TextIO, text: str) -> None:
    """Write and flush; an error names the file, as those of opening do."""
    try:
        file.write(text)
        file.flush()
    except OSError as error:
        error.filename = file.name
        raise


def _plain(value: Any) -> Any:
    """A value that JSON can hold: numpy and torch numbers unwrapped, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, (str, bool, int, type(None))):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return _plain(value.tolist())


def _numbered(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with each list, such as one number for each rank, as a mapping from "0" on; without long lists."""
    named = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            named[name] = _numbered(value)
        elif not isinstance(value, list):
            named[name] = value
        elif len(value) <= LONGEST:
            named[name] = _numbered({str(place): part for place, part in enumerate(value)})
    return named


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """All numbers with slash-joined names, those in nested mappings too."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix + name, value
