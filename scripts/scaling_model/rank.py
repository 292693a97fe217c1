"""One of several local ranks that make the same updates with and without the others; started by `measuring`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import psutil
from torch import Tensor

from config.errors import Failure
from data.files import write_json
from scripts.command.parallel import cores
from scripts.scaling_model.counting import Pretended
from scripts.scaling_model.stepping import made_updates
from scripts.scaling_model.workloads import Workload
from train.distributed.comm import Comm, Wait
from train.distributed.host import keep_freed_memory, share_cores
from train.distributed.process_groups import join_process_group

Stock = tuple[float, float, float]
NOISY, LOOK_S = 0.25, 0.05


def taken() -> Stock:
    """The time, and the processor seconds of this process and of the whole machine."""
    times = psutil.cpu_times()
    busy = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
    return time.perf_counter(), time.process_time(), busy


class Quiet:
    """Waits for moments in which nobody else works on this machine, until `patience_s` are used up."""

    def __init__(self, patience_s: float) -> None:
        self._left = patience_s

    def wait(self) -> None:
        """Return once the machine is quiet, or patience is at its end."""
        while True:
            start, _, before = taken()
            time.sleep(LOOK_S)
            end, _, after = taken()
            self._left -= end - start
            if self._left < 0 or after - before < NOISY * cores() * (end - start):
                return


class InTurns(Comm):
    """Computes without the others, or talks to them, in turns of `length` updates, and takes stock of each turn."""

    def __init__(self, comm: Comm, length: int, quiet: Quiet) -> None:
        self.rank, self.size = comm.rank, comm.size
        self.local_rank, self.local_size = comm.local_rank, comm.local_size
        self._group, self._alone, self._length = comm, Pretended(comm.rank, comm.size), length
        self._inner: Comm = comm
        self._quiet = quiet
        self.stock: list[Stock] = []
        """At the beginning and at the end of each turn."""

    def before(self, update: int) -> None:
        """To be called before each update; the ranks begin every turn together."""
        turn, place = divmod(update, self._length)
        if place:
            return
        if turn:
            self.stock.append(taken())
        if self.rank == 0:
            self._quiet.wait()
        self._group.barrier("turn")
        self._inner = self._group if turn % 2 else self._alone
        self.stock.append(taken())

    def _mean_async_(self, tensor: Tensor, name: str) -> Wait:
        return self._inner.mean_async_(tensor, name)

    def _gather(self, tensor: Tensor, name: str) -> Tensor:
        return self._inner.gather(tensor, name)

    def _broadcast_(self, tensor: Tensor, name: str, root: int) -> None:
        self._inner.broadcast_(tensor, name, root)

    def means_lost_rank(self, error: BaseException) -> bool:
        return self._group.means_lost_rank(error)

    def close(self) -> None:
        self._group.close()


def measured(load: Workload, task: dict[str, Any], comm: Comm, quiet: Quiet, folder: Path) -> dict[str, Any]:
    """Seconds `[2 x turns + 1, length]` of updates that do not talk and do, in turns; the stock; what an update sends.

    Raises:
        Failure: it sends other things when it talks than when it does not, so that the two do not compare.
    """
    turns, length, stores = task["turns"], task["length"], task["stores"]
    alternating = InTurns(comm, length, quiet)
    run = load.run((Path(stores[0]), Path(stores[1])))
    made = made_updates(run, alternating, (2 * turns + 1) * length, folder, alternating.before)
    alternating.stock.append(taken())
    if made[0].sent != made[length].sent:
        raise Failure(f"{load.name}: ranks that only pretend to talk send something else; mend scaling_model/counting")
    seconds = [update.seconds for update in made]
    rows = [seconds[start : start + length] for start in range(0, len(seconds), length)]
    return {"seconds": rows, "stock": alternating.stock, "sent": [asdict(sent) for sent in made[-1].sent]}


def main(folder: Path) -> None:
    """Read `task.json` in `folder`, make its updates, and write what this rank found beside it."""
    task = json.loads((folder / "task.json").read_text())
    comm = join_process_group()
    share_cores(comm.local_size)
    keep_freed_memory()
    quiet = Quiet(task["patience_s"])
    loads = [Workload(**plain) for plain in task["workloads"]]
    found = {load.name: measured(load, task, comm, quiet, folder) for load in loads}
    write_json(folder / f"rank{comm.rank}.json", found)
    comm.barrier("written")
    comm.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
