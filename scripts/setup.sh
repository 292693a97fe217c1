#!/usr/bin/env bash
# Make .venv with everything the project needs, and prove that it works.
#
#   scripts/setup.sh            PYTHON=python3.11 picks the interpreter
#
# torch comes first and by its exact pin, so that nothing else drags in another build of it. The second call finds
# everything in place and returns at once; a change of pyproject.toml installs anew.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.ready
wanted=$(cat pyproject.toml scripts/setup.sh scripts/pins.py scripts/build_horovod.sh scripts/horovod_edits.py | sha256sum)
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
echo "$wanted" >"$stamp"
echo "setup: ready" >&2
