"""scripts/command/launch_flags.py: wrong values of horovodrun's flags are told with their flag, all at once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from config.errors import ConfigError
from scripts.command import launch_flags
from scripts.command.launch_flags import check, is_local_only, told_in_one_line

FLAGS = {"num_proc": 2, "min_num_proc": None, "max_num_proc": None, "hosts": None, "hostfile": None,
         "host_discovery_script": None, "nics": None, "start_timeout": None, "slots": None,
         "ssh_identity_file": None, "output_filename": None, "command": ["python", "-m", "x"]}  # fmt: skip


@pytest.fixture(autouse=True)
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"lo": ["127.0.0.1", "::1"], "eth0": ["192.0.2.2"], "ib0": []}
    monkeypatch.setattr(launch_flags, "addresses", lambda: found)


def given(**flags: Any) -> SimpleNamespace:
    return SimpleNamespace(**FLAGS | flags)


@pytest.mark.parametrize(("flags", "told"), [
    ({"num_proc": 0}, "-np 0: at least one rank is needed"),
    ({"min_num_proc": 3}, "--min-np 3 is above -np 2, with which the run begins"),
    ({"max_num_proc": 1}, "--max-np 1 is below -np 2, with which the run begins"),
    ({"min_num_proc": 0, "max_num_proc": 0}, "--min-np 0: should be 1 or more; --max-np 0: should be 1 or more"),
    ({"hosts": "localhost"}, "-H localhost: localhost should be HOST:RANKS, as in -H node1:8,node2:8"),
    ({"hosts": "a:2,b:0"}, "-H a:2,b:0: b:0 should be HOST:RANKS"),
    ({"hosts": "localhost:1"}, "-np 2: -H localhost:1 has room for 1 rank; lower -np or name more hosts"),
    ({"start_timeout": -5, "slots": 0}, "--slots-per-host 0: should be 1 or more"),
    ({"ssh_identity_file": "/nowhere/id"}, "--ssh-identity-file /nowhere/id: there is no such file"),
    ({"output_filename": "/proc/version/x"}, "--output-filename /proc/version/x: no folder can be made in /proc"),
    ({"command": ["pyhton", "train/itm.py"]}, "pyhton: there is no such program; give it after the flags"),
    ({"command": ["python", "train/imt.py"]}, "train/imt.py: does not exist in "),
    ({"hosts": "a:2,"}, "-H a:2,: an empty name should be HOST:RANKS"),
    ({"nics": {"wlan0"}}, "--network-interface wlan0: there is no such interface; this host has eth0, ib0, lo"),
    ({"nics": {"eth0"}}, "--network-interface eth0: all ranks are on this host and meet at 127.0.0.1, which is of "
                         "another interface; name lo, or leave the flag out (this host has eth0, ib0, lo)"),
    ({"host_discovery_script": "/nowhere"}, "--host-discovery-script /nowhere: there is no such file"),
    ({"hostfile": "/nowhere/hosts"}, "--hostfile /nowhere/hosts: cannot be read (No such file or directory)"),
])  # fmt: skip
def test_a_wrong_value_is_told_with_its_flag(flags: dict[str, Any], told: str) -> None:
    args = given(**flags)
    with pytest.raises(ConfigError) as refused:
        check(args, is_local_only(args))
    assert told in str(refused.value)


def test_files_are_looked_into(tmp_path: Path) -> None:
    script, hosts, empty = (tmp_path / name for name in ("hosts.sh", "hosts", "empty"))
    script.write_text("#!/bin/sh\n")
    hosts.write_text("node1 slots=8\nnode2 8\n\n")
    empty.touch()
    for flags, told in (
        ({"host_discovery_script": str(script)}, "is not executable; chmod \\+x it"),
        ({"hostfile": str(hosts)}, "line 2: should be .*; --hostfile .*, line 3: should be a host and its ranks"),
        ({"hostfile": str(empty)}, "is empty; write a line for each host"),
    ):
        with pytest.raises(ConfigError, match=told):
            check(given(**flags), local_only=False)


@pytest.mark.parametrize(("flags", "local"), [
    ({}, True),
    ({"hosts": "localhost:2", "nics": {"lo"}}, True),
    ({"hosts": "127.0.0.1:1,localhost:1"}, True),
    ({"hosts": "node1:1,localhost:1", "nics": {"eth0"}}, False),
    ({"min_num_proc": 1, "max_num_proc": 4}, True),
])  # fmt: skip
def test_right_ones_pass(flags: dict[str, Any], local: bool) -> None:
    args = given(**flags)
    assert is_local_only(args) == local
    check(args, local)


def test_what_horovod_raises_of_a_flag_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from horovod.runner.launch import parse_args

    for words, told in ((["--config-file", "/nowhere"], "--config-file /nowhere: cannot be read"),
                        (["--fusion-threshold-mb", "-1"], "fusion_threshold_mb=-1 must be >= 0; horovodrun --help"),
                        (["--gpus", "2"], "unrecognized arguments: --gpus; horovodrun --help")):
        monkeypatch.setattr("sys.argv", ["launch.py", "-np", "2", *words, "python", "x.py"])
        with pytest.raises(ConfigError, match=f"^{told}"), told_in_one_line():
            parse_args()


def test_a_discovery_script_may_find_other_hosts() -> None:
    assert not is_local_only(given(host_discovery_script="hosts.sh"))
    assert not is_local_only(given(hostfile="hosts"))
