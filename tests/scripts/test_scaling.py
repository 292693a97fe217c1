"""The scaling model: what is counted, what is fitted, what is projected; no test looks at a time."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from config.errors import ConfigError, DataError, Failure
from scripts import scaling
from scripts.command.parallel import cores
from scripts.scaling_model import measuring, rank, tables
from scripts.scaling_model.counting import Counted, Pretended, Sent
from scripts.scaling_model.fitting import FUSED, Fit, Point, Traffic, fitted, not_negative, on_ring
from scripts.scaling_model.measuring import on_ranks, others, plan, summary
from scripts.scaling_model.picture import drawn
from scripts.scaling_model.projecting import Gpu, Links, project
from scripts.scaling_model.sizing import FEW, Law, Work, hard_negatives, in_batch, laws_of, power
from scripts.scaling_model.stepping import Update, made_updates
from scripts.scaling_model.workloads import Workload, lifelike_stores, small_uniter, small_vsrn
from tests.ranks import on_ranks as on_threads
from tests.support import run
from train.distributed.comm import Comm

VOCAB, WIDTH = 200, 8
Stores = tuple[Path, Path]


@pytest.fixture(scope="module")
def made_stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return lifelike_stores(tmp_path_factory.mktemp("lifelike"), WIDTH, VOCAB, 24)


def sent_of(load: Workload, stores: Stores, comm: Comm, folder: Path) -> list[Sent]:
    return made_updates(load.run(stores), comm, 1, folder)[-1].sent


class TestCounting:
    def test_kinds_bytes_and_who_is_waited_for(self) -> None:
        comm = Counted(Pretended(0, 2))
        first = comm.mean_async_(torch.zeros(3), "first")
        second = comm.mean_async_(torch.zeros(2, dtype=torch.float16), "second")
        first()
        second()
        comm.mean(torch.zeros(5), "mean")
        comm.gather(torch.zeros(2, 2), "rows")
        comm.broadcast_(torch.zeros(1), "start")
        assert comm.taken() == [
            Sent("mean", "first", 12, False), Sent("mean", "second", 4, False), Sent("mean", "mean", 20, True),
            Sent("gather", "rows", 16, True), Sent("broadcast", "start", 4, True),
        ]  # fmt: skip
        assert comm.taken() == []

    def test_one_that_is_started_last_but_waited_for_after_others_is_not_alone(self) -> None:
        comm = Counted(Pretended(0, 2))
        waits = [comm.mean_async_(torch.zeros(1), name) for name in ("gradient", "stop")]
        for wait in waits:
            wait()
        assert [one.alone for one in comm.taken()] == [False, False]

    def test_a_pretended_rank_has_what_all_would_send(self) -> None:
        comm = Pretended(1, 3)
        assert comm.gather(torch.tensor([4, 5]), "rows").tolist() == [4, 5] * 3
        assert comm.mean(torch.tensor([2.0]), "mean").tolist() == [2.0]
        assert comm.all_gather_object({"a": 1}) == [{"a": 1}] * 3

    @pytest.mark.parametrize("small", [small_uniter, small_vsrn])
    def test_a_pretended_rank_sends_what_a_real_one_does(
        self, small, made_stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(signal, "signal", lambda *_: signal.SIG_DFL)  # only a main thread may answer signals
        load = small(8, 2, VOCAB, WIDTH)
        real = on_threads(2, lambda comm: sent_of(load, made_stores, comm, tmp_path))
        assert real[0] == real[1] == sent_of(load, made_stores, Pretended(0, 2), tmp_path)

    def test_pools_send_gradients_only_and_a_batch_waits_for_norms_and_gathers(
        self, made_stores: Stores, tmp_path: Path
    ) -> None:
        pools = sent_of(small_uniter(8, 2, VOCAB, WIDTH), made_stores, Pretended(0, 2), tmp_path)
        assert not any(one.alone for one in pools)
        assert {one.name.split(".")[0] for one in pools} == {"gradient", "stop"}
        batch = sent_of(small_vsrn(8, 2, VOCAB, WIDTH), made_stores, Pretended(0, 2), tmp_path)
        norms = [one for one in batch if one.name.startswith("norm.")]
        # Five norms, sums and variances, forward and backward.
        assert len(norms) == 20
        assert {one.size for one in norms} == {4 * 8, 4 * 9}
        gathers = {one.name: one.size for one in batch if one.kind == "gather"}
        assert gathers["texts.pooled"] == 4 * 2 * 8
        assert gathers["scores"] == 4 * 2 * 4

    def test_gradients_are_those_of_the_parameters(self, made_stores: Stores, tmp_path: Path) -> None:
        whole, half = (
            sent_of(replace(load, settings=load.settings | {"optim.compression": kind}), made_stores, Pretended(0, 2),
                    tmp_path)
            for load, kind in ((small_vsrn(8, 2, VOCAB, WIDTH), kind) for kind in ("none", "fp16"))
        )  # fmt: skip
        bytes_of = [sum(one.size for one in sent if one.name.startswith("gradient.")) for sent in (whole, half)]
        assert bytes_of[0] == 2 * bytes_of[1] > 0

    def test_updates_are_made_one_by_one_and_nothing_is_written(self, made_stores: Stores, tmp_path: Path) -> None:
        calls: list[int] = []
        load = small_uniter(8, 1, VOCAB, WIDTH)
        made = made_updates(load.run(made_stores), Pretended(0, 1), 3, tmp_path / "none", calls.append)
        assert calls == [0, 1, 2]
        assert len(made) == 3
        assert all(update.seconds > 0 for update in made)
        assert {update.passes for update in made} == {2}
        assert list(tmp_path.iterdir()) == []


class TestSizing:
    def test_a_law_grows_with_powers(self) -> None:
        law = Law(Sent("gather", "scores", 32, True), 2, 1)
        assert law.at(FEW, 2).size == 32
        assert law.at(3 * FEW, 8).size == 32 * 9 * 4

    def test_laws_foretell_what_is_counted(self, tmp_path: Path) -> None:
        work = in_batch(tmp_path, 6, "none", quick=True)
        settings = {f"matcher.{name}": value for name, value in
                    {"embed_size": 16, "word_dim": 8, "dim_hidden": 8, "dim_word": 8, "img_dim": 32}.items()}
        stores = lifelike_stores(tmp_path / "more", 32, 4000, 24)
        load = Workload("", "vsrn-f30k.json", settings, 6)
        made = made_updates(load.run(stores), Pretended(0, 3), 1, tmp_path, count=True)[-1]
        assert work.sent(3) == made.sent
        assert work.operations + 2 * work.with_others == pytest.approx(made.operations)

    def test_the_published_update_has_sixteen_passes_and_its_arithmetic(self, tmp_path: Path) -> None:
        work = hard_negatives(tmp_path, "none", quick=True)
        assert work.items == 8
        assert work.half
        assert 50e12 < work.operations < 90e12
        # Training takes a fifth of it (3 x 32 of 400 + 3 x 32), its backward two thirds, a sixteenth the last pass.
        assert work.last_backward == pytest.approx(2 / 3 * 96 / 496 / 16, rel=0.01)

    def test_what_grows_otherwise_is_refused(self) -> None:
        with pytest.raises(ValueError, match="x: 8 bytes became 12"):
            power(Sent("mean", "x", 8, True), Sent("mean", "x", 12, True))
        updates = [Update(1.0, [Sent("mean", name, 8, True)], 0, 1) for name in ("x", "x", "y")]
        with pytest.raises(ValueError, match="other tensors"):
            laws_of(updates)


SENT = [Sent("mean", "sums", 1000, True), Sent("gather", "rows", 100, True), Sent("mean", "gradient", 3 * FUSED, False)]


class TestFitting:
    def test_traffic_adds_up_what_goes_around_the_ring(self) -> None:
        traffic = Traffic.of(SENT, 4)
        assert (traffic.waits, traffic.fused, traffic.rounds, traffic.tensors) == (2, 3, 5, 3)
        assert traffic.alone == 1500 + 300
        assert traffic.behind == 1.5 * 3 * FUSED
        assert traffic.largest == 400
        assert Traffic.of(SENT, 1) == Traffic(1, 0, 0, 0, 0.0, 0.0, 0.0)
        assert on_ring(Sent("broadcast", "x", 7, True), 4) == 7

    def test_known_constants_are_found(self) -> None:
        points = synthetic(np.random.default_rng(0))
        fit = fitted(points, cores=2)
        assert (fit.stretch, fit.held) == pytest.approx((1.05, 0.3))
        assert fit.rounds_s == pytest.approx({2: 2e-3, 4: 5e-3})
        assert fit.byte_s == pytest.approx(3e-9)
        assert fit.tensor_s == pytest.approx(1e-4)
        assert fit.largest == pytest.approx(0, abs=1e-6)
        assert max(map(abs, fit.left_out)) == pytest.approx(0, abs=1e-6)

    def test_a_noisy_point_shows_in_the_error_and_more_where_it_is_left_out(self) -> None:
        points = synthetic(np.random.default_rng(0))
        points[9] = replace(points[9], seconds=1.5 * points[9].seconds)
        fit = fitted(points, cores=2)
        assert np.argmax(np.abs(fit.errors)) == 9
        assert fit.largest == abs(fit.errors[9]) > 0.1
        assert abs(fit.left_out[9]) > abs(fit.errors[9])

    def test_a_rank_alone_is_off_by_what_its_turns_differ(self) -> None:
        points = synthetic(np.random.default_rng(0))
        points[0] = replace(points[0], silent=1.2 * points[0].seconds)
        fit = fitted(points, cores=2)
        assert fit.errors[0] == fit.left_out[0] == pytest.approx(0.2)
        assert fit.stretch == pytest.approx(1.05)

    def test_no_constant_is_negative(self) -> None:
        assert not_negative(np.array([[1.0, 1.0], [1.0, 2.0]]), np.array([2.0, 1.0])) == pytest.approx([1.5, 0.0])
        assert not_negative(np.array([[1.0]]), np.array([-1.0])).tolist() == [0.0]

    def test_too_few_points_are_refused(self) -> None:
        points = synthetic(np.random.default_rng(0))
        with pytest.raises(ValueError, match="6 points do not tell 6 constants apart"):
            fitted(points[:9] + points[12:15], cores=2)


def synthetic(rng: np.random.Generator) -> list[Point]:
    """Points of the model itself: 1, 2 and 4 ranks on two cores, six sizes."""
    points = []
    for ranks in (1, 2, 4):
        for number in range(6):
            silent = float(rng.uniform(0.02, 0.2)) * max(1, ranks / 2)
            sent = [Sent("mean", "x", int(rng.integers(100, 10_000)), True) for _ in range(5 * number)]
            sent += [Sent("mean", "g", int(rng.integers(1e5, 1e6)), False) for _ in range(int(rng.integers(10, 90)))]
            traffic = Traffic.of(sent, ranks)
            turns = max(1, ranks / 2)
            stretch = 1.05 + 0.3 * (traffic.waits > 0) if ranks > 1 else 1
            seconds = silent * stretch + {1: 0, 2: 2e-3, 4: 5e-3}[ranks] * traffic.rounds
            seconds += 3e-9 * turns * (traffic.alone + traffic.behind) + 1e-4 * turns * traffic.tensors
            points.append(Point(f"{number}, {ranks}", seconds, silent, traffic))
    return points


def summary_of(seconds: list[float], busy: list[float]) -> tuple[float, float, float]:
    """Seconds with and without talking, and the share of others, of one rank that is busy for half a second a turn."""
    stock = [[9.0 * turn + end, 0.5 * end, 20.0 * turn + end * taken]
             for turn, taken in enumerate(busy) for end in (0.0, 1.0)]
    found = {"seconds": [[one, one] for one in seconds], "stock": stock, "sent": [vars(SENT[0])]}
    point, share = summary(small_uniter(8, 1, VOCAB, WIDTH), [found])
    assert point.name == "pools 8 x 1, 1 rank"
    return point.seconds, point.silent, share


class TestMeasuring:
    def test_the_quieter_half_of_the_turns_counts(self) -> None:
        """Every other turn talks; in the slow ones others took the machine."""
        assert summary_of([5.0, 5.0, 5.0, 5.0, 1.0, 2.0, 1.0, 2.0, 1.0], 4 * [2.0] + 5 * [0.5]) == (2.0, 1.0, 0.0)

    def test_a_drift_of_the_machine_cancels(self) -> None:
        assert summary_of([1.0, 3.0, 2.0, 5.0, 3.0, 7.0, 4.0], [0.5] * 7) == (5.0, 2.5, 0.0)

    def test_what_others_took_is_what_no_rank_did(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(measuring, "cores", lambda: 2)
        stock = np.array([[[0, 0, 0], [1, 0.5, 1.8]], [[0, 0, 0], [1, 0.7, 1.8]]], float)
        assert others(stock) == pytest.approx([(1.8 - 1.2) / 2])

    def test_it_waits_for_a_quiet_moment_but_not_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = 0.0

        def sleep(seconds: float) -> None:
            nonlocal clock
            clock += seconds

        def busy_until(end: float) -> None:
            monkeypatch.setattr(rank, "taken", lambda: (clock, 0.0, cores() * min(clock, end)))

        monkeypatch.setattr(rank.time, "sleep", sleep)
        quiet = rank.Quiet(10.0)
        busy_until(3.0)
        quiet.wait()
        assert 3.0 <= clock < 3.2
        busy_until(1e9)
        quiet.wait()
        assert 10.0 <= clock < 10.2
        quiet.wait()
        assert clock < 10.3

    def test_a_rank_that_fails_is_told(self, made_stores: Stores, tmp_path: Path) -> None:
        bad = Workload("bad", "no-such.json", {}, 1)
        with pytest.raises(Failure, match=r"rank\.py .* failed: (.|\n)*no-such\.json"):
            on_ranks(1, replace(plan(True, 0.0), loads=(bad,)), made_stores, tmp_path)

    def test_without_the_launcher_it_is_told(
        self, made_stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(measuring.sys, "executable", str(tmp_path / "python"))
        with pytest.raises(Failure, match="make setup"):
            on_ranks(2, plan(True, 0.0), made_stores, tmp_path)


WORK = Work("w", 4, True, 4e12, 1e12, 0.25, [Law(Sent("mean", "sums", 1000, True), 0, 0),
                                              Law(Sent("mean", "gradient", 10**9, False), 0, 0)])
LINKS = Links("net", 8, 100.0, 10.0, 5.0, 1e-3, 1e-4)
GPU = Gpu(100.0, 10.0, 0.5)


class TestProjecting:
    def test_an_update_is_compute_waits_and_what_is_not_hidden(self) -> None:
        found = project(WORK, 16, GPU, LINKS)
        assert found.compute_s == pytest.approx((4e12 + 15e12) / 50e12)
        message = 1e-3 + 2 * 1 * 5e-6  # up and down, between two hosts
        assert found.alone_s == pytest.approx(message + 1000 * 2 * 15 / 16 * 1e-10)
        fused = -(-(10**9) // FUSED)
        assert found.behind_s == pytest.approx(fused * message + 1e-4 + 1e9 * 2 * 15 / 16 * 1e-10)
        assert found.window_s == pytest.approx(0.25 * found.compute_s)
        assert found.slow_s - found.fast_s == pytest.approx(found.window_s)
        assert found.rate(2.0) == 32
        assert found.efficiency(found.slow_s) == pytest.approx(4e12 / 50e12 / found.slow_s)
        assert found.talking(found.slow_s) == pytest.approx(1 - found.compute_s / found.slow_s)

    def test_one_host_has_its_own_links_and_no_more_is_hidden_than_there_is(self) -> None:
        found = project(WORK, 8, GPU, replace(LINKS, intra_gbs=1e6))
        assert LINKS.byte_s(8) == pytest.approx(1e-11)
        assert LINKS.byte_s(9) == pytest.approx(1e-10)
        assert found.fast_s == pytest.approx(found.compute_s + found.alone_s)

    def test_half_precision_has_its_own_speed(self) -> None:
        assert GPU.seconds(1e12, half=False) == 10 * GPU.seconds(1e12, half=True)

    def test_the_table_tells_ranges(self) -> None:
        slower = replace(LINKS, name="slow", inter_gbs=1.0)
        found = [project(WORK, gpus, GPU, links) for links in (LINKS, slower) for gpus in (8, 16)]
        head, rule, one, two = tables.written(tables.projected(found)).splitlines()
        assert len(head) == len(rule) == len(one) == len(two)
        assert [name in head for name in ("net: update time", "slow: talking")] == [True, True]
        cells = [cell.strip() for cell in two.split("|")]
        assert cells[1:3] == ["w", "16"]
        low, high = (tables.digits(1e3 * end) for end in (found[3].fast_s, found[3].slow_s))
        assert f"{low} to {high} ms" in cells
        assert [tables.size(count) for count in (0, 900, 5e6, 2e12)] == ["-", "900 B", "5 MB", "2e+03 GB"]

    def test_the_picture_is_whole_and_fetches_nothing(self) -> None:
        names = ["a & b", "<c>"]
        found = [project(replace(WORK, name=name), gpus, GPU, replace(LINKS, name=name)) for name in names
                 for gpus in (8, 64, 512)]
        text = drawn(found)
        root = ElementTree.fromstring(text)
        circles = [part for part in root.iter() if part.tag.endswith("circle")]
        assert len(circles) == 6
        assert "href" not in text
        assert "url(" not in text


class TestCommandLine:
    @pytest.mark.parametrize(("words", "told"), [
        ("--inter_gbs 1 2 3", "--inter_gbs, --latency_us and --network name 3, 2 and 2 networks"),
        ("--gpu_tflops 0", "--gpu_tflops 0.0: should be above 0"),
        ("--inter_gbs 5 -1", "--inter_gbs -1.0: should be above 0"),
        ("--gpu_efficiency 1.5", "--gpu_efficiency 1.5: should be above 0 and at most 1"),
        ("--latency_us 5 -1", "should not be below 0"),
        ("--gpus 1 8", "--gpus 1: one GPU talks to nobody"),
    ])  # fmt: skip
    def test_hardware_that_cannot_be_is_refused(self, words: str, told: str) -> None:
        with pytest.raises(ConfigError) as error:
            scaling.parse(words.split())
        assert told in str(error.value)

    def test_a_fit_that_is_off_fails_after_everything_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        points = synthetic(np.random.default_rng(0))
        points[3] = replace(points[3], seconds=1.5 * points[3].seconds)
        monkeypatch.setattr(scaling, "measure", lambda *_: (points, 0.4))
        for name in ("hard_negatives", "in_batch"):
            monkeypatch.setattr(scaling, name, lambda *_: WORK)
        with pytest.raises(Failure, match="others took 40 % of the machine; measure again"):
            scaling.main(["--output", str(tmp_path)])
        assert "largest error" in capsys.readouterr().out
        assert {path.name for path in tmp_path.iterdir()} == {"scaling.json", "scaling.md", "scaling.svg"}

    def test_points_of_before_are_fitted_and_projected_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def never(*_: object) -> None:
            raise AssertionError("measured anew")

        monkeypatch.setattr(scaling, "measure", lambda *_: (synthetic(np.random.default_rng(0)), 0.01))
        for name in ("hard_negatives", "in_batch"):
            monkeypatch.setattr(scaling, name, lambda *_: WORK)
        scaling.main(["--output", str(tmp_path / "a")])
        first = capsys.readouterr().out
        monkeypatch.setattr(scaling, "measure", never)
        scaling.main(["--output", str(tmp_path / "b"), "--measured", str(tmp_path / "a/scaling.json")])
        assert capsys.readouterr().out == first

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"points": [{"name": "a"}], "machine": {}}'])
    def test_points_that_are_none_are_refused(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DataError, match=r"x.json .*; leave --measured out to measure anew"):
            scaling.earlier(tmp_path / "x.json")

    def test_the_softwares_part_of_a_message_can_be_given(self) -> None:
        args = scaling.parse(["--host_us", "0", "--gpus", "16"])
        fit = Fit(1.0, 0.0, {2: 9.0}, 0.0, 0.0, [], [])
        given, found = (scaling.projections(one, [WORK], fit)[0] for one in (args, scaling.parse(["--gpus", "16"])))
        assert found.alone_s - given.alone_s == pytest.approx(9.0)


@pytest.mark.slow
def test_it_runs_in_miniature(tmp_path: Path) -> None:
    done = run("scripts/scaling.py", "--quick", "--output", tmp_path, "--gpus", "8", "512")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "these numbers mean nothing" in done.stdout
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert {point["traffic"]["ranks"] for point in found["points"]} == {1, 2}
    assert [(one["gpus"], one["network"][:8]) for one in found["projections"]][:3] == [
        (8, "8 x 400 "), (512, "8 x 400 "), (8, "25 Gb Et")
    ]  # fmt: skip
    assert (tmp_path / "scaling.md").read_text() == done.stdout
    ElementTree.parse(tmp_path / "scaling.svg")
