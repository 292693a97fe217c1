"""The settings that each program reads; a flag for any other setting is refused.

Config files may hold them all the same: one file serves training, mining and evaluation.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence, Set

from config.errors import ConfigError
from config.schema import Run

Reads = Callable[[Namespace], tuple[str, ...]]
"""The dotted settings, or sections with their dot, that a program reads when it is asked for this."""

REGIONS = ("data.conf_th", "data.max_bb", "data.min_bb", "data.num_bb", "data.compressed_db", "data.damaged")
READING = ("data.n_workers", "data.pin_mem", "data.prefetch_batches", "data.picture_cache_mb")
RUNNING = ("output.output_dir", "cluster.device", "cluster.stall_timeout", "cluster.stop_after")
SCORING = (*REGIONS, *READING, *RUNNING, "seed", "matcher.", "weights.", "optim.precision", "eval.tokens_per_block")
"""What every program reads that has a trained matcher encode a split."""
COUNTING = ("eval.ties", "eval.ir_count", "eval.median_rank", "eval.folds")
ALL = ("seed", "data.", "negatives.", "optim.", "eval.", "output.", "cluster.", "weights.", "matcher.", "objective.")
OF_POOLS = ("negatives.negative_size", "negatives.hard_neg_size", "negatives.mine_after", "negatives.mining_batch",
            "negatives.mask_same_words")  # fmt: skip
OF_BATCHES = ("negatives.offline", "negatives.refresh_every", "negatives.separate_passes", "negatives.mask_same_words")
"""Settings of one of the two ways of training."""


def refuse_unread(run: Run, said: Set[str], read: Sequence[str], program: str) -> None:
    """Raise ConfigError where the command line gives settings that the program would pass over.

    Args:
        said: the dotted keys that the command line gives.
        read: what the program reads.
    """
    unread = sorted(key for key in said if not any(_is_in(key, place) for place in read))
    idle = {key: why for key, why in idle_settings(run) if key in said and key not in unread}
    told = [f"{program} does not read {', '.join(unread)} here"] if unread else []
    told += [f"{key} has no effect {why}" for key, why in idle.items()]
    if told:
        which = "it" if len(unread) + len(idle) == 1 else "them"
        raise ConfigError(f"{'; '.join(told)}; leave {which} out of the command line (a config file may hold {which})")


def _is_in(key: str, place: str) -> bool:
    return key == place or (place.endswith(".") and key.startswith(place))


def idle_settings(run: Run) -> Iterator[tuple[str, str]]:
    """Settings that others of the same run make void, and by what."""
    data, optim, negatives = run.data, run.optim, run.negatives
    if data.conf_th == -1:
        yield from ((f"data.{name}", "where conf_th is -1: num_bb counts then") for name in ("max_bb", "min_bb"))
    else:
        yield "data.num_bb", f"where conf_th is {data.conf_th:g}: it counts where that is -1"
    if optim.schedule != "step":
        yield "optim.decay_steps", f"on schedule {optim.schedule}: it is of schedule step"
    if optim.schedule == "linear":
        yield "optim.decay_factor", "on schedule linear: it is of schedules step and milestones"
    if optim.global_batch_size:
        yield "optim.train_batch_size", "beside global_batch_size, which is shared out over the ranks"
    if run.eval.full_val:
        yield "eval.inf_minibatch_size", "where full_val is true: it is of the quick check"
    if not negatives.offline:
        for name in ("offline_range", "offline_rank_ratio", "rank_coupling", "separate_passes"):
            yield f"negatives.{name}", "without offline, the folder of mined candidates"
    if not run.cluster.elastic:
        yield "cluster.commit_steps", "without elastic"


def anything(_: Namespace) -> tuple[str, ...]:
    """What a program reads that hands the settings on to others."""
    return ALL


def training_on_pools(_: Namespace) -> tuple[str, ...]:
    """What train/itm_hn.py reads."""
    return (*(place for place in ALL if place != "negatives."), *OF_POOLS)


def training_on_batches(_: Namespace) -> tuple[str, ...]:
    """What train/itm.py reads."""
    return (*(place for place in ALL if place != "negatives."), *OF_BATCHES, "negatives.offline_range",
            "negatives.offline_rank_ratio", "negatives.rank_coupling")  # fmt: skip


def measuring(args: Namespace) -> tuple[str, ...]:
    """What train/evaluate.py reads."""
    if args.scores:
        return (*COUNTING, "output.output_dir")
    stores = (f"data.{args.split}_txt_db", f"data.{args.split}_img_db")
    return (*SCORING, *stores, *(() if args.isda else (*COUNTING, "eval.score_dtype", "eval.two_stage")))


def mining(args: Namespace) -> tuple[str, ...]:
    """What train/mine.py reads."""
    stores = ("data.train_txt_dbs", "data.train_img_dbs")
    if args.embeddings:
        return (*stores, *REGIONS, *RUNNING, "matcher.")
    return (*SCORING, *stores)
