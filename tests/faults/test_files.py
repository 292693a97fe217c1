"""Disks that are full or may not be written, and file systems without locks: one line, and nothing good is harmed."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from config.errors import DataError, Failure
from data.stores.image_writer import ImageWriter
from data.stores.lmdb_store import LmdbStore
from data.stores.lmdb_writer import LmdbWriter
from data.stores.text_store import TextStore, TextWriter
from tests.arrays import FLICKR, extracted
from tests.endings import assert_same_end
from tests.faults.disks import disk, read_only, resize, without_rights
from tests.faults.outcomes import CLEAN, REFUSED, RESUMED, files_below
from tests.flow import warm
from tests.support import config_of, write_config

TRAIN, EVALUATE, MINE = "train/itm_hn.py", "train/evaluate.py", "train/mine.py"
STEPS = 6
Stores = tuple[Path, Path]


# ---------------------------------------------------------------- packers


def pack_images(folder: Path) -> str:
    """Pack twelve images, or those that are left of them; how it went."""
    with ImageWriter(folder) as writer:
        writer._writer._commit_every = 4
        begun = len(writer.done())
        for number in range(12):
            if FLICKR.format(number) not in writer.done():
                writer.add(FLICKR.format(number), **extracted(number, width=256))
    return RESUMED if begun else CLEAN


def pack_texts(folder: Path) -> str:
    with TextWriter(folder / "a.db", {"CLS": 1, "SEP": 2, "MASK": 3, "v_range": [4, 9]}) as writer:
        for number in range(300):
            writer.add(str(number), {"input_ids": [4, 5, 6], "img_fname": f"{number}.npz", "raw": "words " * 20})
    return CLEAN


def packed_below(folder: Path) -> Path:
    """The one store below a folder."""
    (found,) = (path.parent for path in folder.rglob("data.mdb"))
    return found


def records_of(folder: Path) -> dict[str, bytes]:
    with closing(LmdbStore(folder)) as store:
        return {key: bytes(store.get(key)) for key in store}


@pytest.mark.parametrize("pack", [pack_images, pack_texts])
def test_a_packer_on_a_full_disk_goes_on_when_there_is_room(pack, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Whatever was the last thing that found room."""
    pack(tmp_path / "whole")
    whole = packed_below(tmp_path / "whole")
    records = records_of(whole)
    size = sum(path.stat().st_size for path in files_below(tmp_path / "whole")) // 1024
    outcomes: Counter[str] = Counter()
    for kilobytes in [*range(4, 30, 4), *range(30, size + 60, max(4, size // 12))]:
        with disk(tmp_path / "disk", kilobytes) as small:
            try:
                outcomes[pack(small)] += 1
            except (Failure, OSError) as refusal:
                error: Exception = refusal
                outcomes[REFUSED] += 1
            if not [path for path in small.rglob("data.mdb") if path.parent.suffix != ".partial"]:
                assert "\n" not in str(error)
                assert isinstance(error, Failure) or getattr(error, "errno", 0) == errno.ENOSPC, error
                resize(small, 4 * size + 400)
                outcomes[pack(small)] += 1
            made = packed_below(small)
            assert records_of(made) == records
            for path in files_below(whole):
                if path.suffix == ".json" and path.name != "seal.json":
                    assert (made / path.name).read_bytes() == path.read_bytes()
    print(pack.__name__, dict(outcomes))
    assert outcomes[REFUSED] > 8


def test_a_packer_may_not_write(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with read_only(tmp_path / "empty", tmp_path / "there") as there:
        with pytest.raises(Failure, match=r"a\.db\.partial cannot be written \(Read-only file system\); free space or"):
            pack_texts(there)
        with pytest.raises(Failure, match=r"partial cannot be written \(Read-only file system\)"):
            pack_images(there)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_packer_without_locks_refuses(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: int) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    for _ in range(2):
        with pytest.raises(DataError, match=r"store\.partial: its file system cannot lock a folder \(no locks here\), "
                                            r"and two packers at once would spoil it; pack on a local disk"):
            LmdbWriter(tmp_path / "store")
    monkeypatch.undo()
    LmdbWriter(tmp_path / "store").finish()


def test_reading_wants_no_lock_and_writes_nothing(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    with read_only(stores[0], tmp_path / "there") as there:
        store = TextStore(there)
        assert [store.tokens(id).tolist() for id in store.ids]
        assert not (there / "lock.mdb").exists()
        store.close()


# ---------------------------------------------------------------- programs


@pytest.fixture(scope="module")
def config(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("config") / "c.json", config_of(
        stores, optim={"num_train_steps": STEPS}, output={"save_steps": 2}, matcher={"hidden_size": 32}))


@pytest.fixture(scope="module")
def trained(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "out"
    done = warm.run(TRAIN, "--config", config, "--output_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def told(done, code: int) -> str:  # type: ignore[no-untyped-def]
    """The last line of a program that ended with this code, and without a traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return str(done.stderr.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [4, 230, 420])
def test_training_on_a_full_disk_goes_on_when_there_is_room(
    kilobytes: int, config: Path, trained: Path, tmp_path: Path
) -> None:
    with disk(tmp_path / "disk", kilobytes) as small:
        words = (TRAIN, "--config", config, "--output_dir", small / "out")
        done = warm.run(*words)
        line = told(done, 2 if "cannot be made" in done.stderr else 1)
        assert "No space left on device" in line, done.stderr
        assert str(small) in line
        print(kilobytes, line)
        resize(small, 20000)
        again = warm.run(*words)
        assert again.returncode == 0, again.stderr
        assert_same_end(small / "out", trained, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(("way", "program", "flags"), [
    ("mount", TRAIN, ("--output_dir", "THERE/new")), ("mount", TRAIN, ("--output_dir", "THERE/out")),
    ("mount", EVALUATE, ("--output_dir", "THERE/out", "--split", "val")),
    ("mount", MINE, ("--output_dir", "THERE/out")),
    ("permission", TRAIN, ("--output_dir", "THERE/out")),
    ("permission", EVALUATE, ("--output_dir", "THERE/out", "--split", "val")),
], ids=["mount-new", "mount-train", "mount-evaluate", "mount-mine", "permission-train", "permission-evaluate"])
def test_a_folder_that_may_not_be_written(
    way: str, program: str, flags: tuple[str, ...], config: Path, trained: Path, tmp_path: Path
) -> None:
    """Nothing there changes."""
    place = tmp_path / "place"
    out = Path(shutil.copytree(trained, place / "out", symlinks=True))
    shutil.rmtree(out / "scores")
    (out / "results.json").unlink()
    before = {path: path.read_bytes() for path in files_below(place)}

    def words(there: Path) -> list[str | Path]:
        return [program, "--config", config, *(flag.replace("THERE", str(there)) for flag in flags)]

    if way == "mount":
        with read_only(place, tmp_path / "there") as there:
            line = told(warm.run(*words(there)), 2)
            assert "Read-only file system" in line
    else:
        for folder in (place, *(path for path in place.rglob("*") if not path.is_symlink())):
            folder.chmod(0o555 if folder.is_dir() else 0o444)
        line = told(without_rights(*words(place)), 2)
        assert "Permission denied" in line
        for folder in (place, *(path for path in place.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
    print(line)
    assert {path: path.read_bytes() for path in files_below(place)} == before


@pytest.mark.slow
def test_stores_and_checkpoints_that_may_only_be_read_are_enough(
    config: Path, stores: Stores, trained: Path, tmp_path: Path
) -> None:
    with read_only(stores[0].parent, tmp_path / "stores") as there, read_only(trained, tmp_path / "run") as run:
        given = config_of((there / stores[0].name, there / stores[1].name), matcher={"hidden_size": 32})
        other = write_config(tmp_path / "c.json", given)
        done = warm.run(EVALUATE, "--config", other, "--output_dir", tmp_path / "out", "--which", run / "ckpt/best")
        assert done.returncode == 0, done.stderr
    found, wanted = (json.loads((folder / "results.json").read_text()) for folder in (tmp_path / "out", trained))
    assert found["test"]["recalls"] == wanted["test"]["recalls"]
