"""One rank, two ranks of Horovod, two ranks of torch.distributed: the same samples and the same losses.

Where no launcher is named, the ranks are of tests.flow.warm.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.flow import warm
from tests.items import items_config, random_candidates, write_candidates
from tests.processes import entry
from tests.support import ROOT, config_of, environment, events, open_index, write_config
from train.metrics.throughput import CLOCKED

pytestmark = pytest.mark.slow
UPDATES = 20
COMPARED = ("loss", "hinge_i", "hinge_t", "pool_r1_i", "pool_r1_t", "grad_norm", "lr")


def train(folder: Path, stores: tuple[Path, Path], ranks: int, launcher: str = "",
          objective: dict[str, Any] | None = None, **optim: Any) -> Path:
    """Twenty updates of eight anchors a direction, shared out over the ranks; the output folder."""
    config = config_of(stores, optim={"num_train_steps": UPDATES, "train_batch_size": 8 // ranks, **optim},
                       eval={"valid_steps": UPDATES}, matcher={"initializer_range": 0.3}, objective=objective or {})
    return trained("train/itm_hn.py", config, folder, ranks, launcher)


def trained(program: str, config: dict[str, Any], folder: Path, ranks: int, launcher: str = "") -> Path:
    """The output folder of a run that has ended well."""
    out = folder / f"{launcher}-{ranks}"
    words = program, "--config", write_config(folder / f"{out.name}.json", config), "--output_dir", out
    done = warm.run(*words, ranks=ranks) if not launcher else subprocess.run(
        entry(*words, ranks=ranks, launcher=launcher), cwd=ROOT, env=environment(), capture_output=True, text=True,
        timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def curves(folder: Path) -> np.ndarray:
    """[updates, numbers that do not depend on the clock]"""
    return np.array([[event[name] for name in COMPARED] for event in events(folder, "train")])


@pytest.fixture(scope="module")
def alone(stores: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("alone"), stores, 1)


@pytest.mark.parametrize("launcher", ["horovodrun", "torchrun"])
def test_two_ranks_train_as_one(alone: Path, launcher: str, stores: tuple[Path, Path], tmp_path: Path) -> None:
    two = train(tmp_path, stores, 2, launcher)
    one, shared = curves(alone), curves(two)
    assert one.shape == shared.shape == (UPDATES, len(COMPARED))
    assert one[:, 0].std() > 0.01, "the losses move, so that their being equal says something"
    assert np.abs(one - shared).max(0)[: len(COMPARED) - 2].max() < 1e-5
    np.testing.assert_allclose(shared, one, rtol=2e-5, atol=1e-5)
    assert events(two, "start")[0]["world"] == 2
    matrices = [np.load(folder / "scores/test/matrix.npy", allow_pickle=False) for folder in (alone, two)]
    np.testing.assert_allclose(*matrices, atol=1e-3)


def test_the_alignment_is_shared_out_like_the_rest(stores: tuple[Path, Path], tmp_path: Path) -> None:
    """Averaged over anchors, IAIS too is the same for one rank and two; summed it grows with a rank's anchors."""
    objective = {"IAIS": "distributed", "iais_reduction": "mean", "iais_weight": 5.0}
    one, two = (train(tmp_path, stores, ranks, objective=objective) for ranks in (1, 2))
    names = ("loss", "hinge_t", "iais_i", "iais_t", "iais_weighted_i", "iais_weighted_t", "grad_norm")
    found = [np.array([[event[name] for name in names] for event in events(folder, "train")]) for folder in (one, two)]
    assert found[0][:, 2:4].min() > 1e-4, "there is something to align"
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_ranks_differ_where_the_samples_differ(alone: Path, stores: tuple[Path, Path], tmp_path: Path) -> None:
    """The comparison above can fail: another rate is seen from the second update on."""
    other = curves(train(tmp_path, stores, 1, learning_rate=1.1e-3))
    assert np.abs(curves(alone)[2:, 0] - other[2:, 0]).max() > 1e-5


def test_compressed_gradients_train_nearly_the_same(alone: Path, stores: tuple[Path, Path], tmp_path: Path) -> None:
    one, half = curves(alone), curves(train(tmp_path, stores, 2, compression="fp16"))
    assert not np.array_equal(one, half)
    np.testing.assert_allclose(half[:, 0], one[:, 0], atol=5e-3)


def train_items(folder: Path, stores: tuple[Path, Path], ranks: int, launcher: str = "") -> Path:
    """Ten updates of twelve items with offline negatives, dropout, and statistics over the batch; the output folder."""
    index, lists = open_index(stores), folder / "offline"
    if not lists.exists():
        write_candidates(lists, random_candidates(index), index.order_hash)
    config = items_config(
        stores, negatives={"offline": str(lists), "offline_range": 10}, objective={"name": "quintuplet"},
        optim={"num_train_steps": 10, "train_batch_size": 12 // ranks, "warmup_steps": 0}, eval={"valid_steps": 5},
        matcher={"variant": "F", "input_dropout_p": 0.3})  # fmt: skip
    return trained("train/itm.py", config, folder, ranks, launcher)


@pytest.fixture(scope="module")
def items_alone(stores: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_items(tmp_path_factory.mktemp("items"), stores, 1)


def numbers(folder: Path, names: list[str]) -> np.ndarray:
    """[updates, names]"""
    return np.array([[event[name] for name in names] for event in events(folder, "train")])


@pytest.mark.parametrize("launcher", ["horovodrun", ""])
def test_two_ranks_train_on_items_as_one(
    items_alone: Path, launcher: str, stores: tuple[Path, Path], tmp_path: Path
) -> None:
    """Negatives are searched among those of both ranks, norms see the rows of both, dropout is drawn by item."""
    both = items_alone, train_items(tmp_path, stores, 2, launcher)
    logged = [name for name in events(items_alone, "train")[0] if name not in CLOCKED | {"event", "samples"}]
    shares = [name for name in logged if name.endswith("_active") or name.startswith("batch_r1")]
    costs = [name for name in logged if name not in shares]
    assert {"loss", "caption", "online_t", "offline_kin", "weight_i", "grad_norm", "lr"} <= set(costs)
    one, two = (numbers(folder, costs) for folder in both)
    assert one.shape == two.shape == (10, len(costs))
    losses = one[:, costs.index("loss")]
    assert losses.std() > 0.01, "the losses move, so that their being equal says something"
    np.testing.assert_allclose(two[:, costs.index("loss")], losses, rtol=1e-5)
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    # Captions of the same words tie: rounding may decide for one item of the twelve.
    np.testing.assert_allclose(*(numbers(folder, shares) for folder in both), atol=1 / 12 + 1e-6)
    weights = [load_file(folder / "ckpt/latest/model.safetensors") for folder in both]
    for name in ("image_norm.running_mean", "graph.1.norm.running_var"):
        np.testing.assert_allclose(weights[1][name], weights[0][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ranks", [3, 4])
def test_more_than_two_ranks_repeat_to_the_bit(ranks: int, stores: tuple[Path, Path], tmp_path: Path) -> None:
    """What is summed with what, and in which order, does not depend on when a rank is ready."""
    for turn in "ab":
        (tmp_path / turn).mkdir()
    weights = [train(tmp_path / turn, stores, ranks, "horovodrun") for turn in "ab"]
    first, second = ((folder / "ckpt" / "best" / "model.safetensors").read_bytes() for folder in weights)
    assert first == second
