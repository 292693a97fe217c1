"""Settings that are valid alone and contradict each other; a message names all of them and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from config.sections import Settings


class Conflict(NamedTuple):
    """One contradiction: the dotted keys that take part, and a sentence with their values and the remedy."""

    keys: list[str]
    text: str


def find_conflict(run: Settings) -> Conflict | None:
    """Return the first contradiction between the settings of a run, or None."""
    return next(_clashes(run), None)


def _clashes(run: Settings) -> Iterator[Conflict]:
    yield from _of_data(run)
    yield from _of_update(run)
    yield from _of_optimizer(run)
    yield from _of_lengths(run)


def _of_data(run: Settings) -> Iterator[Conflict]:
    data = run.data
    if len(data.train_txt_dbs) != len(data.train_img_dbs):
        yield Conflict(
            ["data.train_txt_dbs", "data.train_img_dbs"],
            f"there are {len(data.train_txt_dbs)} text stores and {len(data.train_img_dbs)} image stores to "
            "train on: name one image store for each text store, in the same order",
        )
    for split in ("val", "test"):
        keys = [f"data.{split}_txt_db", f"data.{split}_img_db"]
        stores = [getattr(data, key.removeprefix("data.")) for key in keys]
        if any(stores) and not all(stores):
            yield Conflict(keys, f"{keys[0]} and {keys[1]} go together: give both or neither")
    if run.eval.select_on_test and not data.test_txt_db:
        yield Conflict(
            ["eval.select_on_test", "data.test_txt_db", "data.test_img_db"],
            "select_on_test validates on the test stores, of which there are none: name test_txt_db and test_img_db, "
            "or leave select_on_test out",
        )
    if data.min_bb > data.max_bb:
        yield Conflict(
            ["data.min_bb", "data.max_bb"],
            f"min_bb {data.min_bb} is above max_bb {data.max_bb}: lower min_bb or raise max_bb",
        )


def _of_update(run: Settings) -> Iterator[Conflict]:
    negatives, optim = run.negatives, run.optim
    if negatives.refresh_every and not negatives.offline:
        yield Conflict(
            ["negatives.refresh_every", "negatives.offline"],
            f"refresh_every {negatives.refresh_every} mines candidates anew, but there are none to begin with: name "
            "the folder of the first ones as offline, or set refresh_every to 0",
        )
    if negatives.hard_neg_size > negatives.negative_size:
        yield Conflict(
            ["negatives.hard_neg_size", "negatives.negative_size"],
            f"{negatives.hard_neg_size} hard negatives cannot be kept of a pool of "
            f"{negatives.negative_size}: lower hard_neg_size or raise negative_size",
        )
    batch = "global_batch_size" if optim.global_batch_size else "train_batch_size"
    anchors = getattr(optim, batch)
    if anchors % negatives.mining_batch:
        yield Conflict(
            ["negatives.mining_batch", f"optim.{batch}"],
            f"{batch} {anchors} is not a multiple of mining_batch "
            f"{negatives.mining_batch}: choose a divisor of {anchors} as mining_batch",
        )
    if run.cluster.elastic and not optim.global_batch_size:
        yield Conflict(
            ["cluster.elastic", "optim.global_batch_size"],
            "elastic ranks come and go, so a batch of each rank says nothing of the update: give "
            f"--global_batch_size (train_batch_size {optim.train_batch_size} times the ranks that you start with)",
        )
    if run.cluster.elastic and run.output.resume == "never":
        yield Conflict(
            ["cluster.elastic", "output.resume"],
            "ranks that join an elastic run find checkpoints, which resume never refuses: use --resume auto",
        )
    if optim.warmup_steps > optim.num_train_steps:
        yield Conflict(
            ["optim.warmup_steps", "optim.num_train_steps"],
            f"a warm-up of {optim.warmup_steps} updates does not fit into a run of {optim.num_train_steps}: "
            "lower warmup_steps or raise num_train_steps",
        )


def _of_optimizer(run: Settings) -> Iterator[Conflict]:
    optim = run.optim
    falls, keys = list(optim.decay_at), ["optim.schedule", "optim.decay_at"]
    if bool(falls) != (optim.schedule == "milestones"):
        given = f"decay_at {falls}" if falls else "no decay_at"
        yield Conflict(keys, f"schedule {optim.schedule} and {given} do not go together: "
                             "give milestones with the updates after which it drops, or neither")  # fmt: skip
    if falls != sorted(set(falls)):
        yield Conflict(keys, f"decay_at {falls} does not ascend: list each update once, the earliest first")
    if falls and falls[-1] >= optim.num_train_steps:
        yield Conflict(
            [*keys, "optim.num_train_steps"],
            f"decay_at {falls[-1]} comes after all {optim.num_train_steps} updates of the run: let it drop before "
            f"{optim.num_train_steps}, or raise num_train_steps above {falls[-1]}",
        )
    if optim.step_twice and optim.rate_factors:
        yield Conflict(
            ["optim.step_twice", "optim.rate_factors"],
            f"step_twice {optim.step_twice} and rate_factors both divide the parameters: leave one of them out",
        )
    if optim.optim == "torch_adamw" and not optim.correct_bias:
        yield Conflict(
            ["optim.optim", "optim.correct_bias"],
            "torch_adamw always corrects its moments: set correct_bias to true, or optim to adamw",
        )


def _of_lengths(run: Settings) -> Iterator[Conflict]:
    """Words, regions, [CLS] and [SEP] together fit the matcher, if the matcher has such a limit."""
    limit = getattr(run.matcher, "max_position_embeddings", None)
    data = run.data
    if limit is None or data.max_txt_len == -1:
        return
    region_key = "num_bb" if data.conf_th == -1 else "max_bb"
    regions = getattr(data, region_key)
    if data.max_txt_len + 2 + regions > limit:
        rooms = {"max_txt_len": limit - 2 - regions, region_key: limit - 2 - data.max_txt_len}
        ways = [f"{key} to at most {room}" for key, room in rooms.items() if room >= 1]
        if region_key == "max_bb" and 1 <= rooms["max_bb"] < data.min_bb:
            ways[-1] += ", and min_bb with it"
        yield Conflict(
            ["data.max_txt_len", f"data.{region_key}", "matcher.max_position_embeddings"],
            f"{data.max_txt_len} words, 2 marks and {regions} regions do not fit into the "
            f"{limit} positions of the matcher: lower {' or '.join(ways) or f'both max_txt_len and {region_key}'}",
        )
