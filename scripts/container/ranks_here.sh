#!/bin/sh
# Wait on this node for ranks that a horovodrun of another node starts here: an sshd of the caller's own.
#
#   SSH_DIR=~/.ssh launch_container.sh ... ranks_here.sh          on every other node
#   SSH_DIR=~/.ssh launch_container.sh ... horovodrun -p 2222 -np 16 -H node1:8,node2:8 python train/itm_hn.py ...
#
# SSH_PORT (2222) is its port. Only the keys in ~/.ssh/authorized_keys open it; it has a host key of its own, made anew.
set -eu
keys=$(mktemp -d)
server=
trap 'rm -rf "$keys"; [ -z "$server" ] || kill "$server" 2>/dev/null' EXIT
trap 'exit 143' TERM INT
ssh-keygen -q -t ed25519 -N '' -f "$keys/host"
echo "ranks_here: port ${SSH_PORT:-2222}, for $(id -un) with the keys in $HOME/.ssh/authorized_keys" >&2
# Sessions of sshd start from an empty environment; without these two python would not find the project.
/usr/sbin/sshd -D -e -f /dev/null -p "${SSH_PORT:-2222}" -h "$keys/host" -o UsePAM=no -o StrictModes=no \
    -o PidFile=none -o PasswordAuthentication=no -o AuthorizedKeysFile="$HOME/.ssh/authorized_keys" \
    -o SetEnv="PATH=$PATH PYTHONPATH=$PYTHONPATH" &
server=$!
wait "$server"
