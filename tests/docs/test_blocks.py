"""The reader of blocks, and that it notices what it is there to notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import Block, blocks_of, lines_of
from tests.docs.commands import problems

PAGE = """
Text.

<!-- needs: 8 GPUs -->

```bash
# a comment
python scripts/report.py run \\
    --pictures here
```

<!-- file: a.json -->
```json
{}
```

- a list

  ```console
  $ make help
  demo    an output
  ```
"""


def of(command: str, before: str = "") -> str:
    return f"{before}\n```bash\n{command}\n```\n"


def test_blocks_carry_what_the_comment_before_them_says() -> None:
    first, second, third = blocks_of(PAGE, "p.md")
    assert (first.needs, first.file, first.line, first.language) == ("8 GPUs", "", 7, "bash")
    assert (second.needs, second.file, second.text) == ("", "a.json", "{}")
    assert third == Block("p.md", 20, "console", "$ make help\ndemo    an output")


def test_a_comment_says_nothing_of_a_block_after_other_text() -> None:
    block, = blocks_of("<!-- needs: a GPU -->\nMore words.\n```bash\nmake test\n```", "p.md")
    assert block.needs == ""


def test_continued_lines_are_one_and_outputs_are_none() -> None:
    first, _, third = blocks_of(PAGE, "p.md")
    line, = lines_of(first)
    assert line.text.split() == ["python", "scripts/report.py", "run", "--pictures", "here"]
    assert line.where == "p.md:8"
    assert [line.text for line in lines_of(third)] == ["make help"]


@pytest.mark.parametrize("command", [
    "make demo",
    "make bench jobs=2",
    "python scripts/report.py run --examples 3",
    "python train/itm_hn.py --config config/demo-uniter.json --learning_rate 3e-5 --output_dir run",
    "horovodrun -np 8 python train/itm.py --config config/vsrn-f30k.json --output_dir /storage/vsrn",
    "torchrun --nproc_per_node 2 train/itm.py --config config/vsrn-f30k.json",
    "python scripts/launch.py -np 8 --min-np 4 python train/mine.py --config config/vsrn-f30k.json --shortlist 500",
    "SCENES=elsewhere python train/itm.py --config config/demo-vsrn.json",
    "export SCENES=there && python train/itm.py --config config/demo-vsrn.json --train_txt_dbs $SCENES/a.db",
    "python scripts/slurm/submit.py --ranks 8 evaluate --config config/vsrn-f30k.json --split val",
    "./launch_container.sh a b c d python train/itm.py --config config/vsrn-f30k.json",
    "bash scripts/demo.sh",
])  # fmt: skip
def test_a_right_command_is_let_through(command: str, tmp_path: Path) -> None:
    assert problems(of(command), "p.md", tmp_path) == []


@pytest.mark.parametrize(("command", "why"), [
    ("make tea", "no such target"),
    ("python scripts/reports.py run", "no such program"),
    ("pyhton scripts/report.py run", "no such program"),
    ("python scripts/report.py run --picture_folder here", "--picture_folder is not a flag"),
    ("python train/itm_hn.py --config config/demo-uniter.json --learning_speed 3e-5", "--learning_speed is not a flag"),
    ("python train/itm_hn.py --config config/demo-uniter.json --learning_rate fast", "learning_rate"),
    ("python train/itm_hn.py --config config/demo-unite.json", "there is no such config file"),
    ("python train/evaluate.py --config /storage/run1/config.json", "there is no such config file"),
    ("python train/evaluate.py --config config/demo-uniter.json --split training", "invalid choice"),
    ("horovodrun -np 8 python train/itm.py --config config/vsrn-f30k.json --bach 3", "--bach is not a flag"),
    ("horovodrun --ranks 8 python train/itm.py", "-np"),
    ("python scripts/slurm/submit.py --ranks 8 evaluate --splits val", "--splits is not a flag"),
    ("python scripts/slurm/submit.py --rank 8 evaluate", "invalid choice"),
    ("python scripts/slurm/submit.py --ranks 8 array runs.txt", "show its content"),
    ("./launch_container.sh a b c d python train/item.py", "no such program"),
    ("docker build -t crossmatch .", "say what it needs"),
    ("bash scripts/image_test.sh", "no test runs it"),
    ("pytest tests/nothing", "does not exist"),
    ("python train/itm.py --config $CONFIG", "was not set before"),
])  # fmt: skip
def test_a_stale_command_is_noticed(command: str, why: str, tmp_path: Path) -> None:
    found = problems(of("make test\n" + command), "p.md", tmp_path)
    assert len(found) == 1, found
    assert found[0].startswith("p.md:4: ")
    assert why in found[0]


def test_a_mark_does_not_excuse_a_stale_flag(tmp_path: Path) -> None:
    command = of("horovodrun -np 8 python train/itm.py --bach 3", "<!-- needs: 8 GPUs -->")
    assert len(problems(command, "p.md", tmp_path)) == 1


def test_the_config_of_an_earlier_command_is_known(tmp_path: Path) -> None:
    text = of("python train/itm.py --config config/vsrn-f30k.json --output_dir /storage/vsrn\n"
              "python train/evaluate.py --config /storage/vsrn/config.json --split val")
    assert problems(text, "p.md", tmp_path) == []


def test_files_that_a_page_shows_are_there(tmp_path: Path) -> None:
    runs = "<!-- file: runs.txt -->\n```text\ntrain/itm.py --config config/vsrn-f30k.json --output_dir a\n```\n"
    job = of("python scripts/slurm/submit.py --ranks 8 array runs.txt")
    assert problems(runs + job, "p.md", tmp_path) == []
    assert len(problems(runs.replace("--output_dir", "--output") + job, "p.md", tmp_path)) == 1


def test_a_block_without_a_language_is_noticed(tmp_path: Path) -> None:
    assert len(problems("```\nmake demo\n```\n", "p.md", tmp_path)) == 1


SIXTH = """
<!-- file: model/objective/sixth.py -->
```python
from typing import Literal

from config.sections import Named
from model.objective import Objective


class Config(Named):
    name: Literal["sixth"] = "sixth"
    sharpness: float = 2.0


class Sixth(Objective):
    settings = Config

    def __call__(self, out, batch, progress):
        return {}
```

<!-- file: config/sixth.json -->
```json
{"extends": "smoke-vsrn.json", "objective": {"name": "sixth"}}
```
"""


def test_a_system_that_a_page_writes_is_known_on_that_page_alone(tmp_path: Path) -> None:
    for number, flag in enumerate(("--sharpness 3", "--sharp 3")):
        folder = tmp_path / str(number)
        folder.mkdir()
        text = SIXTH + of(f"python train/itm.py --config config/sixth.json {flag} --output_dir run")
        assert len(problems(text, "p.md", folder)) == number
    found = problems(of("python train/itm.py --config config/smoke-vsrn.json --objective sixth"), "p.md", tmp_path)
    assert "sixth" in found[0]
