#!/usr/bin/env bash
# Print the folder of a CUDA toolkit of the given major version, which Horovod is built with for NCCL.
#
#   scripts/find_toolkit.sh 13.0
#
# Looked for, in this order: HOROVOD_CUDA_HOME, CUDA_HOME, cuda-13.0 and cuda in CUDA_PREFIX (/usr/local), the nvcc on PATH.
# Ends with 1 where there is none.
set -euo pipefail

version=${1:?usage: scripts/find_toolkit.sh CUDA_VERSION}
prefix=${CUDA_PREFIX:-/usr/local}
nvcc=$(command -v nvcc || true)
for home in "${HOROVOD_CUDA_HOME:-}" "${CUDA_HOME:-}" "$prefix/cuda-$version" "$prefix/cuda" "${nvcc%/bin/nvcc}"; do
    [ -n "$home" ] && [ -x "$home/bin/nvcc" ] || continue
    told=$("$home/bin/nvcc" --version) # read whole before it is searched
    if [[ $told == *"release ${version%%.*}."* ]]; then
        echo "$home"
        exit 0
    fi
done
exit 1
