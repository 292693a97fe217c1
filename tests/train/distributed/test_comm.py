"""train/distributed/comm.py, process_groups.py and, across processes, the reducer: alone and with each launcher."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

from config.errors import ConfigError, DataError, Failure
from model.parts.layers import BatchNorm
from tests.processes import entry
from tests.ranks import on_ranks
from tests.support import ROOT, environment
from train.distributed import process_groups
from train.distributed.comm import Comm, Solo
from train.distributed.process_groups import ElasticHorovod, Horovod, RankRemoved, join_process_group

Found = list[dict[str, Any]]


@pytest.fixture(scope="module", params=["horovodrun", "torchrun"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each of two ranks found."""
    folder = tmp_path_factory.mktemp(request.param)
    words = entry("tests/train/ranks_program.py", folder, ranks=2, launcher=request.param)
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)] + [{"launcher": request.param}]


def kind_of(found: Found) -> str:
    return {"horovodrun": "Horovod", "torchrun": "TorchDistributed"}[found[2]["launcher"]]


@pytest.mark.slow
class TestTwoRanks:
    def test_the_launcher_is_recognised(self, found: Found) -> None:
        assert [one["kind"] for one in found[:2]] == [kind_of(found)] * 2
        assert [one["rank"] for one in found[:2]] == [0, 1]
        assert [one["size"] for one in found[:2]] == [2, 2]
        assert [one["local"] for one in found[:2]] == [[0, 2], [1, 2]]

    def test_the_mean_is_the_mean_and_a_new_tensor(self, found: Found) -> None:
        assert [one["means"]["mean"] for one in found[:2]] == [[1.5, 15.0]] * 2
        assert [one["means"]["kept"] for one in found[:2]] == [[1.0, 10.0], [2.0, 20.0]]

    def test_several_may_be_in_flight(self, found: Found) -> None:
        for one in found[:2]:
            assert one["means_in_flight"] == [[10 * number + 0.5] * 3 for number in range(4)]

    def test_a_broadcast_is_rank_zeros_value_or_that_of_another_root(self, found: Found) -> None:
        for one in found[:2]:
            assert one["broadcast"] == [[[5.0] * 3] * 2, [7], 0.0, [1]]

    def test_values_of_any_size_are_shared_in_the_order_of_ranks(self, found: Found) -> None:
        expected = [[{"rank": rank, "names": ["é" * rank, None, 2.5]} for rank in range(2)], [[], []], [None, None],
                    ["x", "x" * 5001]]
        assert [one["share"] for one in found[:2]] == [expected, expected]

    def test_rows_are_gathered_in_the_order_of_ranks_however_many_each_has(self, found: Found) -> None:
        rows = [[0.0, 1.0], [10.0, 11.0], [12.0, 13.0]]
        for one in found[:2]:
            doubled = [[2 * value for value in row] for row in rows]
            assert one["gathered"] == [rows, rows, [1], doubled, "torch.int64"]

    def test_the_sum_is_the_sum_and_a_new_tensor(self, found: Found) -> None:
        assert [one["summed"] for one in found[:2]] == [[[3.0, 30.0], [1.0, 10.0]], [[3.0, 30.0], [2.0, 20.0]]]

    def test_a_norm_over_two_ranks_is_one_over_all_their_rows(self, found: Found) -> None:
        norm = BatchNorm(3)
        rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(4)).requires_grad_()
        out = norm(rows)
        out.pow(3).sum().backward()
        for one in found[:2]:
            for ours, value in zip(one["normalised"], (out, rows.grad, norm.running_var), strict=True):
                torch.testing.assert_close(torch.tensor(ours), value, rtol=1e-5, atol=1e-5)

    def test_gradients_are_the_mean_of_all_ranks(self, found: Found) -> None:
        assert close(found[0]["reduced"], found[0]["plain"], 1e-6)
        assert found[0]["reduced"] == found[1]["reduced"]
        assert found[0]["plain"][0] != found[0]["plain"][1]

    def test_compressed_gradients_are_the_mean_in_half_precision(self, found: Found) -> None:
        assert close(found[0]["compressed"], found[0]["plain"], 5e-3)
        assert not close(found[0]["compressed"], found[0]["plain"], 1e-7)
        assert found[0]["compressed"] == found[1]["compressed"]

    def test_a_parameter_without_a_gradient_is_an_error_not_a_hang(self, found: Found) -> None:
        for one in found[:2]:
            assert "no gradient for missing.idle.weight, missing.idle.bias" in one["missing_gradient"]


def close(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], tolerance: float) -> bool:
    pairs = [(torch.tensor(a[name]), torch.tensor(b[name])) for a, b in zip(ours, theirs, strict=True) for name in b]
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=tolerance) for a, b in pairs)


def test_one_process_is_a_group_of_one() -> None:
    solo, value = Solo(), torch.tensor([1.0, 2.0])
    assert (solo.rank, solo.size, solo.local_rank, solo.local_size) == (0, 1, 0, 1)
    solo.mean_async_(value, "a")()
    solo.broadcast_(value, "b")
    solo.barrier("c")
    solo.close()
    assert value.tolist() == [1.0, 2.0]
    assert solo.all_gather_object({"a": 1}) == [{"a": 1}]
    assert solo.gather(value, "e") is value
    total = solo.sum(value, "f")
    total += 1
    mean = solo.mean(value, "d")
    mean += 1
    assert value.tolist() == [1.0, 2.0]
    assert not solo.means_lost_rank(RuntimeError("Connection closed"))


def test_the_environment_says_who_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_groups, "Horovod", lambda: "horovod")
    monkeypatch.setattr(process_groups, "TorchDistributed", lambda: "torch")
    assert isinstance(join_process_group({}), Solo)
    assert isinstance(join_process_group({"WORLD_SIZE": "2"}), Solo)
    assert join_process_group({"HOROVOD_SIZE": "2"}) == "horovod"
    assert join_process_group({"OMPI_COMM_WORLD_SIZE": "2"}) == "horovod"
    assert join_process_group({"WORLD_SIZE": "2", "MASTER_ADDR": "here"}) == "torch"


def test_a_missing_horovod_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "horovod.torch", None)
    with pytest.raises(ConfigError, match="horovod is not installed here; run `make setup`"):
        Horovod()


def test_what_the_first_rank_finds_all_ranks_know() -> None:
    def work(comm: Comm) -> str:
        return comm.run_on_first(lambda: f"found by {comm.rank}")

    assert on_ranks(3, work) == ["found by 0"] * 3


def test_what_the_first_rank_finds_wrong_is_raised_on_all() -> None:
    def find() -> str:
        raise DataError("ckpt: is damaged; copy it again")

    def work(comm: Comm) -> str:
        try:
            return comm.run_on_first(find)
        except DataError as error:
            return f"told: {error}"

    assert on_ranks(2, work) == ["told: ckpt: is damaged; copy it again"] * 2


class Met(Exception):
    """The others were found."""


def elastic_rank(monkeypatch: pytest.MonkeyPatch, *ends: str) -> ElasticHorovod:
    """A rank that tries to meet the others: each time fails for the next reason in `ends`, then they are there."""
    left = list(ends)

    class Library:
        def init(self) -> None:
            if not left:
                raise Met
            raise ValueError("Horovod initialization failed")

        def shutdown(self) -> None:
            pass

    found = ElasticHorovod.__new__(ElasticHorovod)
    found._hvd, found._error = Library(), RuntimeError
    monkeypatch.setattr(process_groups, "_read_init_error", lambda: left.pop(0))
    monkeypatch.setattr(process_groups, "RETRY_S", 0.0)
    return found


def test_a_rank_whose_others_died_before_they_came_tries_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Met):
        elastic_rank(monkeypatch, "nobody", "still nobody")._rendezvous()
    assert [line.split("(")[1] for line in capsys.readouterr().err.splitlines()] == ["nobody)", "still nobody)"]


def test_a_rank_of_a_fixed_group_does_not_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failure, match=r"the ranks did not find each other \(nobody\)"):
        Horovod._rendezvous(elastic_rank(monkeypatch, "nobody"))


def test_a_rank_that_is_not_wanted_any_more_is_dismissed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RankRemoved, match="no place for this rank"):
        elastic_rank(monkeypatch, "nobody", "b[0] has been removed from elastic job")._rendezvous()


def test_ranks_that_never_meet_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_groups, "RENDEZVOUS_S", 0.0)
    found, forever = elastic_rank(monkeypatch), threading.Event()
    monkeypatch.setattr(found._hvd, "init", forever.wait)
    with pytest.raises(Failure, match="did not meet within 0 s"):
        found._rendezvous()
    forever.set()


def test_the_reason_is_read_from_the_environment_of_c() -> None:
    ctypes.CDLL(None).setenv(b"HOROVOD_INIT_ERROR", b"nobody came", 1)
    assert process_groups._read_init_error() == "nobody came"
    ctypes.CDLL(None).unsetenv(b"HOROVOD_INIT_ERROR")
    assert process_groups._read_init_error() == ""


KEPT_GROUP = """
import os, torch
from train.distributed.process_groups import TorchDistributed
comm = TorchDistributed()
import torch.distributed.nn.functional
comm.mean(torch.ones(3), "mean")
comm.close()
print(sorted(open(f"/proc/self/task/{one}/comm").read().strip() for one in os.listdir("/proc/self/task")))
"""


def test_no_thread_of_a_closed_group_is_left_to_abort_the_exit() -> None:
    environ = os.environ | {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run([sys.executable, "-c", KEPT_GROUP], cwd=ROOT, env=environ, capture_output=True, text=True,
                          check=False, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "gloo" not in done.stdout
