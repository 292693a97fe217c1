"""Wrong input stops a run before its first batch, with one line and an exit code; a failure harms nothing good.

Each run is a process. Those of tests.flow.warm are spared the import of torch; the first of each exit code, and
whatever a launcher or a shell has a part in, are started as a user would.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.flow import warm
from tests.processes import entry, ranks_below, started, steps_logged, wait_until
from tests.spoiled import copied, spoiled
from tests.support import ROOT, RULE, config_of, environment, events, run, write_config, write_stores

pytestmark = pytest.mark.slow
TRAIN = "train/itm_hn.py"
Stores = tuple[Path, Path]


@pytest.fixture(scope="module")
def config(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("config") / "run.json", config_of(stores))


@pytest.fixture(scope="module")
def trained(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a finished run."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    done = warm.run(TRAIN, "--config", config, "--output_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def refused(config: Path, folder: Path, code: int, *flags: str | Path) -> str:
    """The one line that a run is refused with; nothing is written."""
    there = folder.exists()
    done = warm.run(TRAIN, "--config", config, "--output_dir", folder, *flags)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert folder.exists() == there
    return lines[0]


@pytest.mark.parametrize(("flags", "code", "told"), [
    (("--set", "optim.learnin_rate=1e-4"), 2, r"optim\.learnin_rate .*did you mean optim\.learning_rate"),
    (("--learnin_rate", "1e-4"), 2, r"--learnin_rate is not a flag: did you mean --learning_rate"),
    (("--learning_rate", "-1"), 2, r"optim\.learning_rate = -1\.0 .*greater than 0"),
    (("--mining_batch", "3"), 2, r"train_batch_size 4 is not a multiple of mining_batch 3"),
    (("--matcher", "unitre"), 2, r"no (?i:matcher) 'unitre'"),
    (("--negative_size", "24"), 2, r"negative_size=24: .*lower it to 23 or less"),
    (("--train_batch_size", "50"), 2, r"but there are only 48; lower train_batch_size to 48"),
    (("--img_dim", "12"), 3, r"features are 16 wide but the model takes 12; set matcher\.img_dim=16"),
    (("--vocab_size", "20"), 3, r"vocabulary has 60 entries but the model knows 20"),
    (("--train_img_dbs", "/nowhere/images"), 3, r"/nowhere/images holds no image store"),
    (("--checkpoint", "/nowhere/model.pt"), 3, r"/nowhere/model\.pt: no such checkpoint"),
    (("--resume", "/nowhere/step-1"), 3, r"/nowhere/step-1: no such checkpoint"),
    (("--use_apex",), 2, r"apex is not installed"),
    (("--IAIS", "singluar"), 2, r"objective\.IAIS = 'singluar' .*'singular' or 'distributed'"),
    (("--tsa", "linear"), 2, r"--tsa comes with --IAIS; give that too"),
    (("--IAIS", "singular", "--objective", "infonce"), 2, r"objective\.IAIS \(--IAIS\) is not a known key"),
    (("--IAIS", "singular", "--hn_image_gather_offset", "last_caption"), 2,
     r"objective\.name = iais: needs attention, which matcher uniter with these settings does not offer"),
], ids=lambda value: value[0].lstrip("-") + "_" + value[-1].split("=")[0] if isinstance(value, tuple) else "")
def test_a_wrong_setting(flags: tuple[str, ...], code: int, told: str, config: Path, tmp_path: Path) -> None:
    assert re.search(told, refused(config, tmp_path / "out", code, *flags))


def test_a_misspelt_key_of_a_file_names_the_file(stores: Stores, tmp_path: Path) -> None:
    config = write_config(tmp_path / "mine.json", config_of(stores, optim={"warm_up_steps": 3}))
    line = refused(config, tmp_path / "out", 2)
    assert "warm_up_steps" in line
    assert "mine.json" in line
    assert "warmup_steps" in line


def test_no_output_folder_is_asked_for(config: Path) -> None:
    done = run(TRAIN, "--config", config)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["itm_hn: output_dir is not set; give --output_dir FOLDER"]


def test_a_store_that_is_not_there(config: Path, tmp_path: Path) -> None:
    done = run(TRAIN, "--config", config, "--output_dir", tmp_path / "out", "--train_txt_dbs", "/nowhere/texts.db")
    assert done.returncode == 3
    assert re.fullmatch(r"itm_hn: there is no text store /nowhere/texts\.db.*\n", done.stderr)
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_no_store(stores: Stores, config: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for flag in ("--train_txt_dbs", "--train_img_dbs"):
        assert str(tmp_path / "empty") in refused(config, tmp_path / "out", 3, flag, tmp_path / "empty")


def test_a_store_without_captions(stores: Stores, tmp_path: Path) -> None:
    texts, images = copied(stores, tmp_path)
    for name in ("id2len", "txt2img", "img2txts"):
        (texts / f"{name}.json").write_text("{}")
    config = write_config(tmp_path / "c.json", config_of((texts, images)))
    assert "hold no caption with its image" in refused(config, tmp_path / "out", 3)


def test_an_image_store_without_images(stores: Stores, tmp_path: Path) -> None:
    texts, images = copied(stores, tmp_path)
    for name in images.rglob("nbb_*.json"):
        name.write_text("{}")
    config = write_config(tmp_path / "c.json", config_of((texts, images)))
    assert "has no count of a_000000.npz, which is in the store; copy both" in refused(config, tmp_path / "out", 3)


def test_other_thresholds_say_which_variants_there_are(config: Path, tmp_path: Path) -> None:
    line = refused(config, tmp_path / "out", 3, "--min_bb", "3")
    assert RULE.folder_name("native") in line


def test_a_store_of_another_vocabulary_than_the_models(trained: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.json", config_of(write_stores(tmp_path, vocab_hash="e" * 64)))
    line = refused(config, tmp_path / "out", 3, "--checkpoint", trained / "ckpt/best")
    assert "packed with vocabulary eeeeeeeeeeee, but the model was trained with ffffffffffff" in line


def test_two_training_stores_of_different_vocabularies(stores: Stores, config: Path, tmp_path: Path) -> None:
    other = write_stores(tmp_path, name="b", vocab_hash="e" * 64)
    line = refused(config, tmp_path / "out", 3, "--train_txt_dbs", stores[0], other[0],
                   "--train_img_dbs", stores[1], other[1])
    assert str(stores[0]) in line
    assert str(other[0]) in line
    assert "vocabular" in line


def test_a_caption_without_words(stores: Stores, tmp_path: Path) -> None:
    texts, images = copied(stores, tmp_path)
    lengths = json.loads((texts / "id2len.json").read_text())
    (texts / "id2len.json").write_text(json.dumps(lengths | {"50": 0}))
    line = refused(write_config(tmp_path / "c.json", config_of((texts, images))), tmp_path / "out", 3)
    assert "1 caption without a word (50)" in line


def test_an_image_without_regions(stores: Stores, tmp_path: Path) -> None:
    texts, images = copied(stores, tmp_path)
    path = next(images.rglob("nbb_*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"a_000004.npz": 0}))
    line = refused(write_config(tmp_path / "c.json", config_of((texts, images))), tmp_path / "out", 3)
    assert "a_000004.npz has no region" in line


def test_a_caption_too_long_for_the_model(stores: Stores, config: Path, tmp_path: Path) -> None:
    """Evaluation takes captions of any length, so the model must have a position for each word."""
    line = refused(config, tmp_path / "out", 3, "--max_position_embeddings", "8", "--max_txt_len", "-1")
    assert re.search(r"caption \d+ has 9 ids, .* but the model takes 8; shorten it or .* set matcher\.max_.*s=9", line)


@pytest.mark.parametrize("keep", [0, 7, 400])
def test_a_truncated_checkpoint(keep: int, trained: Path, config: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes((trained / "ckpt/best/model.safetensors").read_bytes()[:keep])
    assert "not a whole checkpoint" in refused(config, tmp_path / "out", 3, "--checkpoint", weights)


def test_a_truncated_state_stops_a_resume(trained: Path, config: Path, tmp_path: Path) -> None:
    """Where each of the checkpoints is damaged; one that is not is used instead, and the others are named."""
    folder = Path(shutil.copytree(trained, tmp_path / "out", symlinks=True))
    states = sorted(folder.glob("ckpt/step-*/state.pt"))
    for state in states:
        os.truncate(state, 200)
    line = refused(config, folder, 3)
    assert len(re.findall(r"step-\d+: state\.pt has 200 bytes, and \d+ were written", line)) == len(states)
    assert "none is whole: name other weights by their path" in line


def test_a_checkpoint_of_another_shape(trained: Path, config: Path, tmp_path: Path) -> None:
    line = refused(config, tmp_path / "out", 3, "--checkpoint", trained / "ckpt/best", "--intermediate_size", "24")
    assert re.search(r"encoder\.layers\.0\.(expand|contract)\.\w+ is \[.*32.*\] but the model wants \[.*24.*\]", line)


def test_a_checkpoint_of_another_matcher_is_not_measured(trained: Path, stores: Stores, tmp_path: Path) -> None:
    """Nor mined with, nor gone on from: names of both happen to fit in part."""
    vsrn = {"name": "vsrn", "vocab_size": 60, "img_dim": 16, "embed_size": 16, "word_dim": 8,
            "caption_weight": 0.0}  # fmt: skip
    other = config_of(stores) | {"matcher": vsrn, "objective": {"name": "triplet"}}
    path, best = write_config(tmp_path / "c.json", other), trained / "ckpt/best"
    for program, flags in (("train/evaluate.py", ("--which", best)), ("train/mine.py", ("--which", best)),
                           ("train/itm.py", ("--resume", best)), ("train/itm.py", ("--checkpoint", best))):
        done = warm.run(program, path, "--output_dir", tmp_path / "out", *flags)
        assert done.returncode == 3, done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert "these are weights of matcher uniter, and this run's is vsrn" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_output_folder_of_another_run(trained: Path, config: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in trained.rglob("*"))
    line = refused(config, trained, 2, "--learning_rate", "2e-3")
    assert "holds a run with other settings (optim.learning_rate was 0.001, now 0.002); name another folder" in line
    assert re.search(r"with --resume \S+/ckpt/step-00000006 to go on from its last checkpoint", line)
    assert sorted((path, path.stat().st_mtime_ns) for path in trained.rglob("*")) == before


def test_an_output_folder_that_cannot_be_written(config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = warm.run(TRAIN, "--config", config, "--output_dir", tmp_path / "file" / "out")
    assert done.returncode in (1, 2)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert str(tmp_path / "file") in done.stderr


@pytest.fixture(scope="module")
def damaged(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """The stores with one damaged image."""
    return spoiled(stores, tmp_path_factory.mktemp("spoiled"))


def tolerant(policy: str, damaged: Stores, folder: Path) -> tuple[str | Path, ...]:
    """The command of a run that meets the damaged image."""
    config = write_config(folder / "c.json", config_of(damaged, data={"damaged": policy, "n_workers": 1}))
    return TRAIN, "--config", config, "--output_dir", folder / "out"


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_damaged_record_fails(ranks: int, damaged: Stores, tmp_path: Path) -> None:
    words = tolerant("fail", damaged, tmp_path)
    done = warm.run(*words) if ranks == 1 else run(*words, ranks=ranks)
    assert done.returncode == (3 if ranks == 1 else 1), done.stderr
    assert "a_000005.npz is damaged" in done.stderr
    ours = done.stderr if ranks == 1 else "".join(re.findall(r"^\[\d\]<stderr>:(.*)", done.stderr, re.M))
    assert "Traceback" not in ours


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("policy", ["skip", "quarantine"])
def test_a_damaged_record_is_left_out(policy: str, ranks: int, damaged: Stores, tmp_path: Path) -> None:
    done = warm.run(*tolerant(policy, damaged, tmp_path), ranks=ranks)
    listed = tmp_path / "out" / "quarantine.txt"
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["test"]["images"] == 23
    assert results["test"]["left_out"] == ["a_000005.npz"]
    assert listed.exists() == (policy == "quarantine")
    assert policy != "quarantine" or listed.read_text() == "a_000005.npz\n"


def test_more_ranks_than_anchors(config: Path, tmp_path: Path) -> None:
    done = run(TRAIN, "--config", config, "--output_dir", tmp_path / "out", "--train_batch_size", "30", ranks=2)
    assert done.returncode == 1
    assert "wants 60 anchors an update, but there are only 48; lower train_batch_size to 24 or -np to 1" in done.stderr
    assert "Exit code: 2" in done.stderr
    assert not (tmp_path / "out").exists()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 420 KB at `folder`."""
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=420K", "tmpfs", folder],
                                           capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_while_saving(stores: Stores, tmp_path: Path) -> None:
    """A checkpoint takes about 270 KB: the first one fits, the second does not."""
    sections = {"matcher": {"hidden_size": 32, "intermediate_size": 64}, "optim": {"num_train_steps": 9},
                "data": {"val_txt_db": "", "val_img_db": "", "test_txt_db": "", "test_img_db": ""}}
    config = write_config(tmp_path / "c.json", config_of(stores, **sections))
    with small_disk(tmp_path / "disk") as disk:
        out = disk / "out"
        done = warm.run(TRAIN, "--config", config, "--output_dir", out)
        assert done.returncode == 1, done.stderr
        line = done.stderr.splitlines()[-1]
        assert re.search(r"itm_hn: .*step-0000000\d: could not be saved \(.*\); free space and start again", line)
        assert "No space left" in line
        left = sorted(path.name for path in (out / "ckpt").iterdir())
        assert left == ["latest", "step-00000003"], "the half-written one is gone, the one before is whole"
        subprocess.run(["mount", "-o", "remount,size=8M", disk], check=True)
        again = warm.run(TRAIN, "--config", config, "--output_dir", out)
        assert again.returncode == 0, again.stderr
        assert events(out, "start")[-1]["step"] == 3


@pytest.mark.parametrize("kind", ["model.safetensors", "state.pt"])
def test_a_file_size_limit_while_saving(kind: str, stores: Stores, tmp_path: Path) -> None:
    """Without root: the kernel refuses to let a file grow; first the weights, then the optimizer's state."""
    config = write_config(tmp_path / "c.json", config_of(stores))
    blocks = 24 if kind == "model.safetensors" else 48
    words = ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "-", *entry(TRAIN, "--config", config, "--output_dir",
                                                                       tmp_path / "out")]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert re.search(r"itm_hn: .*step-00000003: could not be saved \(.*\); free space", done.stderr.splitlines()[-1])
    assert list((tmp_path / "out" / "ckpt").iterdir()) == []


@pytest.mark.parametrize(("launcher", "victim"), [("horovodrun", 0), ("torchrun", 1)])
def test_a_rank_that_dies_is_named_by_the_others(launcher: str, victim: int, stores: Stores, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.json", config_of(stores, optim={"num_train_steps": 100000},
                                                         eval={"valid_steps": 100000}, data={"n_workers": 1}))
    words = entry(TRAIN, "--config", config, "--output_dir", tmp_path / "out", ranks=2, launcher=launcher)
    with started(words, tmp_path / "log") as process:
        wait_until(lambda: steps_logged(tmp_path / "out") >= 3)
        ranks = ranks_below(process)
        assert ranks.keys() == {0, 1}
        family = [*ranks.values(), *(child for rank in ranks.values() for child in rank.children())]
        pid, start = ranks[victim].pid, time.monotonic()
        ranks[victim].send_signal(signal.SIGKILL)
        assert process.wait(60) != 0
        wait_until(lambda: not any(member.is_running() for member in family), 60 - (time.monotonic() - start))
    log = (tmp_path / "log").read_text()
    line = next(line for line in log.splitlines() if "lost rank" in line)
    said = rf"itm_hn, rank {1 - victim}: lost rank {victim} \(host \S+, process {pid}\), last seen at step "
    assert re.search(said, line)
    assert line.endswith("; what is saved is whole; start again with the same command"), log[-3000:]
    assert log.count("lost rank") == 1


def test_a_rank_that_dies_in_a_validation_is_named_too(stores: Stores, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.json", config_of(
        stores, optim={"num_train_steps": 100000, "warmup_steps": 1}, eval={"valid_steps": 1, "tokens_per_block": 64}))
    words = entry(TRAIN, "--config", config, "--output_dir", tmp_path / "out", ranks=2)
    with started(words, tmp_path / "log") as process:
        parts = tmp_path / "out/scores/val/parts"
        wait_until(lambda: steps_logged(tmp_path / "out") >= 1 and parts.exists() and any(parts.rglob("*.npy")))
        ranks_below(process)[1].send_signal(signal.SIGKILL)
        assert process.wait(60) != 0
    assert "itm_hn, rank 0: lost rank 1 (host" in (tmp_path / "log").read_text()


def test_a_reading_worker_that_dies_is_named(stores: Stores, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.json", config_of(stores, optim={"num_train_steps": 100000},
                                                         eval={"valid_steps": 100000}, data={"n_workers": 2}))
    words = (TRAIN, "--config", config, "--output_dir", tmp_path / "out")
    with warm.started(words, tmp_path / "log") as process:
        wait_until(lambda: steps_logged(tmp_path / "out") >= 3)
        psutil.Process(process.pid).children()[1].kill()
        assert process.wait(30) == 1
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last == "itm_hn: a reading worker died (exit code -9); is memory short?"


def test_a_dry_run_opens_all_stores(stores: Stores, tmp_path: Path) -> None:
    other = write_stores(tmp_path, name="b")
    config = write_config(tmp_path / "c.json", config_of(stores, data={"val_txt_db": str(other[0])}))
    assert "holds no 'b_000000.npz'" in refused(config, tmp_path / "out", 3, "--dry_run")
