"""Train a grid of configs and seeds, and make the table of a paper from their recalls.

    python scripts/ablate.py --configs config/a.json config/b.json --seeds 1 2 3 --output_dir runs/ablation
        [--ranks 2] [--flags "--num_train_steps 800"] [--evaluate "--split val"] [--report img_r1 rsum]
    python scripts/ablate.py --table --output_dir runs/ablation --report train_s val/rsum

Each run is the training command as a user would give it, in a folder of its own, its output in a log beside it; then
come the evaluations. `runs.csv` gets one row a finished run. The same command given again goes on where it was:
finished runs stay, a run that was cut off resumes from its last checkpoint. A config that was changed under the same
name is refused. `table.md` and stdout get the table; the first config is what the others are compared with.

Exit codes: 0 done; 1 a run failed, the others went on; 2 wrong config; 75 told to stop after saving; 130 interrupted.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from config.errors import FAILED, DataError
from data.files import read_json, write_text
from scripts._program import run
from scripts.ablation.grid import Cell, check_evaluations, make_cell, plan, refuse_mixture, split_words
from scripts.ablation.rows import Row, measured, read_rows, train_seconds, write_rows
from scripts.ablation.supervisor import Supervisor, alone, launcher
from scripts.ablation.table import tables
from train.journal import METRICS, read_events

REPORT = ("img_r1", "img_r10", "txt_r1", "txt_r10", "rsum")
OF_FLAGS = ("--flags", "--evaluate")


def parse(words: Sequence[str]) -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--configs", type=Path, nargs="+", default=[], metavar="FILE", help="config files; their stems are their names")
    add("--seeds", type=int, nargs="+", default=[], metavar="N", help="seeds that each config is trained with")
    add("--output_dir", type=Path, required=True, metavar="DIR", help="folder of the runs, runs.csv and table.md")
    add("--ranks", type=int, default=1, metavar="N", help="processes of each training, by horovodrun (default: 1)")
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
    if args.ranks < 1:
        parser.error(f"--ranks {args.ranks}: should be 1 or more")
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
        supervisor = Supervisor(lock)
        with supervisor.listening():
            code = ablation.work(supervisor)
        if code not in (0, FAILED) or not any(cell.key in ablation.rows for cell in ablation.cells):
            return code
        text = shown(args, list(ablation.rows.values()))
        write_text(args.output_dir / "table.md", text + "\n")
    print(text)
    return code


def shown(args: argparse.Namespace, rows: Sequence[Row]) -> str:
    """The table of the configs and seeds that were named, or of all where none were."""
    rows = [row for row in rows if not args.seeds or row.seed in args.seeds]
    configs = [path.stem for path in args.configs] or list(dict.fromkeys(row.config for row in rows))
    return tables(rows, configs, args.report, args.split)


class Ablation:
    """The grid, the rows that are there, and what is still to be done; its settings are checked when it is made."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.configs, self.output, self.ranks = args.configs, args.output_dir, args.ranks
        self.csv = self.output / "runs.csv"
        self.rows: dict[tuple[str, int], Row] = {}
        self.evaluations = [shlex.join(split_words("--evaluate", text)) for text in args.evaluate]
        self.flags = split_words("--flags", args.flags)
        self.cells = plan(self.configs, args.seeds, self.output, self.flags)
        check_evaluations(self.cells, [shlex.split(text) for text in self.evaluations])
        launcher(self.ranks)

    def open(self) -> None:
        """Read the rows that are there; ConfigError where they do not belong to these configs, other seeds included."""
        self.rows = {row.key: row for row in read_rows(self.csv)}
        named, planned = {path.stem: path for path in self.configs}, {cell.key for cell in self.cells}
        others = [make_cell(named[config], seed, self.output, self.flags)
                  for config, seed in self.rows if config in named and (config, seed) not in planned]
        refuse_mixture([*self.cells, *others], self.rows, self.ranks)

    def work(self, supervisor: Supervisor) -> int:
        """Finish run after run; returns the exit code."""
        code = 0
        for cell in self.cells:
            due = self.due(cell)
            if not due:
                say(f"{cell.name}: stands in {self.csv}")
                continue
            say(f"{cell.name}: begins (log: {cell.log})")
            for entry, words, ranks in due:
                ended = supervisor.call(entry, words, cell.log, ranks)
                if ended.is_stop:
                    say(f"{cell.name}: stopped with exit code {ended.code}; the same command goes on from there")
                    return ended.code
                if ended.code:
                    say(f"{cell.name}: {entry} failed with exit code {ended.code}: {ended.last} (log: {cell.log})")
                    code = FAILED
                    break
            else:
                self.keep(cell)
        return code

    def due(self, cell: Cell) -> list[tuple[str, list[str], int]]:
        """(entry, words, ranks) of the commands that a run still lacks: all, or evaluations that are new."""
        row = self.rows.get(cell.key)
        there = row.evaluations if row else ()
        training = [] if row else [("train/itm_hn.py", list(cell.words), self.ranks)]
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
        write_rows(self.csv, list(self.rows.values()))
        say(f"{cell.name}: done, {seconds:.0f} s of training")


def say(text: str) -> None:
    """A line of talk; stdout is for the table."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
