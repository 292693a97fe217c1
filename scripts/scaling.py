"""How an update scales: a model fitted to updates of 1, 2 and 4 ranks here, and projected to many GPUs.

    python scripts/scaling.py                           # nine minutes on a quiet machine
    python scripts/scaling.py --measured .scaling/scaling.json --inter_gbs 100 --latency_us 4 --network "2 x 400 Gb"
    python scripts/scaling.py --quick                   # in miniature: the numbers mean nothing

    update = compute + messages * alpha(ranks) + bytes on the ring * beta + tensors * tau

compute is measured apart, by ranks that do the same work side by side without talking: what they lose by sharing cores
is in it. It is stretched where ranks wait for the slowest, more where they do so in the middle of the work. Messages,
tensors and bytes are counted in the real code. The stretch, alpha, beta and tau are fitted. A projection takes
operations over the GPU's speed, bytes over the link's, and the fitted alpha of two ranks, which have a core each, for
the software's part of a message. Prints tables and writes scaling.json, scaling.md and scaling.svg into the output
folder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from config.errors import ConfigError, DataError, Failure
from data.files import read_json, write_json, write_text
from scripts.command.parallel import cores
from scripts.command.program import Parser, run
from scripts.scaling_model import tables
from scripts.scaling_model.fitting import Fit, Point, fitted
from scripts.scaling_model.measuring import measure, plan
from scripts.scaling_model.picture import drawn
from scripts.scaling_model.projecting import Gpu, Links, Projection, project
from scripts.scaling_model.sizing import Work, hard_negatives, in_batch

GPUS = (8, 16, 32, 64, 128, 256, 512)
AIM = 0.1
MACHINE = ("cores", "taken_by_others")
REMEDY = "leave --measured out to measure anew"


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line; raises ConfigError for hardware that cannot be."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = Parser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--gpu_tflops", type=float, default=989, help="of a GPU in half precision, at best (%(default)s: H100)")
    add("--gpu_tflops32", type=float, default=67, help="in float32, at best (%(default)s)")
    add("--gpu_efficiency", type=float, default=0.4, help="share of these that is reached (%(default)s: assumed)")
    add("--gpus_per_node", type=int, default=8, help="GPUs that share a host's link (%(default)s)")
    add("--intra_gbs", type=float, default=360, help="GB/s a GPU passes on within a host (%(default)s: NVLink)")
    add("--inter_gbs", type=float, nargs="+", default=[320, 2.5], metavar="GBS",
        help="GB/s between hosts, of each network (%(default)s: 80 %% of eight 400 Gb links, and of one of 25 Gb)")
    add("--latency_us", type=float, nargs="+", default=[5, 30], metavar="US",
        help="of a hop between hosts, of each network (%(default)s)")
    add("--network", nargs="+", default=["8 x 400 Gb InfiniBand", "25 Gb Ethernet"], metavar="NAME",
        help="names of the networks")
    add("--items", type=int, default=32, help="captions of each GPU in the in-batch update (%(default)s)")
    add("--compression", choices=("none", "fp16"), default="none", help="how gradients travel (%(default)s)")
    add("--host_us", type=float, help="the software's part of a message (default: as fitted for two ranks)")
    add("--gpus", type=int, nargs="+", default=list(GPUS), help="(%(default)s)")
    add("--patience", type=float, default=60, metavar="S",
        help="seconds to wait for quiet moments at most, for each number of ranks (%(default)s)")
    add("--measured", type=Path, metavar="FILE", help="a scaling.json whose points are taken instead of measuring anew")
    add("--quick", action="store_true", help="in miniature: the numbers mean nothing")
    add("--output", type=Path, default=Path(".scaling"), help="folder of what is written (%(default)s)")
    args = parser.parse_args(words)
    check(args)
    return args


def check(args: argparse.Namespace) -> None:
    """Raise ConfigError for hardware that cannot be."""
    lengths = {len(args.inter_gbs), len(args.latency_us), len(args.network)}
    if len(lengths) > 1:
        raise ConfigError(
            f"--inter_gbs, --latency_us and --network name {len(args.inter_gbs)}, {len(args.latency_us)} and "
            f"{len(args.network)} networks; give each as many values"
        )
    positive = ("gpu_tflops", "gpu_tflops32", "gpus_per_node", "intra_gbs", "inter_gbs", "items")
    for name in positive:
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value <= 0:
                raise ConfigError(f"--{name} {value}: should be above 0")
    if not 0 < args.gpu_efficiency <= 1:
        raise ConfigError(f"--gpu_efficiency {args.gpu_efficiency}: should be above 0 and at most 1")
    if min(args.latency_us) < 0 or (args.host_us or 0) < 0:
        raise ConfigError("--latency_us and --host_us: should not be below 0")
    if min(args.gpus) < 2:
        raise ConfigError(f"--gpus {min(args.gpus)}: one GPU talks to nobody; give 2 or more")


def main(words: Sequence[str] | None = None) -> int:
    """Measure, fit, project, and show it."""
    args = parse(words)
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        machine: dict[str, Any] = {"cores": cores()}
        if args.measured:
            points, machine = earlier(args.measured)
        else:
            points, machine["taken_by_others"] = measure(plan(args.quick, args.patience), Path(name))
        works = [hard_negatives(Path(name), args.compression, args.quick),
                 in_batch(Path(name), args.items, args.compression, args.quick)]
    fit = fitted(points, machine["cores"])
    found = projections(args, works, fit)
    said = [*told(fit, machine["taken_by_others"], args.quick), "", tables.written(tables.measured(points, fit)), "",
            *assumed(args, works, fit), "", tables.written(tables.projected(found))]
    text = "\n".join(said) + "\n"
    sys.stdout.write(text)
    write_text(args.output / "scaling.md", text)
    write_text(args.output / "scaling.svg", drawn(found))
    write_json(args.output / "scaling.json", {
        "flags": {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()},
        "machine": machine, "fit": asdict(fit) | {"largest": fit.largest},
        "points": [asdict(point) for point in points], "works": [facts(work) for work in works],
        "projections": [asdict(one) | {"fast_s": one.fast_s, "slow_s": one.slow_s} for one in found],
    }, indent=1)  # fmt: skip
    if fit.largest > AIM and not args.quick:
        raise Failure(f"the fit is {100 * fit.largest:.0f} % off at one point, more than {100 * AIM:.0f} %, and others "
                      f"took {100 * machine['taken_by_others']:.0f} % of the machine; measure again when it is quiet")
    return 0


def earlier(path: Path) -> tuple[list[Point], dict[str, Any]]:
    """The points of a scaling.json, and the machine that they were measured on; raises DataError where it is none."""
    found = read_json(path, REMEDY)
    try:
        return [Point.of(one) for one in found["points"]], {name: found["machine"][name] for name in MACHINE}
    except (TypeError, KeyError) as error:
        raise DataError(f"{path} is no scaling.json of this program ({error!r}); {REMEDY}") from error


def projections(args: argparse.Namespace, works: Sequence[Work], fit: Fit) -> list[Projection]:
    """Every update on every network and number of GPUs."""
    gpu = Gpu(args.gpu_tflops, args.gpu_tflops32, args.gpu_efficiency)
    host = fit.rounds_s[2] if args.host_us is None else args.host_us * 1e-6
    networks = [
        Links(name, args.gpus_per_node, args.intra_gbs, speed, latency, host, fit.tensor_s)
        for name, speed, latency in zip(args.network, args.inter_gbs, args.latency_us, strict=True)
    ]
    return [project(work, gpus, gpu, links) for work in works for links in networks for gpus in args.gpus]


def told(fit: Fit, others: float, quick: bool) -> list[str]:
    """The constants and how good they are, in words."""
    alpha = ", ".join(f"{1e3 * seconds:.2f} ms on {ranks} ranks" for ranks, seconds in fit.rounds_s.items())
    left_out = max(map(abs, fit.left_out))
    lines = [f"fit of {len(fit.errors)} points: largest error {100 * fit.largest:.1f} %, of points that were left out "
             f"of the fit {100 * left_out:.1f} %; others took up to {100 * others:.0f} % of the machine",
             f"alpha {alpha}; beta {1e9 * fit.byte_s:.2f} s/GB; tau {1e6 * fit.tensor_s:.0f} us a tensor; compute "
             f"{fit.stretch:.2f} times as long as without talking, {fit.stretch + fit.held:.2f} times between waits"]
    return [*(["in miniature: these numbers mean nothing"] if quick else []), *lines]


def assumed(args: argparse.Namespace, works: Sequence[Work], fit: Fit) -> list[str]:
    """What the projection rests on, in words."""
    host = 1e6 * fit.rounds_s[2] if args.host_us is None else args.host_us
    lines = [f"projected: {args.gpu_tflops:g} Tflop/s in half precision, {args.gpu_tflops32:g} in float32, "
             f"{100 * args.gpu_efficiency:.0f} % of it reached; {args.gpus_per_node} GPUs a host; {host:.0f} us of "
             "software a message; from as much of the reduction hidden behind the last backward pass as fits, to none"]
    for work in works:
        sent = work.sent(2)
        behind = sum(one.size for one in sent if not one.alone)
        waits = sum(one.alone for one in sent)
        lines.append(f"{work.name}: {work.items} items a GPU, {work.operations / 1e12:.3g} Tflop in "
                     f"{'half precision' if work.half else 'float32'}, {behind / 1e6:.0f} MB of gradients, "
                     f"{waits} other collectives that the work stands still for")
    return lines


def facts(work: Work) -> dict[str, Any]:
    """A work as plain values, its collectives on two ranks."""
    plain = {key: value for key, value in vars(work).items() if key != "laws"}
    laws = [asdict(law.at(work.items, 2)) | {"items_power": law.items_power, "ranks_power": law.ranks_power}
            for law in work.laws]  # fmt: skip
    return plain | {"collectives": laws}


if __name__ == "__main__":
    run(main)
