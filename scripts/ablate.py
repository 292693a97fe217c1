"""Train a grid of configs, variants and seeds, and make the table of a paper from their recalls.

    python scripts/ablate.py --configs config/a.json config/b.json --seeds 1 2 3 --output_dir runs/ablation
        [--vary plain 'wide: --margin 0.3' ...] [--jobs 2] [--ranks 2] [--flags "--num_train_steps 800"]
        [--evaluate "--split val"] [--report img_r1 rsum]
    python scripts/ablate.py --table --output_dir runs/ablation --report train_s val/rsum

Each run is the training command as a user would give it, in a folder of its own, its output in a log beside it; then
come the evaluations. `runs.csv` gets one row a finished run. The same command given again goes on where it was:
finished runs stay, a run that was cut off resumes from its last checkpoint. A config that was changed under the same
name is refused. `table.md` and stdout get the table; the first config is what the others are compared with. With
--vary every config is trained in every variant, and compared with the first variant of its own.

Exit codes: 0 done; 1 a run failed, the others went on; 2 wrong config; 75 told to stop after saving; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from config.errors import FAILED, INTERRUPTED, DataError
from data.files import read_json, write_text
from scripts.ablation.grid import Cell, check_evaluations, columns, make_cell, plan, refuse_mixture, split_words
from scripts.ablation.rows import Row, measured, read_rows, train_seconds, write_rows
from scripts.ablation.supervisor import Ended, Supervisor, alone, launcher, stop_code
from scripts.ablation.table import tables
from scripts.command.parallel import cores
from scripts.command.program import Parser, run
from train.metrics.journal import METRICS, read_events

REPORT = ("img_r1", "img_r10", "txt_r1", "txt_r10", "rsum")
OF_FLAGS = ("--flags", "--evaluate")


def parse(words: Sequence[str]) -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = Parser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--configs", type=Path, nargs="+", default=[], metavar="FILE", help="config files; their stems are their names")
    add("--vary", nargs="+", default=[], metavar="'NAME: FLAGS'",
        help="variants that each config is trained in, with their flags; a bare NAME is the config as it stands")
    add("--seeds", type=int, nargs="+", default=[], metavar="N", help="seeds that each config is trained with")
    add("--output_dir", type=Path, required=True, metavar="DIR", help="folder of the runs, runs.csv and table.md")
    add("--ranks", type=int, default=1, metavar="N", help="processes of each training, by horovodrun (default: 1)")
    add("--jobs", type=int, default=1, metavar="N", help="runs at a time, which share the cores (default: 1)")
    add("--flags", default="", metavar="'FLAGS'", help="flags of every training, as one text")
    add("--evaluate", action="append", default=[], metavar="'FLAGS'",
        help="flags of an evaluation after each training, as one text; may be given again")
    add("--report", nargs="+", default=list(REPORT), metavar="MEASURE",
        help=f"columns: recalls of the split, other entries as entry/name, train_s (default: {' '.join(REPORT)})")
    add("--split", default="test", help="the evaluated split whose recalls are meant (default: %(default)s)")
    add("--table", action="store_true", help="print the table of the rows that are there, and nothing else")
    args = parser.parse_args(_joined(words))
    if not args.table and not (args.configs and args.seeds):
        parser.error("--configs and --seeds are needed to train; --table prints what is there")
    for name in ("ranks", "jobs"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: should be 1 or more")
    return args


def _joined(words: Sequence[str]) -> list[str]:
    """`--evaluate "--isda"` as `--evaluate=--isda`: a text of one flag would be taken for a flag of this program."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in OF_FLAGS:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def main(words: Sequence[str] | None = None) -> int:
    """Train what is lacking, then print the table."""
    args = parse(sys.argv[1:] if words is None else words)
    if args.table:
        rows = read_rows(args.output_dir / "runs.csv")
        if not rows:
            raise DataError(f"{args.output_dir / 'runs.csv'}: no finished run is there; train without --table first")
        print(shown(args, rows))
        return 0
    ablation = Ablation(args)
    with alone(args.output_dir) as lock:
        ablation.open()
        supervisor = Supervisor(lock, threads(args.jobs * args.ranks))
        with supervisor.listening():
            code = ablation.work(supervisor, args.jobs)
        if code not in (0, FAILED) or not any(cell.key in ablation.rows for cell in ablation.cells):
            return code
        text = shown(args, list(ablation.rows.values()))
        write_text(args.output_dir / "table.md", text + "\n")
    print(text)
    return code


def shown(args: argparse.Namespace, rows: Sequence[Row]) -> str:
    """The table of the configs and seeds that were named, or of all where none were."""
    rows = [row for row in rows if not args.seeds or row.seed in args.seeds]
    configs = [column.name for column in columns(args.configs, args.vary)]
    configs = configs or list(dict.fromkeys(row.config for row in rows))
    return tables(rows, configs, args.report, args.split)


def threads(processes: int) -> int | None:
    """Threads of each of so many processes at a time; None leaves the choice to them, or to the environment."""
    return None if processes == 1 or "OMP_NUM_THREADS" in os.environ else max(1, cores() // processes)


class Ablation:
    """The grid, the rows that are there, and what is still to be done; its settings are checked when it is made."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.output, self.ranks = args.output_dir, args.ranks
        self.csv = self.output / "runs.csv"
        self.rows: dict[tuple[str, int], Row] = {}
        self.evaluations = [shlex.join(split_words("--evaluate", text)) for text in args.evaluate]
        self.flags = split_words("--flags", args.flags)
        self.columns = columns(args.configs, args.vary)
        self.cells = plan(self.columns, args.seeds, self.output, self.flags)
        check_evaluations(self.cells, [shlex.split(text) for text in self.evaluations])
        launcher(self.ranks)

    def open(self) -> None:
        """Read the rows that are there; ConfigError where they do not belong to these configs, other seeds included."""
        self.rows = {row.key: row for row in read_rows(self.csv)}
        named, planned = {column.name: column for column in self.columns}, {cell.key for cell in self.cells}
        others = [make_cell(named[config], seed, self.output, self.flags)
                  for config, seed in self.rows if config in named and (config, seed) not in planned]
        refuse_mixture([*self.cells, *others], self.rows, self.ranks)

    def work(self, supervisor: Supervisor, jobs: int = 1) -> int:
        """Finish the runs, `jobs` at a time; returns the exit code."""
        code = 0
        with ThreadPoolExecutor(jobs) as pool:
            begun = {pool.submit(self.finish, cell, supervisor): cell for cell in self.cells}
            try:
                for future in as_completed(begun):
                    ended = future.result()
                    if ended is not None and not ended.code:
                        self.keep(begun[future])
                    elif ended is not None and not ended.is_stop:
                        code = FAILED
            finally:
                # After an error, such as a full disk, nothing more begins.
                pool.shutdown(wait=False, cancel_futures=True)
        return stop_code(supervisor.told) if supervisor.told else code

    def finish(self, cell: Cell, supervisor: Supervisor) -> Ended | None:
        """Call what a run still lacks, up to the first command that fails; None where nothing was begun."""
        due = self.due(cell)
        if not due:
            say(f"{cell.name}: stands in {self.csv}")
        if not due or supervisor.told:
            return None
        say(f"{cell.name}: begins (log: {cell.log})")
        for entry, words, ranks in due:
            ended = supervisor.call(entry, words, cell.log, ranks)
            if ended.is_stop:
                say(f"{cell.name}: stopped with exit code {ended.code}; the same command goes on from there")
                supervisor.stop(signal.SIGINT if ended.code == INTERRUPTED else signal.SIGTERM)
            elif ended.code:
                say(f"{cell.name}: {entry} failed with exit code {ended.code}: {ended.last} (log: {cell.log})")
            if ended.code:
                break
        return ended

    def due(self, cell: Cell) -> list[tuple[str, list[str], int]]:
        """(entry, words, ranks) of the commands that a run still lacks: all, or evaluations that are new."""
        row = self.rows.get(cell.key)
        there = row.evaluations if row else ()
        training = [] if row else [(cell.program, list(cell.words), self.ranks)]
        config = str(cell.folder / "config.json")
        return training + [("train/evaluate.py", ["--config", config, *shlex.split(text)], 1)
                           for text in self.evaluations if text not in there]

    def keep(self, cell: Cell) -> None:
        """Write the row of a run that has just ended."""
        before = self.rows.get(cell.key)
        done = dict.fromkeys([*(before.evaluations if before else ()), *self.evaluations])
        seconds = train_seconds(read_events(cell.folder / METRICS))
        row = Row(*cell.key, cell.run.hash(), cell.run.optim.num_train_steps, self.ranks, seconds, tuple(done),
                  measured(read_json(cell.folder / "results.json", "evaluate again")))
        self.rows[cell.key] = row
        # In the order of the grid, whichever run was the first to end.
        place = {planned.key: number for number, planned in enumerate(self.cells)}
        write_rows(self.csv, sorted(self.rows.values(), key=lambda known: place.get(known.key, -1)))
        say(f"{cell.name}: done, {seconds:.0f} s of training")


def say(text: str) -> None:
    """A line of talk; stdout is for the table."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
