"""`kill -9` at random moments, resumed with the same command: the end is that of the undisturbed run, to the bit.

One rank, and two whose sums do not depend on who comes first. The moments are printed; FAULTS_SEED draws them again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kills import Kills
from tests.faults.outcomes import CLEAN, RESUMED, drawn
from tests.flow import warm
from tests.support import config_of, write_config

pytestmark = pytest.mark.slow
STEPS = 24


@pytest.fixture(scope="module")
def config(stores: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saves in the middle of an epoch and between two lines of the log; validations that take a while."""
    return write_config(tmp_path_factory.mktemp("config") / "run.json", config_of(
        stores, optim={"num_train_steps": STEPS, "learning_rate": 3e-3}, data={"n_workers": 1},
        output={"save_steps": 5, "log_steps": 2}, eval={"valid_steps": 8, "tokens_per_block": 64},
        matcher={"initializer_range": 0.2}))


@pytest.fixture(scope="module")
def alone(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Kills:
    return Kills(config, undisturbed(config, tmp_path_factory.mktemp("alone"), 1), STEPS, 1)


@pytest.fixture(scope="module")
def both(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Kills:
    return Kills(config, undisturbed(config, tmp_path_factory.mktemp("both"), 2), STEPS, 2)


def undisturbed(config: Path, folder: Path, ranks: int) -> Path:
    done = warm.run("train/itm_hn.py", "--config", config, "--output_dir", folder / "out", ranks=ranks)
    assert done.returncode == 0, done.stderr
    return folder / "out"


def survived(kills: Kills, folder: Path, of_each: list[int]) -> None:
    """Runs that are killed so many times each; says what came of it."""
    draw = drawn(f"{kills.ranks} ranks")
    for number, times in enumerate(of_each):
        kills.run_through(folder / f"run{number}", draw, times)
    told = f"{kills.ranks} ranks, {sum(of_each)} kills: {dict(kills.outcomes)}; hit {dict(kills.moments)}"
    print(told)
    assert kills.outcomes[RESUMED] + kills.outcomes[CLEAN] == sum(of_each)


def test_one_rank(alone: Kills, tmp_path: Path) -> None:
    survived(alone, tmp_path, [2, 2])


def test_two_ranks(both: Kills, tmp_path: Path) -> None:
    survived(both, tmp_path, [2])


@pytest.mark.soak
def test_one_rank_160_times(alone: Kills, tmp_path: Path) -> None:
    survived(alone, tmp_path, [4] * 40)


@pytest.mark.soak
def test_two_ranks_40_times(both: Kills, tmp_path: Path) -> None:
    survived(both, tmp_path, [4] * 10)
