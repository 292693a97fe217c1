#!/usr/bin/env bash
# Build the CPU image from the real Dockerfile without a container engine, and run the demo's training in it.
#
#   make image-test             on Debian 12, as root; buildah, debootstrap and charliecloud are installed where missing
#
# Environment:
#   IMAGE_TEST_DIR     where base, layers and caches stay for the next time (about 5 GB; default ~/.cache/crossmatch/image)
#   IMAGE_TEST_FLAGS   more flags for the training: "--warmup_steps 2 --num_train_steps 20 --valid_steps 20" for a quick look
#   TORCH_INDEX        index of torch's CPU build; default: what this host's pip is configured to find
#
# What this host needs to reach its package index (pip's configuration, certificates, apt's sources and proxy) goes into
# the build as secrets and read-only volumes, and the finished image is searched for it.
set -euo pipefail
cd "$(dirname "$0")/.."
kept=${IMAGE_TEST_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/crossmatch/image}
nobody=12345

say() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }
fail() { echo "image-test: $1" >&2; exit 1; }

work=$(mktemp -d)
containers=()
stop_server() { # in a chroot it has the number that the host knows
    [ ! -f "$work/storage/home/server" ] || kill "$(cat "$work/storage/home/server")" 2>/dev/null || true
    rm -f "$work/storage/home/server"
}
clean_up() {
    local name
    stop_server
    for name in "${containers[@]}"; do
        buildah umount "$name" >/dev/null 2>&1 || true
        buildah rm "$name" >/dev/null 2>&1 || true
    done
    awk -v below="$kept/graph" 'index($2, below) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount
    rm -rf "$work"
}
trap clean_up EXIT

need_tools() {
    local missing=() package
    for package in buildah debootstrap charliecloud-runtime; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || fail "needs ${missing[*]}; install them with apt"
    say "installing ${missing[*]}"
    { apt-get update -qq && apt-get install -qq -y --no-install-recommends "${missing[@]}"; } >"$work/apt.log" 2>&1 ||
        { tail -n 5 "$work/apt.log" >&2; fail "apt could not install ${missing[*]}"; }
}

# Everything of buildah's stays in one folder; overlay mounts where the kernel lets us, plain copies elsewhere.
set_up_storage() {
    local driver=vfs
    mkdir -p "$kept/tmp" "$work"/{lower,upper,scratch,merged}
    if mount -t overlay -o "lowerdir=$work/lower,upperdir=$work/upper,workdir=$work/scratch" overlay "$work/merged" 2>/dev/null; then
        umount "$work/merged"
        driver=overlay
    fi
    printf '[storage]\ndriver = "%s"\nrunroot = "%s"\ngraphroot = "%s"\n' "$driver" "$work/run" "$kept/graph.$driver" >"$work/storage.conf"
    export CONTAINERS_STORAGE_CONF=$work/storage.conf BUILDAH_ISOLATION=chroot TMPDIR=$kept/tmp
    say "storage: $driver, in $kept"
}

base=localhost/crossmatch-base:bookworm
make_base() {
    ! buildah inspect --type image "$base" >/dev/null 2>&1 || return 0
    say "base: a Debian 12 of debootstrap's, as debian:bookworm-slim would be"
    debootstrap --variant=minbase bookworm "$work/rootfs" >"$work/debootstrap.log" 2>&1 ||
        { tail -n 5 "$work/debootstrap.log" >&2; fail "debootstrap failed"; }
    rm -rf "$work"/rootfs/var/cache/apt/archives/*.deb "$work"/rootfs/var/lib/apt/lists/* "$work/rootfs/etc/apt/sources.list"
    : >"$work/rootfs/etc/resolv.conf"
    : >"$work/rootfs/etc/hostname"
    cat >"$work/rootfs/etc/apt/sources.list.d/debian.sources" <<'SOURCES'
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
    local name
    name=$(buildah from scratch)
    containers+=("$name")
    buildah add -q "$name" "$work/rootfs" / >/dev/null
    buildah config --cmd bash "$name"
    buildah commit -q "$name" "$base" >/dev/null
    rm -rf "$work/rootfs"
}

# pip's configuration of this host as one file, and the folders that it names; certificates get their name in the build.
host_secrets() {
    local certificates folder sources=/etc/apt/sources.list.d/debian.sources
    .venv/bin/python -m pip config list | .venv/bin/python -c '
import ast, os, sys
from urllib.parse import urlparse
found = {}
for line in sys.stdin:
    key, _, value = line.strip().partition("=")
    found[key.rpartition(".")[2]] = ast.literal_eval(value)
certificates = found.get("cert", "")
if certificates:
    found["cert"] = "/run/secrets/ca"
words = [word for value in found.values() for word in value.split()]
# The files of an index in folders lie beside its pages, in the folder above.
folders = {os.path.dirname(urlparse(word).path.rstrip("/")) for word in words if word.startswith("file://")}
folders |= {word for word in words if word.startswith("/")}
with open(sys.argv[1], "w") as file:
    file.write("[global]\n" + "".join(f"{key} = {value}\n" for key, value in found.items()))
with open(sys.argv[2], "w") as file:
    file.write("".join(f"{folder}\n" for folder in sorted(folders) if os.path.isdir(folder)))
print(certificates)' "$work/pip.conf" "$work/folders" >"$work/certificates"
    certificates=$(cat "$work/certificates")
    secrets=(--secret "id=pip,src=$work/pip.conf")
    [ -z "$certificates" ] || secrets+=(--secret "id=ca,src=$certificates")
    apt-config dump | grep -i '^Acquire::https\?::proxy' >"$work/apt.conf" && secrets+=(--secret "id=apt,src=$work/apt.conf")
    [ ! -f "$sources" ] || secrets+=(--secret "id=sources,src=$sources")
    while read -r folder; do secrets+=(--volume "$folder:$folder:ro"); done <"$work/folders"
}

image=localhost/crossmatch-cpu
build() {
    say "building $image, target runtime, from Dockerfile"
    buildah build --layers --target runtime --tag "$image" --build-arg "BASE=$base" --build-arg "CUDA=$base" \
        --build-arg "TORCH_INDEX=${TORCH_INDEX:-}" "${secrets[@]}" . >"$work/build.log" 2>&1 ||
        { tail -n 40 "$work/build.log" | cut -c1-400 >&2; fail "the image could not be built"; }
    grep -E '^(STEP|\[[0-9]/[0-9]\] STEP|-->)' "$work/build.log" | cut -c1-110 || true
}

# As ch-convert does, the image's environment becomes a file; then the image is looked through.
open_image() {
    name=$(buildah from "$image")
    containers+=("$name")
    root=$(buildah mount "$name")
    mkdir -p "$root/ch"
    buildah inspect --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$name" | sed '/^$/d' >"$root/ch/environment"
    du -shx "$root" | sed 's/\t.*/ in the image/'
}

search_image() {
    say "nothing of this host, no source, no keys in the image"
    local left
    left=$(find "$root"/etc/{pip.conf,resolv.conf,apt/apt.conf.d/90build} "$root"/run/secrets "$root"/root/.cache \
        "$root"/etc/ssh/ssh_host_* "$root"/src "$root"/build -type f -size +0 2>/dev/null || true)
    [ -z "$left" ] || fail "left in the image: $left"
    sed -nE 's/^(index-url|extra-index-url|find-links) = //p' "$work/pip.conf" | tr -s ' ' '\n' >"$work/words"
    if [ -s "$work/words" ]; then
        left=$(grep -rIlFf "$work/words" "$root"/{etc,root,opt/venv/bin} || true)
        [ -z "$left" ] || fail "an address of this host's package index is in $left"
        buildah inspect --type image "$image" >"$work/history"
        ! grep -qFf "$work/words" "$work/history" || fail "an address of this host's package index is in the image's history"
    fi
    echo "clean"
}

# As a user whom nobody knows, by buildah alone.
inside() {
    buildah run --isolation chroot --user "$nobody:$nobody" --volume "$PWD:/src:ro" \
        --volume "$work/storage:/storage:rw" --env HOME=/storage/home --env USER=caller "$name" -- enter.sh "$@"
}

prove_ssh() {
    say "ssh from rank to rank, as user $nobody"
    mkdir -p "$work/storage/home/.ssh"
    ssh-keygen -q -t ed25519 -N '' -f "$work/storage/home/.ssh/id_ed25519"
    cp "$work/storage/home/.ssh/id_ed25519.pub" "$work/storage/home/.ssh/authorized_keys"
    chown -R "$nobody:$nobody" "$work/storage"
    # shellcheck disable=SC2016 # the shell inside expands it
    inside env SSH_PORT=22322 sh -c 'echo $$ >/storage/home/server && exec ranks_here.sh' 2>"$work/sshd.log" &
    # shellcheck disable=SC2016 # the shell inside expands it
    inside bash -c 'for _ in $(seq 40); do (: </dev/tcp/127.0.0.1/22322) 2>/dev/null && break; sleep 0.5; done
        ssh -p 22322 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes 127.0.0.1 \
            "id -un; python -c \"import horovod.torch, config; print(config.__file__)\""' 2>"$work/ssh.log" >"$work/ssh.out" ||
        { cat "$work/ssh.log" "$work/sshd.log" >&2; fail "a rank could not be started over ssh"; }
    stop_server
    tr '\n' ' ' <"$work/ssh.out"
    grep -qx /src/config/__init__.py "$work/ssh.out" || fail "a rank over ssh does not find the project"
}

train() {
    local stores=$work/storage/scenes read_command=(--train_txt_dbs /txt/itm_scenes_train.db --train_img_dbs /img/train
        --val_txt_db /txt/itm_scenes_val.db --val_img_db /img/val --test_txt_db /txt/itm_scenes_test.db --test_img_db /img/test)
    say "stores, drawn inside the image by user $nobody"
    inside python scripts/make_scenes.py --output /storage/scenes
    mkdir "$work/pretrained" "$work/out"
    local launch=(./launch_container.sh "$stores/txt_db" "$stores/img_db" "$work/out" "$work/pretrained")
    export ENGINE=ch-run IMAGE=$root SCENES=/storage USER=${USER:-$(id -un)}
    "${launch[@]}" true || fail "launch_container.sh could not run the image with ch-run"
    # shellcheck disable=SC2206 # several flags in one variable
    local shortened=(${IMAGE_TEST_FLAGS:-})
    say "make demo's training through launch_container.sh and ch-run: two ranks ${shortened[*]}"
    "${launch[0]}" --dry-run "${launch[@]:1}" horovodrun -np 2 python train/itm_hn.py ...
    "${launch[@]}" horovodrun -np 2 python train/itm_hn.py --config config/demo-uniter.json "${read_command[@]}" \
        --output_dir /storage/run "${shortened[@]}"
    say "evaluation of its best checkpoint"
    "${launch[@]}" horovodrun -np 2 python train/evaluate.py --config /storage/run/config.json
}

main() {
    need_tools
    .venv/bin/hadolint Dockerfile
    set_up_storage
    make_base
    host_secrets
    build
    open_image
    search_image
    prove_ssh
    train
    say "image-test passed; kept for the next time: $(du -sh "$kept" | cut -f1) in $kept"
}

main
