#!/usr/bin/env bash
# Build the Horovod wheel that matches the torch of a given Python and print its path.
#
#   scripts/build_horovod.sh PYTHON
#
# Horovod 0.28.1 is the last release; horovod_edits.py says what is edited in it. The wheel is cached per (horovod, torch,
# python, edits), outside the checkout. With HOROVOD_GPU_OPERATIONS=NCCL it is built for GPUs, with the toolkit in
# HOROVOD_CUDA_HOME (the CUDA
# version of torch) and against the NCCL that came with torch, so that one process never holds two of them.
set -euo pipefail

python=${1:?usage: scripts/build_horovod.sh PYTHON}
edits=$(dirname "$0")/horovod_edits.py
version=0.28.1
sha256=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0
tag=$("$python" -c 'import sys, torch; print(f"torch{torch.__version__}-cp{sys.version_info.major}{sys.version_info.minor}")')
tag+=${HOROVOD_GPU_OPERATIONS:+-$HOROVOD_GPU_OPERATIONS}${HOROVOD_BUILD_CUDA_CC_LIST:+-$HOROVOD_BUILD_CUDA_CC_LIST}
tag+=-$(sha256sum "$edits" | cut -c 1-8)
cache=${CROSSMATCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/crossmatch}/horovod-$version-$tag

if wheel=$(ls "$cache"/horovod-*.whl 2>/dev/null); then
    echo "$wheel"
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache"
if [ "${HOROVOD_GPU_OPERATIONS:-}" = NCCL ] && [ -z "${HOROVOD_NCCL_HOME:-}${HOROVOD_NCCL_LIB:-}" ]; then
    [ -x "${HOROVOD_CUDA_HOME:?names no CUDA toolkit}/bin/nvcc" ] ||
        { echo "build_horovod: no toolkit in $HOROVOD_CUDA_HOME; $tag needs a CUDA toolkit of its version" >&2; exit 1; }
    nccl=$("$python" -c 'import nvidia.nccl; print(nvidia.nccl.__path__[0])')
    mkdir "$work/nccl"
    ln -s "$nccl/lib/libnccl.so.2" "$work/nccl/libnccl.so" # the name that a linker looks for
    export HOROVOD_NCCL_INCLUDE=$nccl/include HOROVOD_NCCL_LIB=$work/nccl HOROVOD_NCCL_LINK=SHARED
    export CUDA_HOME=$HOROVOD_CUDA_HOME # where torch's own search for its libraries looks
fi
{
    echo "building Horovod $version for $tag: about four minutes on two cores, once"
    "$python" -m pip download -q --no-deps --no-binary :all: --no-build-isolation -d "$work" "horovod==$version"
    echo "$sha256  $work/horovod-$version.tar.gz" | sha256sum --check --quiet
    tar -xzf "$work/horovod-$version.tar.gz" -C "$work"
    "$python" "$edits" "$work/horovod-$version"
    cd "$work/horovod-$version"
    CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS=-j$(nproc) PATH="$(dirname "$python"):$PATH" \
        HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 \
        HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=${HOROVOD_WITHOUT_MPI:-1} \
        "$python" -m pip wheel --no-build-isolation --no-deps -w "$work/wheel" . >"$work/build.log" 2>&1 ||
        { tail -n 40 "$work/build.log"; echo "Horovod did not compile: it needs g++ with C++20 (GCC 10 or newer); see above"; exit 1; }
    cp "$work"/wheel/horovod-*.whl "$cache/.partial"
    mv "$cache/.partial" "$cache/$(basename "$work"/wheel/horovod-*.whl)"
} >&2
ls "$cache"/horovod-*.whl
