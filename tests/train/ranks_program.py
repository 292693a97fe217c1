"""What two ranks do to prove their group; each writes its findings to `<folder>/<rank>.json` (see test_comm.py)."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import nn

from model.parts.layers import BatchNorm
from train.distributed.collectives import all_gather_rows, all_reduce_sum
from train.distributed.comm import Comm
from train.distributed.process_groups import join_process_group
from train.loop.reducer import GradientReducer


def means(comm: Comm) -> Any:
    value = torch.tensor([1.0, 10.0]) * (comm.rank + 1)
    found = comm.mean(value, "mean")
    return {"mean": found.tolist(), "kept": value.tolist()}


def means_in_flight(comm: Comm) -> Any:
    """Several at once, waited for in another order than they were sent in."""
    values = [torch.full((3,), float(10 * number + comm.rank)) for number in range(4)]
    waits = [comm.mean_async_(value, f"flight.{number}") for number, value in enumerate(values)]
    for wait in reversed(waits):
        wait()
    return [value.tolist() for value in values]


def broadcast(comm: Comm) -> Any:
    half = torch.tensor(comm.rank, dtype=torch.float16)
    values = [torch.full((2, 3), 5.0 + comm.rank), torch.tensor([7 + comm.rank]), half]
    for number, value in enumerate(values):
        comm.broadcast_(value, f"broadcast.{number}")
    last = torch.tensor([comm.rank])
    comm.broadcast_(last, "broadcast.last", root=comm.size - 1)
    return [value.tolist() for value in [*values, last]]


def share(comm: Comm) -> Any:
    values = [{"rank": comm.rank, "names": ["é" * comm.rank, None, 2.5]}, [], None, "x" * (1 + 5000 * comm.rank)]
    return [comm.all_gather_object(value) for value in values]


def gathered(comm: Comm) -> Any:
    """Rows of different numbers on each rank, of several types; one rank has none of the last."""
    rows = torch.arange(2.0 * (comm.rank + 1)).view(-1, 2) + 10 * comm.rank
    bits = torch.tensor([True] * comm.rank, dtype=torch.uint8)
    found = [comm.gather(rows, "rows"), comm.gather(rows.long(), "ints"), comm.gather(bits, "bits")]
    with torch.inference_mode():
        found.append(comm.gather(2 * rows, "evaluated"))
    return [value.tolist() for value in found] + [str(found[1].dtype)]


def summed(comm: Comm) -> Any:
    value = torch.tensor([1.0, 10.0]) * (comm.rank + 1)
    return [comm.sum(value, "sum").tolist(), value.tolist()]


def normalised(comm: Comm) -> Any:
    """A batch norm over the rows of both ranks, of which each has another number: outputs, slopes, what it keeps."""
    norm = BatchNorm(3)
    norm.total = partial(all_reduce_sum, comm=comm, name="norm")
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(4)).split([3, 2])[comm.rank].requires_grad_()
    everyone = all_gather_rows(norm(rows), comm, "normed", shared=True)
    everyone.pow(3).sum().backward()
    assert rows.grad is not None
    return [everyone.tolist(), comm.gather(rows.grad, "slopes").tolist(), norm.running_var.tolist()]


def model_of(rank: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def inputs(rank: int) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(rank)
    return [torch.randn(5, 4, generator=source) for _ in range(2)]


def reduced(comm: Comm, compression: str) -> Any:
    """Two backward passes an update, over two updates; the gradients of each."""
    model = model_of(comm.rank)
    reducer = GradientReducer(comm, model.named_parameters(), compression)
    found = []
    for update in range(2):
        model.zero_grad()
        for number, x in enumerate(inputs(comm.rank + 10 * update)):
            if number == 1:
                reducer.arm()
            model(x).square().mean().backward()
        reducer.finish()
        found.append({name: p.grad.tolist() for name, p in model.named_parameters() if p.grad is not None})
    return found


def plain(size: int) -> Any:
    """The same without a group: every rank's gradients computed here and averaged."""
    found = []
    for update in range(2):
        sums: dict[str, torch.Tensor] = {}
        for rank in range(size):
            model = model_of(rank)
            for x in inputs(rank + 10 * update):
                model(x).square().mean().backward()
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None
                sums[name] = sums.get(name, torch.zeros(())) + parameter.grad / size
        found.append({name: value.tolist() for name, value in sums.items()})
    return found


def missing_gradient(comm: Comm) -> Any:
    """A parameter that no loss reaches."""
    model = nn.ModuleDict({"used": nn.Linear(2, 1), "idle": nn.Linear(2, 1)})
    reducer = GradientReducer(comm, ((f"missing.{name}", p) for name, p in model.named_parameters()))
    reducer.arm()
    model["used"](torch.ones(1, 2)).sum().backward()
    try:
        reducer.finish()
    except RuntimeError as error:
        return str(error)
    return "nothing was said"


def main(folder: Path) -> None:
    comm = join_process_group()
    checks: dict[str, Callable[[Comm], Any]] = {
        "means": means, "means_in_flight": means_in_flight, "broadcast": broadcast, "share": share,
        "gathered": gathered, "summed": summed, "normalised": normalised,
        "reduced": lambda comm: reduced(comm, "none"), "compressed": lambda comm: reduced(comm, "fp16"),
        "plain": lambda comm: plain(comm.size)}
    found: dict[str, Any] = {"kind": type(comm).__name__, "rank": comm.rank, "size": comm.size,
                             "local": [comm.local_rank, comm.local_size]}
    for name, check in checks.items():
        found[name] = check(comm)
        comm.barrier(name)
    found["missing_gradient"] = missing_gradient(comm)
    comm.barrier("end")
    (folder / f"{comm.rank}.json").write_text(json.dumps(found))
    comm.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
