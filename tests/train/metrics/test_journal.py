"""journal.py: what is written, what is read back after kills and resumes, and who talks."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from config.errors import DataError
from train.metrics.journal import LONGEST, METRICS, Journal, Pace, read_events


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def talk():
    return io.StringIO()


def journal(folder, talk, **options):
    return Journal(folder, tensorboard=False, talk=talk, **options)


def test_events_are_lines_of_json_written_at_once(tmp_path, talk):
    with journal(tmp_path / "run", talk) as written:
        written.event("start", config="abc", world=2)
        written.event("train", 10, loss=np.float32(0.5), lr=1e-4, parts={"hinge": np.array(0.25)}, of=[1, 2])
        lines = (tmp_path / "run" / METRICS).read_text().splitlines()  # before closing
    first, second = map(json.loads, lines)
    assert list(first) == ["event", "time", "config", "world"]
    assert list(second) == ["event", "step", "time", "loss", "lr", "parts", "of"]
    assert second["parts"] == {"hinge": 0.25}
    assert second["loss"] == 0.5


def test_what_is_not_finite_becomes_null(tmp_path, talk):
    with journal(tmp_path, talk) as written:
        written.event("train", 1, loss=np.nan, grad_norm=np.float64("inf"), each=np.array([1.0, np.nan]))
    event, = read_events(tmp_path / METRICS)
    assert event["loss"] is None
    assert event["grad_norm"] is None
    assert event["each"] == [1.0, None]
    assert "NaN" not in (tmp_path / METRICS).read_text()


def test_a_torn_line_is_dropped_and_cut_off_before_the_next_is_written(tmp_path, talk):
    path = tmp_path / METRICS
    with journal(tmp_path, talk) as written:
        written.event("train", 1, loss=1.0)
    with path.open("a") as file:
        file.write('{"event": "train", "step": 2, "lo')
    assert [event["step"] for event in read_events(path)] == [1]
    with journal(tmp_path, talk) as written:
        written.event("train", 2, loss=0.9)
    assert [event["step"] for event in read_events(path)] == [1, 2]
    assert len(path.read_text().splitlines()) == 2


def test_a_damaged_line_in_between_is_an_error_that_names_it(tmp_path):
    path = tmp_path / METRICS
    path.write_text('{"event": "start"}\n{"event": \n{"event": "done"}\n')
    with pytest.raises(DataError, match="line 2"):
        read_events(path)
    with pytest.raises(DataError, match="no such file"):
        read_events(tmp_path / "absent.jsonl")


def test_a_resume_supersedes_later_events(tmp_path, talk):
    with journal(tmp_path, talk) as written:
        written.event("start", 0)
        for step in (5, 10, 15, 20):
            written.event("train", step, loss=1.0)
        written.event("valid", 10, split="val", r_mean=0.1)
        written.event("valid", 10, split="test", r_mean=0.2)
    with journal(tmp_path, talk) as written:
        written.event("start", 10)
        written.event("note", text="no step, always kept")
        written.event("train", 18, loss=0.5)
        written.event("valid", 10, split="val", r_mean=0.3)
    events = read_events(tmp_path / METRICS)
    assert [event["step"] for event in events if event["event"] == "train"] == [5, 10, 18]
    assert {event["split"]: event["r_mean"] for event in events if event["event"] == "valid"} == \
        {"test": 0.2, "val": 0.3}
    assert [event["event"] for event in events].count("note") == 1


def test_without_a_start_the_last_of_each_step_counts(tmp_path, talk):
    with journal(tmp_path, talk) as written:
        for step, loss in ((1, 1.0), (2, 0.9), (2, 0.8), (3, 0.7)):
            written.event("train", step, loss=loss)
    assert [event["loss"] for event in read_events(tmp_path / METRICS)] == [1.0, 0.8, 0.7]


def test_only_rank_0_writes_but_warnings_of_all_are_kept(tmp_path, talk):
    with journal(tmp_path, talk, rank=3) as written:
        written.event("train", 1, loss=1.0)
        written.say("nothing")
        written.progress(50, 100)
        assert list(tmp_path.iterdir()) == []
        written.warn("image scene_1 is damaged")
    assert [path.name for path in tmp_path.iterdir()] == ["log.rank3.txt"]
    assert "warning: image scene_1 is damaged" in (tmp_path / "log.rank3.txt").read_text()
    assert talk.getvalue() == ""


def test_without_a_folder_it_only_talks(tmp_path, talk, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with journal(None, talk) as written:
        written.event("train", 1, loss=1.0)
        written.warn("a dry run")
    assert "warning: a dry run" in talk.getvalue()
    assert list(tmp_path.iterdir()) == []


def test_progress_lines_come_every_so_many_steps_and_last(tmp_path, talk):
    with journal(tmp_path, talk, every=10) as written:
        for step in range(1, 26):
            written.progress(step, 25, {"loss": 0.25, "lr": 5e-5})
    said = talk.getvalue().splitlines()
    assert [line.split()[2] for line in said] == ["10/25", "20/25", "25/25"]
    assert "loss 0.25  lr 5e-05" in said[0]
    assert "steps/s" in said[0]
    assert "0:00:00 left" in said[-1]
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 3


def test_a_note_stands_in_the_line_before_the_pace(tmp_path, talk):
    with journal(tmp_path, talk, every=2) as written:
        for step in (1, 2):
            written.progress(step, 4, {"loss": 0.5}, f"data {step} %")
    (line,) = talk.getvalue().splitlines()
    assert "step 2/4  loss 0.5  data 2 %  " in line
    assert line.endswith("left")


def test_a_bar_is_drawn_on_a_terminal_only(tmp_path, talk):
    terminal = Terminal()
    for stream in (terminal, talk):
        with journal(tmp_path, stream, every=2) as written:
            for step in range(1, 4):
                written.progress(step, 4, {"loss": 0.5})
            written.say("saved")
    assert "%|" in terminal.getvalue()
    assert "saved" in terminal.getvalue()
    assert "%|" not in talk.getvalue()
    assert "\r" not in talk.getvalue()
    assert (tmp_path / "log.txt").read_text().count("step 2/4") == 2


def test_pace_counts_from_the_resumed_step():
    now = 100.0
    pace = Pace(clock=lambda: now)
    assert pace.line(500, 1000) == "pace not known yet"
    pace.start(500)
    now = 200.0
    pace.start(550)
    assert pace.left_s(550, 1000) == pytest.approx(900)
    assert pace.line(550, 1000) == "0.5 steps/s  0:15:00 left"
    now = 225.0
    assert pace.line(600, 1000) == "2 steps/s  0:08:20 left"


def test_tensorboard_is_a_reader_of_the_events(tmp_path, talk):
    with Journal(tmp_path, talk=talk) as written:
        written.event("start", 0, world=2)
        written.event("train", 1, loss=0.5, note="text is no scalar", of=["a"],
                      ranks={"load_s": [0.5, None, 2], "comm_s": [0.25] * (LONGEST + 1)})
        written.event("valid", 1, recalls={"txt_r1": 0.25})
    file, = (tmp_path / "tb").iterdir()
    content = file.read_bytes()
    for name in (b"train/loss", b"valid/recalls/txt_r1", b"train/ranks/load_s/0", b"train/ranks/load_s/2"):
        assert name in content
    for name in (b"start/world", b"train/note", b"train/of", b"train/ranks/load_s/1", b"train/ranks/comm_s"):
        assert name not in content


def test_the_module_needs_no_torch():
    code = "import sys, train.metrics.journal, train.scoring.recall; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("line", ['{"event": "train", "step": "x"}', '{"event": 3}', '{"event": "train", "step": 1.5}'])
def test_events_of_wrong_types_are_told_with_their_line(line: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"event": "start", "step": 0}\n' + line + "\n")
    with pytest.raises(DataError, match="line 2 is no event; delete this line"):
        read_events(tmp_path / "metrics.jsonl")
