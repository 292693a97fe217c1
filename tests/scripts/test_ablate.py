"""ablate.py: the rows, the table, which runs are which; and a real grid that is killed and goes on."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from config.errors import ConfigError, DataError
from scripts.ablate import main, parse
from scripts.ablation.grid import Column, check_evaluations, columns, make_cell, plan, refuse_mixture, split_words
from scripts.ablation.rows import Row, measured, read_rows, train_seconds, write_rows
from scripts.ablation.supervisor import Supervisor, alone, ending, launcher
from scripts.ablation.table import estimate, find_measure, t_quantile, tables
from tests.processes import started, steps_logged, wait_until
from tests.support import command, config_of, events, run, write_config


def row(config: str = "a", seed: int = 1, ranks: int = 1, hash: str = "0" * 12, **values: float | str) -> Row:
    """`img_r1=0.3` for the split's number, `isda__mean=2.5` for one of another entry."""
    named = {name.replace("__", "/") if "__" in name else f"test/{name}": value for name, value in values.items()}
    return Row(config, seed, hash, 800, ranks, 12.5, (), named)


def grid(folder: Path, *names: str, seeds: tuple[int, ...] = (1,), flags: tuple[str, ...] = (),
         vary: tuple[str, ...] = (), **sections):
    """Cells of configs of these names, which need no stores to be planned."""
    folder.mkdir(exist_ok=True)
    content = config_of((Path("texts.db"), Path("images")), **sections)
    paths = [write_config(folder / f"{name}.json", content) for name in names]
    return plan(columns(paths, vary), seeds, folder / "out", flags)


# ---- rows


def test_every_number_gets_a_slash_name():
    results = {"test": {"recalls": {"img_r1": 0.25, "rsum": 140.0}, "images": 24, "ties": "mean",
                        "checkpoint": "step-3", "left_out": [], "odd": True, "gone": None},
               "isda": {"mean": 2.5, "low": 2.25, "pairs": 30}}
    assert measured(results) == {"test/img_r1": 0.25, "test/rsum": 140.0, "test/images": 24, "test/ties": "mean",
                                 "isda/mean": 2.5, "isda/low": 2.25, "isda/pairs": 30}


def test_rows_come_back_as_written_and_columns_grow(tmp_path):
    rows = [row(img_r1=1 / 3, ties="mean"),
            Row("b", 2, "0" * 12, 6, 2, 0.125, ("--split val", "--x 1"), {"isda/mean": -0.1})]
    write_rows(tmp_path / "runs.csv", rows)
    assert read_rows(tmp_path / "runs.csv") == rows
    heading = (tmp_path / "runs.csv").read_text().splitlines()[0]
    assert heading == "config,seed,hash,num_train_steps,ranks,train_s,evaluate,test/img_r1,test/ties,isda/mean"
    assert [path.name for path in tmp_path.iterdir()] == ["runs.csv"]
    assert read_rows(tmp_path / "other.csv") == []


@pytest.mark.parametrize(("spoil", "told"), [
    (lambda text: text.replace("hash", "hush"), "has no column 'hash'"),
    (lambda text: text.replace("12.5", "quick"), r"runs\.csv:2: not a row of an ablation \(.*'quick'"),
    (lambda text: text.replace("0.25", "high"), "runs.csv:2: not a row"),
    (lambda text: text + "b,1\n", "runs.csv:3: not a row"),
    (lambda text: text.replace("12.5,", "12.5,,,,,,,"), "runs.csv:2: not a row"),
])
def test_a_damaged_table_is_refused(spoil, told, tmp_path):
    write_rows(tmp_path / "runs.csv", [row(img_r1=0.25)])
    (tmp_path / "runs.csv").write_text(spoil((tmp_path / "runs.csv").read_text()))
    with pytest.raises(DataError, match=told):
        read_rows(tmp_path / "runs.csv")


def test_seconds_of_training_leave_out_pauses_and_start_up():
    told = [("start", 100.0), ("train", 103.0), ("saved", 104.0), ("valid", 109.0), ("start", 500.0), ("train", 502.5),
            ("saved", 503.0), ("valid", 900.0)]
    assert train_seconds({"event": kind, "time": at} for kind, at in told) == 3 + 1 + 2.5 + 0.5
    assert train_seconds([]) == 0


# ---- table


@pytest.mark.parametrize(("freedom", "published"), [
    (1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (7, 2.3646), (10, 2.2281), (30, 2.0423), (120, 1.9799)])
def test_quantiles_are_those_of_the_published_tables(freedom, published):
    assert t_quantile(freedom) == pytest.approx(published, abs=6e-5)


def test_an_interval_known_by_hand():
    """Mean 35, deviation 1, three seeds: 4.3027 / sqrt(3)."""
    found = estimate([34, 35, 36])
    assert (found.mean, found.n) == (35, 3)
    assert found.half == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    assert estimate([7.0]).half is None


def test_the_table_and_its_paired_differences():
    """Seeds differ much more than configs: the differences show what the means hide."""
    rows = [row("a", seed, img_r1=level, rsum=100.0, isda__mean=0.5) for seed, level in ((1, 0.2), (2, 0.3), (3, 0.4))]
    rows += [row("b", seed, img_r1=level, rsum=101.0) for seed, level in ((3, 0.41), (1, 0.21), (4, 0.9))]
    lines = tables(rows, ["a", "b"], ["img_r1", "rsum", "isda/mean"], "test").splitlines()
    assert lines[0] == "| config | n | t→i R@1 | rsum | isda/mean |"
    assert lines[2] == "| a | 3 | 30.0 ± 24.8 | 100.0 ± 0.0 | 0.5000 ± 0.0000 |"
    assert lines[3].startswith("| b | 3 | 50.7 ± ")
    assert lines[3].endswith("| - |")
    assert lines[5] == "| minus a | n | t→i R@1 | rsum | isda/mean |"
    assert lines[7] == "| b | 2 | +1.0 ± 0.0 | +1.0 ± 0.0 | - |"
    assert "95 % Student-t" in lines[9]
    assert len(lines) == 10


def test_variants_are_compared_with_the_first_of_their_own_config():
    rows = [row(name, seed, rsum=value + seed) for seed in (1, 2)
            for name, value in (("a+plain", 100.0), ("a+wide", 103.0), ("b+plain", 200.0), ("b+wide", 190.0))]
    lines = tables(rows, ["a+plain", "a+wide", "b+plain", "b+wide"], ["rsum"], "test").splitlines()
    assert [line.split(" | ")[0] for line in lines if "minus" in line] == ["| minus a+plain", "| minus b+plain"]
    assert [line for line in lines if line.startswith("| a+wide")][1] == "| a+wide | 2 | +3.0 ± 0.0 |"
    assert [line for line in lines if line.startswith("| b+wide")][1] == "| b+wide | 2 | -10.0 ± 0.0 |"


def test_one_seed_has_no_interval_and_one_config_no_differences():
    text = tables([row(img_r1=0.3125, img_medr=2.0)], ["a"], ["img_r1", "img_medr", "train_s"], "test")
    assert text.splitlines()[2] == "| a | 1 | 31.2 | 2.000 | 12.50 |"
    assert "minus" not in text


def test_what_is_lacking_is_seen():
    rows = [row("a", 1, img_r1=0.5), row("a", 2, img_r1=0.5, x=1.0), row("b", 3, img_r1=0.25)]
    lines = tables(rows, ["a", "b", "c"], ["img_r1", "x"], "test").splitlines()
    assert lines[2:5] == ["| a | 2 | 50.0 ± 0.0 | 1.000 (n=1) |", "| b | 1 | 25.0 | - |", "| c | 0 | - | - |"]
    assert lines[8:10] == ["| b | 0 | - | - |", "| c | 0 | - | - |"]


def test_titles_and_scales():
    rows = [row(txt_r10=0.5, r_mean=0.5, rsum=3.0, val__img_r5=0.5, isda__pairs=2500.0)]
    assert find_measure("txt_r10", "test", rows).title == "i→t R@10"
    assert find_measure("val/img_r5", "test", rows).title == "val t→i R@5"
    assert find_measure("img_r5", "val", rows).column == "val/img_r5"
    assert [find_measure(name, "test", rows).scale for name in ("r_mean", "rsum", "isda/pairs")] == [100, 1, 1]
    assert [find_measure(name, "test", rows).places for name in ("r_mean", "rsum", "isda/pairs")] == [1, 1, 0]


@pytest.mark.parametrize(("name", "told"), [
    ("img_r2", r"--report img_r2: no run has this number of split 'test'; did you mean img_r1\?"),
    ("sum", "there are train_s, img_r1"),
    ("ties", "no run has this number"),
])
def test_a_measure_that_no_run_has_is_refused(name, told):
    with pytest.raises(ConfigError, match=told):
        tables([row(img_r1=0.5, ties="mean")], ["a"], [name], "test")


def test_runs_that_do_not_compare_are_told_apart():
    rows = [row("a", 1, img_r1=0.5, ties="mean", images=24), row("b", 1, ranks=2, img_r1=0.5, ties="mean", images=20)]
    said = tables(rows, ["a", "b"], ["img_r1"], "test").splitlines()
    assert said[-2:] == ["not comparable, ranks differ: a 1, b 2", "not comparable, images differ: a 24, b 20"]


# ---- which run is which


def test_a_grid_is_every_config_with_every_seed(tmp_path):
    cells = grid(tmp_path, "a", "b", seeds=(1, 2), flags=("--num_train_steps", "80"))
    assert [cell.name for cell in cells] == ["a-seed1", "b-seed1", "a-seed2", "b-seed2"]
    assert [cell.run.seed for cell in cells] == [1, 1, 2, 2]
    assert {cell.run.optim.num_train_steps for cell in cells} == {80}
    assert cells[2].run.hash() != cells[0].run.hash()
    assert cells[0].run.hash() == cells[1].run.hash(), "the same settings under two names"
    assert cells[0].log == tmp_path / "out" / "a-seed1.log"
    assert not (tmp_path / "out").exists()


def test_a_grid_of_variants(tmp_path):
    """A variant's flags come after those of all, and the program follows from the objective that they choose."""
    vary = ("plain", "half: --learning_rate 5e-4 --num_train_steps 70", "items: --objective triplet --margin 0.3")
    cells = grid(tmp_path, "a", "b", flags=("--num_train_steps", "80"), vary=vary)
    assert [cell.name for cell in cells[:3]] == ["a+plain-seed1", "a+half-seed1", "a+items-seed1"]
    assert [cell.key for cell in cells[3:]] == [("b+plain", 1), ("b+half", 1), ("b+items", 1)]
    assert [cell.run.optim.num_train_steps for cell in cells[:3]] == [80, 70, 80]
    assert [cell.run.optim.learning_rate for cell in cells[:2]] == [1e-3, 5e-4]
    assert [cell.program for cell in cells[:3]] == ["train/itm_hn.py", "train/itm_hn.py", "train/itm.py"]


def test_names_that_would_mix_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"both would be called 'a'; copy one to another name"):
        columns([tmp_path / "a.json", tmp_path / "more" / "a.json"], [])
    with pytest.raises(ConfigError, match=r"--configs .*/a\+b\.json: '\+' stands between a config and its variant"):
        columns([tmp_path / "a+b.json"], [])
    with pytest.raises(ConfigError, match="--seeds 1 2 1: a seed stands there twice"):
        plan([Column(tmp_path / "a.json")], [1, 2, 1], tmp_path, [])


@pytest.mark.parametrize(("vary", "told"), [
    (["--margin 0.3"], r"--vary '--margin 0.3': should be 'NAME: FLAGS'"),
    (["a/b: --margin 0.3"], "should be 'NAME: FLAGS', the name of letters"),
    (["wide", "wide: --margin 0.3"], "--vary wide: stands there twice"),
    (["wide: --set 'a"], r"--vary .*: No closing quotation; close it"),
])
def test_variants_that_cannot_be_told_apart_are_refused(vary, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        columns([tmp_path / "a.json"], vary)


def test_variants_leave_to_the_grid_what_is_its_own(tmp_path):
    with pytest.raises(ConfigError, match="--flags or --vary other: --seed is for the grid to say"):
        grid(tmp_path, "a", vary=("other: --seed 3",))


@pytest.mark.parametrize("flag", ["--output_dir=x", "--seed=3", "--config=CONFIG", "--dry_run"])
def test_flags_leave_to_the_grid_what_is_its_own(flag, tmp_path):
    other = write_config(tmp_path / "other.json", config_of((Path("t"), Path("i"))))
    with pytest.raises(ConfigError, match=f"--flags: {flag.partition('=')[0]} is for the grid to say"):
        grid(tmp_path, "a", flags=(flag.replace("CONFIG", str(other)),))
    with pytest.raises(ConfigError, match=f"--evaluate: {flag.partition('=')[0]} is for the grid"):
        check_evaluations(grid(tmp_path, "a"), [[flag.replace("CONFIG", str(other))]])


def test_a_wrong_flag_is_found_before_any_training(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        grid(tmp_path, "a", flags=("--learning_ratte", "1"))
    with pytest.raises(SystemExit, match="2"):
        check_evaluations(grid(tmp_path, "a"), [["--split", "tset"]])
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "ablate.py: --learning_ratte is not a flag: did you mean --learning_rate?"
    assert "'tset'" in said[1]
    assert len(said) == 2
    with pytest.raises(ConfigError, match=r"--flags .*: No closing quotation; close it"):
        split_words("--flags", "--set 'a")


def test_a_grid_that_would_measure_nothing_is_refused(tmp_path):
    cells = grid(tmp_path, "a", data={"test_txt_db": "", "test_img_db": ""})
    with pytest.raises(ConfigError, match="test_txt_db is not set, nothing would be measured"):
        check_evaluations(cells, [])
    check_evaluations(cells, [["--split", "val"]])


def test_a_changed_config_under_the_same_name_is_refused(tmp_path):
    before = grid(tmp_path, "a")[0]
    known = {before.key: row(hash=before.run.hash())}
    refuse_mixture([before], known, 1)
    after = grid(tmp_path, "a", optim={"learning_rate": 2e-3})[0]
    hashes = before.run.hash(), after.run.hash()
    with pytest.raises(ConfigError, match=r"a\.json has now \(run {} then, run {} now\); name".format(*hashes)):
        refuse_mixture([after], known, 1)
    with pytest.raises(ConfigError, match="was trained with --ranks 1, now --ranks 2"):
        refuse_mixture([before], known, 2)


def test_a_half_trained_folder_of_another_run_is_refused(tmp_path):
    before = grid(tmp_path, "a")[0]
    before.folder.mkdir(parents=True)
    (before.folder / "config.json").write_text(json.dumps(before.run.dump()))
    refuse_mixture([before], {}, 2)
    (before.folder / "metrics.jsonl").write_text('{"event": "start", "step": 0, "time": 1.0, "world": 1}\n')
    refuse_mixture([before], {}, 1)
    with pytest.raises(ConfigError, match="with --ranks 1, now --ranks 2"):
        refuse_mixture([before], {}, 2)
    after = grid(tmp_path, "a", optim={"learning_rate": 2e-3}, output={"log_steps": 7})[0]
    with pytest.raises(ConfigError, match=r"has now \(optim\.learning_rate was 0\.001, now 0\.002\); name another"):
        refuse_mixture([after], {}, 1)


def test_other_seeds_of_a_changed_config_are_noticed_too(tmp_path):
    """Seed 1 is there with the config as it was; training seed 2 with what it is now would mix the two."""
    config, out = tmp_path / "a.json", tmp_path / "out"
    before = grid(tmp_path, "a")[0]
    out.mkdir()
    write_rows(out / "runs.csv", [row(hash=before.run.hash())])
    assert make_cell(Column(config), 1, out, []).run.hash() == before.run.hash()
    grid(tmp_path, "a", optim={"learning_rate": 2e-3})
    with pytest.raises(ConfigError, match=r"a-seed1: .* holds a run with other settings"):
        main(["--configs", str(config), "--seeds", "2", "--output_dir", str(out)])


# ---- processes


def test_a_launcher_tells_the_exit_code_of_its_ranks():
    talk = ("[1]<stdout>:hello\n[1]<stderr>:itm_hn: no store\nProcess 1 exit with status code 3.\n[0]<stderr>:lost\n"
            "RuntimeError: ... The first process to do so was:\nProcess name: 1\nExit code: 3\n\n")
    assert ending(1, talk) == (3, "itm_hn: no store")
    assert ending(1, talk.replace("Exit code: 3", "Exit code: 75")).is_stop
    assert ending(2, "began\nitm_hn: no such key\n\n") == (2, "itm_hn: no such key")
    assert ending(0, "") == (0, "")


def test_a_launcher_that_is_not_there_is_refused(tmp_path, monkeypatch):
    assert launcher(1) == []
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match=r"there is no .*horovodrun; install Horovod .* or use --ranks 1"):
        launcher(2)


def test_one_folder_belongs_to_one_ablation(tmp_path):
    with alone(tmp_path / "out"), pytest.raises(ConfigError, match=r"another ablation, .*, is at work here"), \
            alone(tmp_path / "out"):
        pass
    with alone(tmp_path / "out"):
        assert (tmp_path / "out").is_dir()


def test_a_told_supervisor_begins_nothing(tmp_path):
    with alone(tmp_path) as lock:
        supervisor = Supervisor(lock)
        with supervisor.listening():
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(lambda: supervisor.told is not None, 10)
        assert supervisor.call("train/itm_hn.py", [], tmp_path / "log") == (75, "")
    assert not (tmp_path / "log").exists()


def test_several_commands_at_a_time_are_all_told_to_stop(tmp_path, monkeypatch):
    """Two that would run for ever; the first to be told ends, and takes the other with it."""
    monkeypatch.setattr("scripts.ablation.supervisor.ROOT", tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "endless.py").write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(75))\n"
        "print(os.environ['OMP_NUM_THREADS'], flush=True)\n"
        "time.sleep(100)\n")
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    with alone(tmp_path / "out") as lock, ThreadPoolExecutor(2) as pool:
        supervisor = Supervisor(lock, threads=3)
        calls = [pool.submit(supervisor.call, "train/endless.py", [], log) for log in logs]
        wait_until(lambda: all(log.exists() and log.read_text().endswith("\n3\n") for log in logs), 20)
        supervisor.stop(signal.SIGTERM)
        supervisor.stop(signal.SIGINT)
        assert [call.result(20).code for call in calls] == [75, 75]
        assert supervisor.told == signal.SIGTERM, "the first word counts"


# ---- the program


def test_flags_of_other_programs_are_taken_as_texts():
    """Even a single one, which looks like a flag of this program."""
    args = parse(["--table", "--output_dir", "out", "--flags", "--use_apex", "--evaluate", "--split val",
                  "--evaluate", "--isda"])
    assert (args.flags, args.evaluate) == ("--use_apex", ["--split val", "--isda"])


def test_only_the_table(tmp_path, capsys):
    write_rows(tmp_path / "runs.csv", [row("b", 1, rsum=3.0), row("a", 1, rsum=2.0), row("a", 2, rsum=4.0)])
    words = ["--table", "--output_dir", str(tmp_path), "--report", "rsum"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[2:4] == ["| b | 1 | 3.0 |", "| a | 2 | 3.0 ± 12.7 |"]
    assert main([*words, "--configs", "x/a.json", "b.json", "--seeds", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[2:4] == ["| a | 1 | 2.0 |", "| b | 1 | 3.0 |"]
    assert [path.name for path in tmp_path.iterdir()] == ["runs.csv"]
    with pytest.raises(DataError, match="no finished run is there; train without --table first"):
        main(["--table", "--output_dir", str(tmp_path / "other")])


@pytest.mark.parametrize(("words", "told"), [
    ([], "--configs and --seeds are needed to train"),
    (["--table", "--ranks", "0"], "--ranks 0: should be 1 or more"),
    (["--table", "--jobs", "0"], "--jobs 0: should be 1 or more")])
def test_a_wrong_command_line_is_refused(words, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        main([*words, "--output_dir", str(tmp_path)])


def starts(out: Path) -> dict[str, int]:
    """How often the training of each run was started."""
    return {path.name: len(events(path, "start")) for path in sorted(out.iterdir()) if path.is_dir()}


def kill(process) -> None:
    """`kill -9` of a program and all it started."""
    for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        member.kill()
    process.wait(10)


@pytest.mark.slow
def test_a_killed_grid_goes_on_and_repeats_no_finished_run(stores, tmp_path, capsys):
    """Killed in its second run, stopped by a scheduler there, then finished, then evaluated once more."""
    configs = [write_config(tmp_path / f"{name}.json", config_of(stores, optim={"learning_rate": rate}))
               for name, rate in (("a", 1e-3), ("b", 1e-2))]
    out = tmp_path / "out"
    words = ["scripts/ablate.py", "--configs", *configs, "--seeds", "1", "--output_dir", out,
             "--flags", "--num_train_steps 60 --save_steps 10 --valid_steps 60", "--report", "img_r1", "rsum"]
    with started(command(*words), tmp_path / "log") as process:
        wait_until(lambda: steps_logged(out / "b-seed1") >= 15)
        kill(process)
    logged = steps_logged(out / "b-seed1")
    assert [found.key for found in read_rows(out / "runs.csv")] == [("a", 1)]
    with started(command(*words), tmp_path / "log") as process:
        wait_until(lambda: steps_logged(out / "b-seed1") >= logged + 5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    assert "b-seed1: stopped with exit code 75" in (tmp_path / "log").read_text()
    assert events(out / "b-seed1", "start")[-1]["step"] >= 10
    assert not (out / "table.md").exists()
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert starts(out) == {"a-seed1": 1, "b-seed1": 3}
    assert done.stdout == (out / "table.md").read_text()
    rows = read_rows(out / "runs.csv")
    assert [found.key for found in rows] == [("a", 1), ("b", 1)]
    for found in rows:
        folder = out / f"{found.config}-seed{found.seed}"
        assert found.hash == events(folder, "start")[0]["hash"]
        assert dict(found.values) == measured(json.loads((folder / "results.json").read_text()))
        assert 0 < found.train_s < 600
    assert main([*map(str, words[1:]), "--evaluate", "--split val"]) == 0
    assert sum(starts(out).values()) == 4, "only the evaluations were run"
    assert all(found.evaluations == ("--split val",) and "val/rsum" in found.values for found in
               read_rows(out / "runs.csv"))
    assert capsys.readouterr().out == (out / "table.md").read_text()


@pytest.mark.slow
def test_variants_two_at_a_time(stores, tmp_path):
    """Stopped in the middle of two, finished by the same command; rows stand in the order of the grid."""
    config, out = write_config(tmp_path / "a.json", config_of(stores)), tmp_path / "out"
    words = ["scripts/ablate.py", "--configs", config, "--seeds", "1", "--output_dir", out, "--jobs", "2",
             "--vary", "long: --num_train_steps 60", "short", "wide: --margin 0.4", "--report", "rsum",
             "--flags", "--save_steps 5"]
    with started(command(*words), tmp_path / "log") as process:
        wait_until(lambda: steps_logged(out / "a+long-seed1") >= 5 and steps_logged(out / "a+short-seed1") >= 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    done = run(*words)
    assert done.returncode == 0, done.stderr
    rows = read_rows(out / "runs.csv")
    assert [(found.config, found.num_train_steps) for found in rows] == [("a+long", 60), ("a+short", 6), ("a+wide", 6)]
    assert starts(out)["a+long-seed1"] == 2
    assert "| minus a+long | n | rsum |" in done.stdout


@pytest.mark.slow
def test_a_failed_run_does_not_stop_the_others(stores, tmp_path, capsys):
    good = write_config(tmp_path / "good.json", config_of(stores))
    bad = write_config(tmp_path / "bad.json", config_of((tmp_path / "no.db", tmp_path / "no_img")))
    words = ["--configs", bad, good, "--seeds", "1", "--output_dir", tmp_path / "out", "--report", "rsum"]
    assert main([str(word) for word in words]) == 1
    told = capsys.readouterr()
    assert "bad-seed1: train/itm_hn.py failed with exit code 3: itm_hn: there is no text store" in told.err
    assert [found.key for found in read_rows(tmp_path / "out" / "runs.csv")] == [("good", 1)]
    assert told.out.splitlines()[2] == "| bad | 0 | - |"
