"""Check a job, then hand it to SLURM: what is wrong is told now, not when its turn has come.

    python scripts/slurm/submit.py --nodes 2 --ranks 8 --time 24:00:00 --partition gpu \\
        train train/itm_hn.py --config config/itm-flickr-base-8gpu-hn.json --output_dir /storage/run1
    python scripts/slurm/submit.py --ranks 8 evaluate --config /storage/run1/config.json --split test
    python scripts/slurm/submit.py --ranks 8 mine --config /storage/vsrn/config.json
    python scripts/slurm/submit.py --ranks 8 --at_once 3 array runs.txt        # a program and its flags on each line

Flags of this program come before the kind of job, those of the job's own program after it. The output folder gets the
log, slurm-JOB.log, which requeued jobs go on writing. --dry-run prints the variables, the sbatch line and the script.
What a job does when it is told to stop, and the variables that it reads, are told in scripts/slurm/job.sh.

Exit codes: 0 submitted; 1 SLURM refused it; 2 wrong flags or config; 3 a store is missing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from config.errors import FAILED, ConfigError
from scripts.command.program import Parser, run
from scripts.slurm.checks import checked, command_of, lines_of, seconds_of

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("train", "evaluate", "mine", "array")
FOLDERS = ("TXT_DB", "IMG_DB", "OUTPUT", "PRETRAIN")


def parse(words: Sequence[str]) -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = Parser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--nodes", type=int, default=1, metavar="N", help="nodes (default: 1)")
    add("--ranks", type=int, default=1, metavar="N", help="ranks on each node (default: 1)")
    add("--gpus", type=int, metavar="N", help="GPUs of each node (default: one a rank; 0 = train on CPUs)")
    add("--cpus", type=int, metavar="N", help="cores of each rank (default: the partition's)")
    add("--time", metavar="LIMIT", help="time limit: minutes, h:m:s or d-h (default: the partition's)")
    add("--lead", type=int, default=120, metavar="S", help="seconds before the limit to stop in (default: 120)")
    add("--partition", metavar="NAME", help="(default: the cluster's)")
    add("--at_once", type=int, metavar="N", help="array: tasks that run at a time (default: all)")
    add("--launcher", choices=("horovodrun", "srun"), help="who starts ranks (default: horovodrun; see job.sh)")
    add("--nic", metavar="NAME", help="network interface between nodes, such as ib0 (default: found)")
    add("--requeues", type=int, metavar="N", help="how often the job may be started again (default: 100)")
    add("--image", metavar="IMAGE", help="container image (default: none)")
    add("--mount", nargs=4, metavar=FOLDERS, help="with --image: its four folders, as launch_container.sh takes them")
    add("--sbatch", action="append", default=[], metavar="FLAG", help="another flag, as --sbatch=--account=x; again")
    add("--dry-run", action="store_true", help="print what would be submitted, and do nothing")
    add("kind", choices=KINDS, help="which batch script")
    add("words", nargs=argparse.REMAINDER, help="what it is given: [program and] flags; array: a file of commands")
    return parser.parse_args(words)


def check(args: argparse.Namespace) -> None:
    """Refuse numbers that cannot be meant.

    Raises:
        ConfigError: some are; all of them are told.
    """
    wrong = list(_wrong(args))
    if wrong:
        raise ConfigError("; ".join(wrong))


def _wrong(args: argparse.Namespace) -> Iterator[str]:
    """What cannot be meant."""
    for name, least in (("nodes", 1), ("ranks", 1), ("gpus", 0), ("cpus", 1), ("lead", 1), ("at_once", 1),
                        ("requeues", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            yield f"--{name} {value}: should be {least} or more"
    if args.time and seconds_of(args.time) <= args.lead:
        yield f"--time {args.time}: is no longer than --lead {args.lead} s; the job would stop at once"
    if args.at_once and args.kind != "array":
        yield "--at_once is of array jobs"
    if bool(args.image) != bool(args.mount):
        yield "--image and --mount TXT_DB IMG_DB OUTPUT PRETRAIN come together"
    for name, folder in zip(FOLDERS, args.mount or (), strict=False):
        if not Path(folder).is_dir():
            yield f"--mount: {name} {folder} is no folder on this host"
    if args.image and args.nodes > 1 and args.launcher != "srun":
        yield "--image on several nodes needs --launcher srun"


def log_folder(args: argparse.Namespace) -> tuple[Path, int]:
    """Where the log goes, and how many commands there are, once each has been checked.

    In an image paths are the image's own, so that flags can be checked there only.

    Raises:
        ConfigError, DataError: what `checked` finds wrong.
    """
    if args.kind == "array":
        if len(args.words) != 1:
            raise ConfigError("an array job is given one file with a command on each line")
        path = Path(args.words[0])
        commands = lines_of(path)
    else:
        commands = [command_of(args.kind, args.words)]
    if args.image:
        print("flags are not checked: paths are those inside the image", file=sys.stderr)
        return Path(args.mount[2]), len(commands)
    runs = [checked(command) for command in commands]
    if args.kind == "array":
        outputs = [run.output.output_dir for run in runs]
        twice = next((name for name in outputs if outputs.count(name) > 1), None)
        if twice:
            raise ConfigError(f"{path}: two tasks write to {twice}; give each its own --output_dir")
        return path.resolve().parent, len(runs)
    return Path(runs[0].output.output_dir or "."), 1


def sbatch_line(args: argparse.Namespace, logs: Path, tasks: int) -> list[str]:
    """The command that submits the job."""
    gpus = args.ranks if args.gpus is None else args.gpus
    array = args.kind == "array"
    flags = [f"--nodes={args.nodes}", f"--ntasks-per-node={args.ranks}", f"--signal=B:USR1@{args.lead}",
             f"--output={logs.resolve()}/slurm-{'%A_%a' if array else '%j'}.log"]
    if gpus:
        flags.append(f"--gpus-per-node={gpus}")
    for name, value in (("cpus-per-task", args.cpus), ("time", args.time), ("partition", args.partition)):
        if value is not None:
            flags.append(f"--{name}={value}")
    if array:
        flags.append(f"--array=0-{tasks - 1}" + (f"%{args.at_once}" if args.at_once else ""))
    return ["sbatch", "--parsable", *flags, *args.sbatch, str(ROOT / "scripts/slurm" / f"{args.kind}.sbatch"),
            *args.words]


def variables(args: argparse.Namespace) -> dict[str, str]:
    """What scripts/slurm/job.sh reads, as far as it is not left to its defaults."""
    given = {"SOURCE": str(ROOT), "LAUNCHER": args.launcher, "NIC": args.nic, "REQUEUES": args.requeues,
             "IMAGE": args.image, **dict(zip(FOLDERS, args.mount or (), strict=False))}
    if not args.image:
        given["PYTHON"] = sys.executable
    return {name: str(value) for name, value in given.items() if value is not None}


def main() -> int:
    args = parse(sys.argv[1:])
    check(args)
    logs, tasks = log_folder(args)
    line, given = sbatch_line(args, logs, tasks), variables(args)
    if args.dry_run:
        print(*(f"{name}={shlex.quote(value)}" for name, value in given.items()), shlex.join(line))
        print("\n" + (ROOT / "scripts/slurm" / f"{args.kind}.sbatch").read_text(), end="")
        return 0
    if shutil.which("sbatch") is None:
        raise ConfigError("there is no sbatch here; submit from a login node of the cluster, or look with --dry-run")
    logs.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(line, env=os.environ | given, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"submit.py: SLURM refused the job: {done.stderr.strip()}", file=sys.stderr)
        return FAILED
    job = done.stdout.strip().split(";")[0]
    print(job)
    print(f"log: {logs.resolve()}/slurm-{job}{'_*' if args.kind == 'array' else ''}.log", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
