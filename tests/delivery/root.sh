#!/bin/sh
# Makes a clean Debian below the given directory, unless a whole one is there: root.sh DIRECTORY. It is this machine's release, and
# has what is essential there and nothing else.
set -eu

root=$1
[ ! -e "$root/.whole" ] || exit 0
# shellcheck source=/dev/null
. /etc/os-release
rm -rf "$root"
mkdir -p "$root"
# Debootstrap itself asks the mirror that apt would ask; it is told no other.
debootstrap --variant=minbase "$VERSION_CODENAME" "$root" >"$root.log" 2>&1 || {
    tail -n 20 "$root.log" >&2
    echo "no clean Debian could be made" >&2
    exit 1
}
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
touch "$root/.whole"
