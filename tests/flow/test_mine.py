"""The mining command on one, two and four ranks, and killed in the middle: the same bytes."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors import SafetensorError, safe_open

from tests.flow import warm
from tests.items import VSRN, items_config
from tests.processes import entry, started, wait_until
from tests.support import ROOT, environment, run, write_config, write_stores

pytestmark = pytest.mark.slow
IMAGES, PER_IMAGE = 150, 4
FLAGS = ("--texts_per_image", "40", "--images_per_text", "12", "--max_tile_bytes", "4096", "--save_seconds", "0")
Bytes = dict[str, bytes]


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many of them alike, so that ties fall into every tile."""
    folder, rng = tmp_path_factory.mktemp("embeddings"), np.random.default_rng(0)
    for name, rows in (("img_embs", IMAGES), ("cap_embs", IMAGES * PER_IMAGE)):
        values = np.rint(2 * rng.standard_normal((rows, 6))).astype(np.float32) / 2
        np.save(folder / f"{name}train.npy", values, allow_pickle=False)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VSRN on stores of its own."""
    folder = tmp_path_factory.mktemp("stores")
    stores = write_stores(folder, images=300, captions=(2, 1, 3))
    return write_config(folder / "run.json", items_config(stores) | {"matcher": VSRN})


def given(embeddings: Path, lists: Path) -> tuple[str | Path, ...]:
    """The command that mines embeddings."""
    per_image = ("--captions_per_image", str(PER_IMAGE))
    return ("train/mine.py", "--embeddings", embeddings, *per_image, "--lists", lists, *FLAGS)


def files(folder: Path) -> Bytes:
    """Lists and scores; nothing else is left but the manifest."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert not [path for path in folder.iterdir() if path.is_dir()], "nothing unfinished is left"
    return found


@pytest.fixture(scope="module")
def undisturbed(embeddings: Path, tmp_path_factory: pytest.TempPathFactory) -> Bytes:
    lists = tmp_path_factory.mktemp("undisturbed") / "lists"
    done = warm.run(*given(embeddings, lists))
    assert done.returncode == 0, done.stderr
    return files(lists)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_mine_embeddings_as_one_does(ranks: int, embeddings: Path, undisturbed: Bytes, tmp_path: Path) -> None:
    start = run if ranks == 2 else warm.run
    done = start(*given(embeddings, tmp_path / "lists"), ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "lists") == undisturbed


def test_another_tile_and_arithmetic_mine_the_same(embeddings: Path, undisturbed: Bytes, tmp_path: Path) -> None:
    done = warm.run(*given(embeddings, tmp_path / "lists"), "--max_tile_bytes", "100000", "--screen", "bfloat16")
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "lists") == undisturbed


def test_ranks_mine_a_matcher_as_one_does(config: Path, tmp_path: Path) -> None:
    found = []
    for ranks in (1, 2, 4):
        lists = tmp_path / f"lists-{ranks}"
        done = warm.run("train/mine.py", "--config", config, "--which", "random", "--lists", lists, *FLAGS,
                        "--keep_embeddings", "--exact_scores", ranks=ranks)
        assert done.returncode == 0, done.stderr
        found.append(files(lists))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 7


def tiles_saved(unfinished: Path) -> int:
    """How many tiles the state of rank 0 knows; -1 without one."""
    for path in unfinished.glob("pass-*/rank-0-state.safetensors"):
        try:
            with safe_open(path, "pt") as state:
                block, tile = state.get_tensor("place").tolist()
        except (OSError, SafetensorError, RuntimeError):
            return -1  # it has just been replaced
        return int(block * 1000 + tile)
    return -1


def test_killed_at_five_tiles_it_ends_with_the_same_bytes(
    embeddings: Path, undisturbed: Bytes, tmp_path: Path
) -> None:
    """Each start goes on where the one before it was killed."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    lists = tmp_path / "lists"
    words, log = given(embeddings, lists), tmp_path / "log"
    goals = sorted(random.Random(seed).sample(range(1, 80), 5))
    reached = []
    for goal in goals:
        with warm.started(words, log) if reached else started(entry(*words), log) as process:
            before = tiles_saved(lists / ".unfinished")
            wait_until(lambda start=before, more=goal: process.poll() is not None  # type: ignore[misc]
                       or tiles_saved(lists / ".unfinished") >= max(more, start + 1))
            process.kill()
            process.wait(30)
        reached.append(tiles_saved(lists / ".unfinished"))
        if not (lists / ".unfinished").exists():
            break
    done = warm.run(*words)
    assert done.returncode == 0, done.stderr
    assert reached[0] > 0, "the first one was killed in the middle"
    assert "going on after" in log.read_text() + done.stderr
    assert files(lists) == undisturbed


def test_a_lost_rank_ends_the_other_with_a_line_and_two_ranks_go_on(
    embeddings: Path, undisturbed: Bytes, tmp_path: Path
) -> None:
    lists = tmp_path / "lists"
    with started(entry(*given(embeddings, lists), ranks=2), tmp_path / "log") as process:
        wait_until(lambda: tiles_saved(lists / ".unfinished") >= 3)
        ranks = {int(child.environ()["HOROVOD_RANK"]): child
                 for child in psutil.Process(process.pid).children(recursive=True)
                 if any(word.endswith("mine.py") for word in child.cmdline()[1:2])}
        ranks[1].send_signal(signal.SIGKILL)
        start = time.monotonic()
        assert process.wait(60) != 0
        assert time.monotonic() - start < 60
    assert "lost rank 1" in (tmp_path / "log").read_text()
    assert (lists / ".unfinished").exists()
    done = warm.run(*given(embeddings, lists), ranks=2)
    assert done.returncode == 0, done.stderr
    assert "going on after" in done.stderr
    assert files(lists) == undisturbed


def test_a_full_disk_is_one_line(embeddings: Path, tmp_path: Path) -> None:
    """Without root: the kernel refuses to let a file grow."""
    words = ["bash", "-c", 'ulimit -f 8; exec "$@"', "-", *entry(*given(embeddings, tmp_path / "lists"))]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr.splitlines()[-1]
    assert "start again with the same command: what is done is kept" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "lists").glob("*.npy"))
    again = warm.run(*given(embeddings, tmp_path / "lists"))
    assert again.returncode == 0, again.stderr
