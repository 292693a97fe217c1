"""The loss of several ranks and its gradients after the reduction.

    horovodrun -np 2 python tests/golden/ops_laps_ranks.py CASE_DIR FOLDER

does on real ranks (Horovod's, or those of torchrun) what the op does on threads; each writes
`FOLDER/<rank>.safetensors`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.objective.triplet import Config as TripletConfig
from model.objective.triplet import Triplet
from tests.golden.run import Case, sibling
from tests.ranks import on_ranks
from train.assembly.precision import Precision
from train.distributed.comm import Comm
from train.distributed.process_groups import join_process_group
from train.loop.batch_regime import match_batch, total_loss
from train.loop.reducer import GradientReducer

shared, whole_model = sibling("ops_laps"), sibling("ops_laps_model")
Tensors = dict[str, Tensor]


def on_rank(case: Any, comm: Comm) -> Tensors:
    """One rank's part: its own items, everyone's scores, the mean of all ranks' gradients."""
    matcher, config = whole_model.whole(case), case.config
    reducer = GradientReducer(comm, matcher.named_parameters())
    names = ("images", "captions", "lengths", "img_ids")
    batch = shared.batch_of(*(case.inputs[name][comm.rank] for name in names))
    out = match_batch(matcher, batch, comm, Precision("off", torch.device("cpu")).autocast)
    settings = TripletConfig(margin=config["margin"], max_violation=config["max_violation"], ramp=1.0)
    terms = Triplet(settings)(out, batch, config["warmup_alpha"])
    reducer.arm()
    total_loss(terms, out.aux, comm.size).backward()
    reducer.finish()
    loss = total_loss(terms, out.aux, 1).detach()
    return {"loss": loss} | whole_model.grads_of(matcher, config["grads"])


def multi_rank_loss(case: Any) -> Tensors:
    found = on_ranks(len(case.inputs["images"]), lambda comm: on_rank(case, comm))
    assert all(torch.equal(found[0][name], other[name]) for other in found for name in found[0])
    return found[0] | {"loss": torch.stack([rank["loss"] for rank in found])}


OPS = {"multi_rank_loss": multi_rank_loss}


def main(folder: Path, out: Path) -> None:
    comm = join_process_group()
    found = on_rank(Case.load(folder), comm)
    save_file({name: t.detach().contiguous() for name, t in found.items()}, out / f"{comm.rank}.safetensors")
    comm.barrier("end")
    comm.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
