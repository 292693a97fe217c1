"""Ranks that srun has started: where they meet, and Horovod's variables from SLURM's.

    python scripts/slurm/ranks.py serve node1:8,node2:8          # in the batch script: prints the port, then serves
    srun ... python scripts/slurm/ranks.py run python train/itm_hn.py --config ...

`run` becomes the program that it is given, as rank SLURM_PROCID of SLURM_NTASKS. It needs MEETING_PORT, what `serve`
has printed, and meets the others at the host where srun was called. NIC names the network interface that the ranks
talk through; without it that is the one through which this host reaches the meeting place.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from config.errors import ConfigError

REMEDY = "is not set; scripts/slurm/job.sh starts ranks through srun with all they need (LAUNCHER=srun)"


def tasks_on_nodes(text: str) -> list[int]:
    """Tasks on each node, from SLURM's short form: "2(x3),1" is [2, 2, 2, 1].

    Raises:
        ConfigError: it is in another form.
    """
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None:
            raise ConfigError(f"SLURM_STEP_TASKS_PER_NODE={text}: should look like 2(x3),1")
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def horovod_variables(slurm: Mapping[str, str]) -> dict[str, str]:
    """What Horovod reads, for the task that SLURM's variables describe.

    Raises:
        ConfigError: a variable is missing: srun has not started this.
    """

    def read(name: str) -> str:
        if not slurm.get(name):
            raise ConfigError(f"{name} {REMEDY}")
        return slurm[name]

    counts, node, local = tasks_on_nodes(read("SLURM_STEP_TASKS_PER_NODE")), int(read("SLURM_NODEID")), \
        int(read("SLURM_LOCALID"))
    address = read("SLURM_LAUNCH_NODE_IPADDR")
    interface = slurm.get("NIC") or interface_towards(address)
    found = {
        "HOROVOD_HOSTNAME": read("SLURMD_NODENAME"),
        "HOROVOD_RANK": read("SLURM_PROCID"), "HOROVOD_SIZE": str(sum(counts)),
        "HOROVOD_LOCAL_RANK": str(local), "HOROVOD_LOCAL_SIZE": str(counts[node]),
        "HOROVOD_CROSS_RANK": str(sum(count > local for count in counts[:node])),
        "HOROVOD_CROSS_SIZE": str(sum(count > local for count in counts)),
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address, "HOROVOD_GLOO_RENDEZVOUS_PORT": read("MEETING_PORT"),
        "HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": interface, "NCCL_SOCKET_IFNAME": interface,
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    if slurm.get("SLURM_CPUS_PER_TASK") and not slurm.get("OMP_NUM_THREADS"):
        found["OMP_NUM_THREADS"] = slurm["SLURM_CPUS_PER_TASK"]
    return found


def interface_towards(address: str) -> str:
    """The network interface of this host that an address is reached through.

    Raises:
        ConfigError: none is.
    """
    import psutil

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # nothing is sent: only the route is asked for
        own = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address == own for found in addresses):
            return str(name)
    raise ConfigError(f"no network interface of {socket.gethostname()} leads to {address}; name one with NIC=ib0")


def serve(hosts: str) -> None:
    """Let the ranks of `hosts` ("node1:8,node2:8") find each other: prints the port, and serves until it is ended."""
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.http.http_server import RendezvousServer

    slots = parse_hosts(hosts)
    server = RendezvousServer()
    port = server.start()
    server.init(get_host_assignments(slots, sum(host.slots for host in slots)))
    print(port, flush=True)
    threading.Event().wait()


def main() -> int:
    match sys.argv[1:]:
        case ["serve", hosts]:
            serve(hosts)
        case ["run", program, *words]:
            os.execvpe(program, [program, *words], os.environ | horovod_variables(os.environ))
        case _:
            raise ConfigError("usage: ranks.py serve HOST:RANKS,... | ranks.py run PROGRAM WORDS...")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ConfigError as error:
        sys.stderr.write(f"ranks: {error}\n")
        sys.exit(error.exit_code)
