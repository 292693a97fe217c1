# Everything that a run needs but the project itself, which is mounted at /src by launch_container.sh.
#
#   docker build -t crossmatch .                                                     for GPUs
#   docker build -t crossmatch --target apex .                                       with apex's fused optimizer
#   docker build -t crossmatch-cpu --build-arg CUDA=debian:bookworm-20250520-slim \
#       --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .               without GPUs
#
# CUDA is any image with a toolkit below /usr/local, of the CUDA version that the torch of TORCH_INDEX was built for (13.0
# on PyPI). It is only mounted while Horovod and apex compile: what runs, NCCL too, comes with torch. Where torch is a
# CPU build it may be any image. BASE is any Debian 12.
# Build secrets, all optional, never in the image: pip (a pip.conf), ca (certificates, which that pip.conf may call
# /run/secrets/ca), apt (a file for apt.conf.d, a proxy say), sources (what stands for debian.sources).
ARG BASE=docker.io/library/debian:bookworm-20250520-slim
ARG CUDA=docker.io/nvidia/cuda:13.0.2-devel-ubuntu22.04

# hadolint ignore=DL3006
FROM ${CUDA} AS cuda

# What both the making and the running need. The host keys of sshd would be the same secret in every copy: they go.
# hadolint ignore=DL3006
FROM ${BASE} AS system
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN --mount=type=secret,id=apt,target=/etc/apt/apt.conf.d/90build \
    --mount=type=secret,id=sources,target=/etc/apt/sources.list.d/debian.sources \
    apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates=2025* python3.11=3.11.2-* python3.11-venv=3.11.2-* \
        openssh-client=1:9.2p1-* openssh-server=1:9.2p1-* libnss-extrausers=0.6-* \
        ibverbs-providers=44.0-* libibverbs1=44.0-* librdmacm1=44.0-* \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log /etc/ssh/ssh_host_* \
    && mkdir -p /run/sshd /src /txt /img /pretrain /storage /var/lib/extrausers \
    && sed -Ei 's/^(passwd|group): .*/& extrausers/' /etc/nsswitch.conf \
    && install -m 666 /dev/null /var/lib/extrausers/passwd
ENV PATH=/opt/venv/bin:$PATH LANG=C.UTF-8

# The pins alone, so that nothing else in pyproject.toml makes torch travel again.
FROM system AS pins
WORKDIR /pins
COPY pyproject.toml ./
COPY scripts/pins.py scripts/
RUN python3.11 scripts/pins.py --only torch > torch.txt \
    && python3.11 scripts/pins.py > needed.txt \
    && python3.11 scripts/pins.py build > tools.txt

FROM system AS build
RUN --mount=type=secret,id=apt,target=/etc/apt/apt.conf.d/90build \
    --mount=type=secret,id=sources,target=/etc/apt/sources.list.d/debian.sources \
    apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        g++=4:12.2.0-* make=4.3-* python3.11-dev=3.11.2-* \
    && rm -rf /var/lib/apt/lists/* \
    && python3.11 -m venv /opt/venv
ARG TORCH_INDEX=
WORKDIR /build
COPY --from=pins /pins/*.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    pip install --disable-pip-version-check ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r torch.txt \
    && pip install --disable-pip-version-check -r needed.txt -r tools.txt
# Horovod for every GPU since Turing; a torch for GPUs without its toolkit stops here, in build_horovod.sh's words.
ARG COMPUTE_CAPABILITIES=75,80,86,89,90,100,120
COPY scripts/build_horovod.sh scripts/horovod_edits.py /build/scripts/
RUN --mount=type=cache,target=/var/cache/horovod \
    --mount=type=bind,from=cuda,source=/usr/local,target=/mnt/cuda \
    --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    cuda=$(python -c 'import torch; print(torch.version.cuda or "")') \
    && if [ -n "$cuda" ]; then \
        export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME="/mnt/cuda/cuda-$cuda"; \
        export HOROVOD_BUILD_CUDA_CC_LIST="$COMPUTE_CAPABILITIES"; fi \
    && CROSSMATCH_CACHE=/var/cache/horovod bash scripts/build_horovod.sh /opt/venv/bin/python > horovod.txt \
    && pip install --disable-pip-version-check --no-cache-dir --no-index --no-deps -r horovod.txt \
    && pip check --disable-pip-version-check

FROM system AS runtime
LABEL org.opencontainers.image.title="crossmatch" \
      org.opencontainers.image.description="Train, mine, evaluate and serve image-text matching models on a cluster" \
      org.opencontainers.image.licenses="MIT"
# The source is mounted, not installed; read-only, so no byte code is written beside it. A home folder that an engine
# mounts brings no packages of its own in.
ENV PYTHONPATH=/src PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1 PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build /opt/venv /opt/venv
COPY --chmod=755 scripts/container/enter.sh scripts/container/ranks_here.sh /usr/local/bin/
WORKDIR /src
ENTRYPOINT ["enter.sh"]
CMD ["bash"]

# apex's fused optimizers (--use_apex); the commit is one that compiles with CUDA 13. A quarter of an hour on 16 cores.
FROM build AS apex-build
ARG APEX=becbb77cea4cb54f2929f7c938a0a6f7dd1fdc39
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=cuda,source=/usr/local,target=/mnt/cuda \
    --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    cuda=$(python -c 'import torch; print(torch.version.cuda or "")') \
    && CUDA_HOME="/mnt/cuda/cuda-$cuda" TORCH_CUDA_ARCH_LIST="7.5 8.0 8.6 8.9 9.0 10.0 12.0+PTX" \
        APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install --disable-pip-version-check --no-build-isolation --no-deps \
        "https://github.com/NVIDIA/apex/archive/$APEX.tar.gz"

FROM runtime AS apex
COPY --from=apex-build /opt/venv /opt/venv

# What is built where no --target is named.
FROM runtime AS crossmatch
