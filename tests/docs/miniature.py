"""The commands of a page, run in miniature: in a copy of the project, on drawn scenes, for two updates."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.manual.programs import LAUNCHER
from tests.docs.blocks import SHELL, Block, blocks_of, lines_of
from tests.docs.commands import HARMLESS, Shell, Stale, write
from tests.docs.stand_ins import stand_ins
from tests.flow.child import become
from tests.flow.warm import server
from tests.support import ROOT, environment

FLOORS = ("config", "data", "model", "train", "scripts")
TRAINING = ("--warmup_steps 0", "--decay_steps 2", "--num_train_steps 2", "--valid_steps 2", "--n_workers 0")
SMALL: dict[str, tuple[str, ...]] = {
    "train/itm.py": TRAINING,
    "train/itm_hn.py": TRAINING,
    "train/mine.py": ("--texts_per_image 50", "--images_per_text 10", "--n_workers 0"),
    "train/evaluate.py": ("--n_workers 0",),
    **{f"scripts/{name}.py": ("--workers 1",) for name in ("build_imgdb", "build_txtdb", "check_db")},
}
"""What makes a program small; it is said after the page's own words, so that it counts, where it is not refused."""
TIMEOUT_S = 120.0


class Place:
    """A copy of the project where the commands of one page run, with stand-ins for what a reader brings along."""

    def __init__(self, folder: Path, drawn: Path) -> None:
        self.folder, self.stand_ins = folder, stand_ins(drawn / "scenes")
        for floor in FLOORS:
            shutil.copytree(ROOT / floor, folder / floor, ignore=shutil.ignore_patterns("__pycache__"))
        self.shell = Shell(folder, keeps_configs=False)
        self.shell.variables |= {"SCENES": str(drawn / "scenes"), "OFFLINE": str(drawn / "round_one/offline")}

    def follow(self, text: str, page: str) -> Iterator[str]:
        """Do what a page says, block by block; yield what went wrong, as `page:line: what`."""
        for block in blocks_of(text, page):
            if block.file:
                write(block, self.folder)
            elif block.language == "python" and not block.needs:
                (self.folder / "block.py").write_text(block.text)
                yield from self.run(["block.py"], f"{page}:{block.line}")
            elif block.language in SHELL and not block.needs:
                yield from self.do(block)

    def do(self, block: Block) -> Iterator[str]:
        """Run the commands of a block."""
        for line in lines_of(block):
            for words in self.shell.commands(line.text):
                name = words[0].removeprefix(".venv/bin/")
                if name in HARMLESS - {"export"}:
                    subprocess.run(words, cwd=self.folder, check=True, capture_output=True)
                    continue
                if name == "horovodrun":
                    name, *words = self.shell.launched(name, words[1:])
                    words = [name, *words]
                if Path(name).name.startswith("python"):
                    yield from self.run(words[1:], line.where)

    def run(self, words: Sequence[str], where: str) -> Iterator[str]:
        """Run a program of the project, alone and small; yield its last words where it fails."""
        program, *rest = words
        if program == LAUNCHER:
            program, *rest = self.shell.launched(LAUNCHER, rest)[1:]
        for word in rest:
            self.bring(word)
        if program == "scripts/make_scenes.py":
            return  # drawn once for all pages
        said = self.folder / "said"
        said.unlink(missing_ok=True)
        given = [program, *rest, *self.small(program, rest)], str(self.folder), environment() | self.shell.variables
        process = server.Process(target=become, args=(*given, str(said), str(said)))
        process.start()
        process.join(TIMEOUT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode != 0:
            yield f"{where}: {' '.join(words)} ends with {process.exitcode}: {said.read_text()[-800:]}"

    def bring(self, word: str) -> None:
        """Make the file or folder that a word of a command names, where a reader would have it already."""
        for name, make in self.stand_ins.items():
            at = self.folder / name
            if (word.rstrip("/") == name or word.startswith(f"{name}/")) and not at.exists():
                at.parent.mkdir(parents=True, exist_ok=True)
                make(at)

    def small(self, program: str, words: Sequence[str]) -> list[str]:
        """What makes a program small where it is called so: its parser refuses what would have no effect."""
        kept: list[str] = []
        for said in SMALL.get(program, ()):
            try:
                self.shell.check_program([program, *words, *kept, *said.split()], "")
            except Stale:
                continue
            kept += said.split()
        return kept
