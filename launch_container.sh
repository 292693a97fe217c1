#!/usr/bin/env bash
# Run a command of the project inside its image, as the caller. `launch_container.sh --help` says how.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: launch_container.sh [--dry-run] TXT_DB IMG_DB OUTPUT PRETRAIN [command...]

Run a command (bash where none is given) inside the image, as the caller, in the folder /src.

  TXT_DB    folder of text stores             /txt        read-only
  IMG_DB    folder of image stores            /img        read-only
  OUTPUT    where runs are written            /storage
  PRETRAIN  pre-trained weights               /pretrain   read-only
  (the folder of this script)                 /src        read-only, on PYTHONPATH

  --dry-run   print the engine's command, ready for a shell, and run nothing
  --help      this text

Environment:
  ENGINE    docker, podman, apptainer, singularity or ch-run; without it the first of them that works and fits IMAGE
  IMAGE     what the engine calls the image: a name (crossmatch), a .sif file, or for ch-run an unpacked folder
  CUDA_VISIBLE_DEVICES   the GPUs that the command sees, numbered anew from 0 by docker and podman; '' = none,
            not set = all of the host. ch-run needs an image prepared with ch-fromhost --nvidia
  PASS      names of further variables that go in; those of Horovod, NCCL, CUDA, torch, gloo, UCX, SLURM, OpenMP and
            torchrun always do, but for folders of this host
  SSH_DIR   a folder with a key pair, authorized_keys and config, mounted as ~/.ssh (docker and podman): what horovodrun
            needs to reach other nodes; the others bring the caller's home folder along

The network, shared memory and the limits of locked memory are the host's: ranks on several nodes and workers of a loader
need them. ch-run cannot mount read-only. The exit code is the command's; 2 = nothing was started.

  ./launch_container.sh txt_db img_db runs pretrained \
      horovodrun -np 8 python train/itm_hn.py --config config/itm-flickr-base-8gpu-hn.json --output_dir /storage/run1
HELP
}

refuse() { echo "launch_container: $1" >&2; exit 2; }

works() { # an engine that is there, and for docker and podman one that answers
    case $1 in
        docker | podman) command -v "$1" >/dev/null && timeout 20 "$1" info >/dev/null 2>&1 ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

choose_engine() {
    local candidates=(docker podman apptainer singularity) candidate
    if [ -n "${ENGINE:-}" ]; then
        [[ $ENGINE =~ ^(docker|podman|apptainer|singularity|ch-run)$ ]] ||
            refuse "ENGINE=$ENGINE is none of docker, podman, apptainer, singularity, ch-run"
        command -v "$ENGINE" >/dev/null || refuse "ENGINE=$ENGINE is not on the PATH"
        engine=$ENGINE
        return
    fi
    [[ ${IMAGE:-} != *.sif ]] || candidates=(apptainer singularity)
    [ ! -d "${IMAGE:-}" ] || candidates=(ch-run apptainer singularity)
    for candidate in "${candidates[@]}"; do
        if works "$candidate"; then
            engine=$candidate
            return
        fi
    done
    refuse "none of ${candidates[*]} works here; install one, or name another with ENGINE="
}

check_image() {
    case $engine in
        docker | podman) image=${IMAGE:-crossmatch} ;;
        apptainer | singularity)
            image=${IMAGE:-$source/crossmatch.sif}
            [[ -e $image || $image == *://* ]] || refuse "IMAGE: there is no $image; build it from the Dockerfile, or name it" ;;
        ch-run)
            image=${IMAGE:-}
            [ -n "$image" ] || refuse "ch-run needs IMAGE=, the folder of an unpacked image"
            [ -f "$image/ch/environment" ] || refuse "IMAGE: $image is no unpacked image; make it with ch-convert" ;;
    esac
}

folder() { # NAME PATH FORBIDDEN: its full path; some characters mean something else to an engine
    [ -d "$2" ] || refuse "$1: there is no folder $2"
    local full
    full=$(realpath "$2")
    [[ $full != *[$3]* ]] || refuse "$1: $engine cannot mount $full; one of '$3' is in its name"
    echo "$full"
}

passed_names() { # of variables that go in, one a line
    local name
    for name in $(compgen -e | sort) ${PASS:-}; do
        case " ${PASS:-} " in *" $name "*) echo "$name"; continue ;; esac
        case $name in
            CUDA_VISIBLE_DEVICES | CUDA_HOME | CUDA_PATH | TORCH_HOME) ;; # numbered anew, and folders of this host
            HOROVOD_* | NCCL_* | CUDA_* | PYTORCH_* | TORCH_* | GLOO_* | UCX_* | SLURM_* | OMP_* | MASTER_* | RANK | WORLD_SIZE | LOCAL_RANK | LOCAL_WORLD_SIZE)
                echo "$name" ;;
        esac
    done | sort -u
}

no_gpus() { [[ ${CUDA_VISIBLE_DEVICES-unset} == '' || ${CUDA_VISIBLE_DEVICES-unset} == -1 ]]; }
all_gpus() { [ -z "${CUDA_VISIBLE_DEVICES+set}" ] && command -v nvidia-smi >/dev/null; }

# docker and podman give the chosen GPUs new numbers, so the variable itself stays outside.
gpu_flags() {
    local device devices
    if no_gpus; then
        flags+=(--env NVIDIA_VISIBLE_DEVICES=void)
    elif [ "$engine" = docker ]; then
        if all_gpus; then
            flags+=(--gpus all)
        elif [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
            flags+=(--gpus "\"device=$CUDA_VISIBLE_DEVICES\"")
        fi
    elif all_gpus; then
        flags+=(--device nvidia.com/gpu=all)
    else
        IFS=, read -ra devices <<<"${CUDA_VISIBLE_DEVICES:-}"
        for device in "${devices[@]}"; do flags+=(--device "nvidia.com/gpu=$device"); done
    fi
}

# In a rootless engine the caller is its root: docker calls it 0, podman keeps the number.
user_flags() {
    local group
    if [ "$engine" = podman ]; then
        flags+=(--security-opt label=disable --pids-limit -1 --user "$(id -u):$(id -g)")
        if [ "$(id -u)" != 0 ]; then
            flags+=(--userns keep-id --group-add keep-groups --ulimit host)
            return
        fi
    elif [ "$(id -u)" != 0 ] && [[ $(timeout 20 docker info --format '{{.SecurityOptions}}' 2>&1) == *name=rootless* ]]; then
        flags+=(--user 0:0)
    else
        flags+=(--user "$(id -u):$(id -g)")
        for group in $(id -G); do [ "$group" = "$(id -g)" ] || flags+=(--group-add "$group"); done
    fi
    flags+=(--ulimit memlock=-1 --ulimit stack=67108864)
}

build_run() { # docker and podman
    local name
    flags=(run --rm --init --interactive)
    [ ! -t 0 ] || [ ! -t 1 ] || flags+=(--tty)
    user_flags
    flags+=(--network host --ipc host)
    [ ! -d /dev/infiniband ] || flags+=(--device /dev/infiniband --cap-add IPC_LOCK)
    gpu_flags
    flags+=(--mount "type=bind,src=$source,dst=/src,readonly" --mount "type=bind,src=$txt,dst=/txt,readonly"
        --mount "type=bind,src=$img,dst=/img,readonly" --mount "type=bind,src=$pretrain,dst=/pretrain,readonly"
        --mount "type=bind,src=$output,dst=/storage" --workdir /src --env HOME=/tmp --env "USER=$(id -un)")
    if [ -n "${SSH_DIR:-}" ]; then
        local ssh
        ssh=$(folder SSH_DIR "$SSH_DIR" ',')
        flags+=(--mount "type=bind,src=$ssh,dst=/tmp/.ssh,readonly")
    fi
    for name in $(passed_names); do flags+=(--env "$name"); done
    line=("$engine" "${flags[@]}" "$image" "$@")
}

# These two bring the caller's environment along; what would lead python astray stays outside.
outside=(env -u PYTHONPATH -u PYTHONHOME -u LD_LIBRARY_PATH -u LD_PRELOAD)

build_exec() { # apptainer and singularity
    flags=(exec --pwd /src --bind "$source:/src:ro" --bind "$txt:/txt:ro" --bind "$img:/img:ro"
        --bind "$pretrain:/pretrain:ro" --bind "$output:/storage")
    if ! no_gpus && { all_gpus || [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; }; then flags+=(--nv); fi
    line=("${outside[@]}" "$engine" "${flags[@]}" "$image" "$@")
}

build_charliecloud() {
    flags=(--home --cd /src --set-env -b "$source:/src" -b "$txt:/txt" -b "$img:/img" -b "$pretrain:/pretrain" -b "$output:/storage")
    line=("${outside[@]}" "USER=$(id -un)" ch-run "${flags[@]}" "$image" -- "$@")
}

dry_run=
while [[ ${1:-} == -* ]]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --dry-run) dry_run=1 ;;
        *) refuse "no such option as $1; see --help" ;;
    esac
    shift
done
[ $# -ge 4 ] || refuse "needs TXT_DB IMG_DB OUTPUT PRETRAIN, got ${*:-nothing}; see --help"

source=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
choose_engine
check_image
forbidden=:,
[[ $engine != docker && $engine != podman ]] || forbidden=,
source=$(folder source "$source" $forbidden)
txt=$(folder TXT_DB "$1" $forbidden)
img=$(folder IMG_DB "$2" $forbidden)
output=$(folder OUTPUT "$3" $forbidden)
pretrain=$(folder PRETRAIN "$4" $forbidden)
shift 4
[ $# -gt 0 ] || set -- bash

case $engine in
    docker | podman) build_run "$@" ;;
    apptainer | singularity) build_exec "$@" ;;
    ch-run) build_charliecloud "$@" ;;
esac
if [ -n "$dry_run" ]; then
    printf '%s\n' "${line[*]@Q}"
    exit 0
fi
exec "${line[@]}"
