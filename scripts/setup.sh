#!/usr/bin/env bash
# Make .venv with everything the project needs, and prove that it works.
#
#   scripts/setup.sh            PYTHON=python3.11 picks the interpreter; GPUS=no leaves NCCL out on a host with GPUs
#
# torch comes first and by its exact pin, so that nothing else drags in another build of it. The second call finds
# everything in place and returns at once; a change of pyproject.toml installs anew.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.ready
wanted=$(cat pyproject.toml scripts/setup.sh scripts/pins.py scripts/build_horovod.sh scripts/find_toolkit.sh scripts/horovod_edits.py | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

remedy() { echo "setup: $1" >&2; exit 1; }
interpreter=${PYTHON:-python3.11}
"$interpreter" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null ||
    remedy "needs Python 3.11; install it, or name it with PYTHON=/path/to/python3.11 make setup"
command -v g++ >/dev/null || remedy "needs a C++20 compiler for Horovod; install g++ 10 or newer"

[ -x .venv/bin/python ] || "$interpreter" -m venv .venv ||
    remedy "could not make .venv; install the venv module of Python 3.11 (Debian: python3.11-venv)"
python=$PWD/.venv/bin/python
install() { "$python" -m pip install --quiet --disable-pip-version-check "$@"; }

torch=$("$python" scripts/pins.py --only torch)
echo "setup: $torch" >&2
install "$torch" || remedy "$torch could not be installed; is the package index reachable?"
echo "setup: the other packages" >&2
install --requirement <("$python" scripts/pins.py build)
install --no-build-isolation --editable ".[test]" || remedy "a pinned package could not be installed; see pip's words above"

# Without NCCL, Horovod takes GPU tensors and never gives them back.
cuda=$("$python" -c 'import torch; print(torch.version.cuda or "")')
if [ -n "$cuda" ] && [ "${GPUS:-yes}" != no ]; then
    if toolkit=$(bash scripts/find_toolkit.sh "$cuda"); then
        export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME=$toolkit
    elif [ -e /proc/driver/nvidia/gpus ]; then
        remedy "this host has GPUs, and torch is built for CUDA $cuda, but no toolkit of CUDA ${cuda%%.*} was found to build \
Horovod for NCCL; install it (apt: cuda-toolkit-${cuda/./-}, conda: cuda-toolkit=$cuda), name it with \
HOROVOD_CUDA_HOME=FOLDER, or do without GPUs: GPUS=no make setup"
    else
        echo "setup: neither a GPU nor a toolkit of CUDA ${cuda%%.*} is here: Horovod is built without NCCL" >&2
    fi
fi
wheel=$(bash scripts/build_horovod.sh "$python") || remedy "Horovod could not be built; see above"
install --no-deps --force-reinstall "$wheel" # of the same version, but built anew
"$python" -m pip check --disable-pip-version-check || remedy "installed packages disagree; remove .venv and try again"

echo "setup: proving that ranks can talk" >&2
# Read whole before it is searched: a reader that leaves at its first match breaks the writer's pipe, now and then.
features=$(.venv/bin/horovodrun --check-build)
[[ $features == *'[X] Gloo'* ]] || remedy "Horovod lacks Gloo; remove its cached wheel and try again"
proof='import horovod.torch as hvd, torch; hvd.init(); x = hvd.allreduce(torch.ones(1) * hvd.rank(), op=hvd.Sum); assert x.item() == 1'
timeout 120 .venv/bin/horovodrun -np 2 "$python" -c "$proof" ||
    remedy "two local ranks could not add numbers; check that localhost resolves and that no firewall closes loopback"
if [ -n "${HOROVOD_GPU_OPERATIONS:-}" ] && [ -e /proc/driver/nvidia/gpus ]; then
    [[ $features == *'[X] NCCL'* ]] || remedy "Horovod lacks NCCL; remove its cached wheel and try again"
    ranks=$("$python" -c 'import torch; print(min(2, torch.cuda.device_count()))')
    [ "$ranks" -gt 0 ] || remedy "torch cannot use the GPUs of this host; update the driver, or GPUS=no make setup"
    proof='import horovod.torch as hvd, torch; hvd.init(); torch.cuda.set_device(hvd.local_rank()); '
    proof+='x = hvd.allreduce(torch.ones(1, device="cuda"), op=hvd.Sum); assert x.item() == hvd.size()'
    timeout 120 .venv/bin/horovodrun -np "$ranks" "$python" -c "$proof" ||
        remedy "$ranks ranks could not add numbers on their GPUs; NCCL_DEBUG=INFO make setup tells more"
fi
echo "$wanted" >"$stamp"
echo "setup: ready" >&2
