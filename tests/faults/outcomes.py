"""What came of a fault: nothing at all, a refusal in one line, or, which no test lets pass, another result."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from config.errors import ConfigError, DataError, Failure

CLEAN, RESUMED, REFUSED = "clean", "resumed", "refused"
Damage = tuple[str, bytes | None]
"""What was done to a file, and what it is then; None where it is gone."""


def outcome(look: Callable[[], Any], expected: Any) -> str:
    """Whether `look()` still gives what it gave, or refuses; anything else is an error."""
    try:
        found = look()
    except (ConfigError, DataError, Failure) as error:
        told = str(error)
        assert told, "refused without a word"
        assert "\n" not in told, told
        return REFUSED
    assert found == expected, "silently different"
    return CLEAN


def drawn(*keys: object) -> random.Random:
    """Draws of their own for each test run; what they are of is printed, so that a failure can be made again."""
    seed = os.environ.get("FAULTS_SEED") or str(random.SystemRandom().randrange(10**6))
    print(f"FAULTS_SEED={seed}", *keys)
    return random.Random(f"{seed} {keys}")


def damages(content: bytes, flips: int, draw: random.Random) -> Iterator[Damage]:
    """A file gone, cut short, made longer, and with one bit turned in so many of its bytes.

    Half of the bits are turned where something is written, which in most files of pages is little.
    """
    yield "gone", None
    for length in sorted({0, 1, len(content) // 2, max(0, len(content) - 1), draw.randrange(len(content))}):
        yield f"cut to {length} of {len(content)}", content[:length]
    yield "longer", content + b"\0" * 4096
    written = [at for at, byte in enumerate(content) if byte]
    places = [draw.choice(written) if number % 2 else draw.randrange(len(content)) for number in range(flips)]
    for at in range(len(content)) if flips >= len(content) else places:
        bit = draw.randrange(8)
        yield f"bit {bit} of byte {at}", content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


@contextmanager
def damaged(path: Path, content: bytes | None) -> Iterator[None]:
    """A file that is other, or gone, for a while."""
    kept = path.with_name(path.name + ".kept-by-the-test")
    path.rename(kept)
    try:
        if content is not None:
            path.write_bytes(content)
        yield
    finally:
        path.unlink(missing_ok=True)
        kept.rename(path)


def count_outcomes(path: Path, flips: int, look: Callable[[], Any], expected: Any) -> Counter[str]:
    """What comes of every kind of damage to a file; how often each."""
    found: Counter[str] = Counter()
    for what, content in damages(path.read_bytes(), flips, drawn(path.name)):
        with damaged(path, content):
            try:
                found[outcome(look, expected)] += 1
            except BaseException as error:
                error.add_note(f"{path}: {what}")
                raise
    return found


def survives(work: Callable[[], object], place: Path) -> None:
    """Do it in a forked process: a fault may end that one with a signal, which is told like any other error."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback

            place.write_text(traceback.format_exc())
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, (
        place.read_text() if place.exists() else f"ended by signal {os.WTERMSIG(status)}")


def files_below(*folders: Path) -> list[Path]:
    """All files, in order."""
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def copy_of(folder: Path, to: Path) -> Path:
    """The folder once more."""
    return Path(shutil.copytree(folder, to, symlinks=True))
