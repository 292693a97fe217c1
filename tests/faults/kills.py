"""Runs that are killed again and again, at random moments, until they are left to end."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.endings import assert_same_end
from tests.faults.outcomes import CLEAN, REFUSED, RESUMED
from tests.flow import warm
from tests.processes import with_patience
from tests.support import events

TRAIN = "train/itm_hn.py"
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Traces:
    """What can be seen of a run in its output folder.

    Attributes:
        starts: the steps at which it was begun or gone on with; a line that is torn is none.
        lines: train events.
        saved: the step of its newest checkpoint.
        unfinished: what saves and validations have begun, and when they last touched it.
        ended: whether it has measured its best weights, which is all that comes after training.
    """

    starts: list[int]
    lines: int
    saved: int
    unfinished: frozenset[tuple[str, str, int]]
    ended: bool

    @classmethod
    def of(cls, out: Path) -> Traces:
        path = out / "metrics.jsonl"
        whole = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
        found = [json.loads(line) for line in whole]
        saved = [int(folder.name[5:]) for folder in (out / "ckpt").glob("step-????????")]
        begun = (("save", out / "ckpt", ".*"), ("validation", out / "scores", "*/parts"))
        touched = {(kind, str(path), touched_at(path)) for kind, place, name in begun for path in place.glob(name)}
        return cls([event["step"] for event in found if event["event"] == "start"],
                   sum(event["event"] == "train" for event in found), max(saved, default=0), frozenset(touched),
                   (out / "results.json").exists())

    def doing(self, before: Traces) -> set[str]:
        """Saves and validations that were begun, or went on, since `before`."""
        return {kind for kind, _, _ in self.unfinished - before.unfinished}

    def told(self, before: Traces) -> str:
        """What a killed run was doing, in words."""
        if self.ended:
            return "after the end"
        if self.starts == before.starts:
            return "before its start was told"
        return " and ".join(f"in a {kind}" for kind in sorted(self.doing(before))) or "in between"


def touched_at(path: Path) -> int:
    """When something was last changed; 0 where it is gone by now."""
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:
        return 0


@dataclass
class Moment:
    """When a run is killed: so many seconds after it was seen to do something.

    Attributes:
        what: "line" of the log, a "save" or a "validation" that is under way, or "start", of the process itself.
        lines: of the log that it has written since it was started.
    """

    what: str
    lines: int
    pause_s: float

    @classmethod
    def drawn(cls, draw: random.Random, lines: int, seconds: float) -> Moment:
        """For a run that has so many lines of its log before it, and takes so many seconds for them."""
        what = draw.choices(("line", "save", "validation", "start"), (4, 3, 2, 1))[0]
        longest = {"line": 2 * seconds / lines, "save": 0.01, "validation": seconds / lines, "start": 1.0}[what]
        return cls(what, draw.randrange(lines), draw.random() * longest)

    def has_come(self, out: Path, before: Traces) -> bool:
        """Whether the run does what is waited for; `before` is what it had left when it was started."""
        if self.what == "start":
            return True
        now = Traces.of(out)
        if now.starts == before.starts or now.lines - before.lines < self.lines:
            return False
        return self.what == "line" or self.what in now.doing(before)

    def __str__(self) -> str:
        return f"{self.what}, line {self.lines} + {1000 * self.pause_s:.1f} ms"


@dataclass
class Kills:
    """Kills of runs of one config, and what came of them.

    Attributes:
        outcomes: how the next start found the run: to be resumed, or to be begun, as before anything was saved.
        moments: what the killed run was doing, by what it left behind.
    """

    config: Path
    reference: Path
    steps: int
    ranks: int = 1
    outcomes: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)

    def run_through(self, folder: Path, draw: random.Random, kills: int) -> None:
        """Kill a run so many times, starting it again each time; then it must end as if nothing had happened."""
        out, told, begun = folder / "out", [], []
        words = (TRAIN, "--config", self.config, "--output_dir", out)
        lines, seconds = self._length()
        for number in range(kills):
            before = Traces.of(out)
            share = 1 - before.saved / self.steps
            moment = Moment.drawn(draw, max(1, round(share * lines)), share * seconds)
            told.append(str(moment))
            print(f"{folder.name}, kill {number}: {moment}", flush=True)
            self._kill(words, folder / f"log{number}", out, moment, draw, before)
            after = Traces.of(out)
            self.moments[after.told(before)] += 1
            begun.append(len(after.starts))
        done = warm.run(*words, ranks=self.ranks)
        assert done.returncode == 0, f"{told}: {REFUSED}: {done.stderr}"
        found = Traces.of(out).starts
        self.outcomes.update(RESUMED if found[next_one] else CLEAN for next_one in begun)
        assert_same_end(out, self.reference, self.steps)

    def _length(self) -> tuple[int, float]:
        """Lines that the undisturbed run has logged, and the seconds from the first to the last."""
        times = [event["time"] for event in events(self.reference, "train")]
        return len(times), max(times) - min(times)

    def _kill(self, words: tuple[str | Path, ...], log: Path, out: Path, moment: Moment, draw: random.Random,
              before: Traces) -> None:
        """Start the run and kill it at that moment: all of its ranks, or one, after which the others must end.

        Before they have found each other, a rank's end is seen by their launcher alone, which there is none of here.
        """
        log.mkdir(parents=True)
        with warm.group(words, log, self.ranks) as programs:
            wait_for(lambda: moment.has_come(out, before) or any(program.poll() is not None for program in programs))
            family = [child for program in programs for child in children(program.pid)]
            time.sleep(moment.pause_s)
            alone = draw.random() < 0.5 and Traces.of(out).starts != before.starts
            for victim in [draw.choice(programs)] if alone else programs:
                victim.kill()
            for program in programs:
                program.wait(PATIENCE_S)
            wait_for(lambda: not any(child.is_running() for child in family))


def children(pid: int) -> list[psutil.Process]:
    """The reading workers of a process."""
    found: list[psutil.Process] = []
    with_patience(lambda: found.extend(psutil.Process(pid).children(recursive=True)))
    return found


def wait_for(holds: Callable[[], bool]) -> None:
    """Return as soon as it holds, which is looked at more often than anything here takes."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)
