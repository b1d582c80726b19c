#!/usr/bin/env bash
# Runs the README's two commands on a bare Debian 12: a debootstrap chroot with python3, git and
# ca-certificates, the repository cloned into it, commands started as root without a terminal.
# A developer's tool: needs root and debootstrap, takes some minutes, is not part of `test`.
#
#   tests/fresh_machine.sh [--copy PATH]... [--env NAME]... [--only demo|test] DIRECTORY
#
# DIRECTORY holds the chroots (its `base` is kept for the next run, its `machine` is made anew).
# --copy and --env carry over what this network needs: certificates, package settings, proxies, e.g.
#   --copy /etc/ssl/certs --copy /etc/pip.conf --copy /etc/apt/apt.conf.d --env PIP_CERT --env https_proxy
set -euo pipefail

copies=() variables=() only="" directory=""
while [ $# -gt 0 ]; do
    case $1 in
        --copy) copies+=("$2"); shift 2 ;;
        --env) variables+=("$2"); shift 2 ;;
        --only) only=$2; shift 2 ;;
        -*) echo "unknown option $1" >&2; exit 2 ;;
        *) directory=$1; shift ;;
    esac
done
[ -n "$directory" ] || { sed -n '2,11p' "$0" >&2; exit 2; }

repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
base=$directory/base machine=$directory/machine
mkdir -p "$directory"

if [ ! -d "$base" ]; then
    debootstrap --variant=minbase --include=python3,git,ca-certificates bookworm "$base.new"
    mv "$base.new" "$base"
fi

# A /proc left mounted by an interrupted run must not be deleted through.
mountpoint -q "$machine/proc" && umount "$machine/proc"
rm -rf --one-file-system "$machine"
cp -a "$base" "$machine"
trap 'umount "$machine/proc" 2>/dev/null || true' EXIT
mount -t proc proc "$machine/proc"
cp --remove-destination /etc/resolv.conf /etc/hosts "$machine/etc/"
for path in ${copies[@]+"${copies[@]}"}; do
    mkdir -p "$machine$(dirname "$path")"
    rm -rf "${machine:?}$path" # its links would lead cp back to this machine's files
    cp -aLT "$path" "$machine$path"
done

git clone -q --no-hardlinks "$repository" "$machine/root/realm"

environment=(HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 CI=true)
for name in ${variables[@]+"${variables[@]}"}; do
    [ -n "${!name-}" ] && environment+=("$name=${!name}")
done

inside() {
    echo "== $*"
    time chroot "$machine" env -i "${environment[@]}" sh -c 'cd /root/realm && exec "$@"' sh "$@" </dev/null
}

for command in demo test; do
    [ -z "$only" ] || [ "$only" = "$command" ] || continue
    grep -q "python3 -m realm_build $command" "$repository/README.md" || { echo "the README lacks: $command" >&2; exit 1; }
    inside python3 -m realm_build "$command"
done
[ "$only" = test ] || inside python3 -m realm_build demo # the second time must be quick
echo "fresh machine: passed"
