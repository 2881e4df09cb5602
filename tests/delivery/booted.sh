#!/bin/sh
# The unit under a real systemd, as process 1 of a container of its own: booted.sh PROGRAM ROOT CA, with a built acme-proxy, what root.sh
# has made, and the throwaway CA of examples/. As root. The container's network has nothing but a loopback; walk.sh runs in it.
set -eu

program=$1
base=$2
ca=$3
here=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
work=$(mktemp -d)
root=$work/booted
trap 'rm -rf "$work"' EXIT

cp -a "$base" "$root"
cp /etc/resolv.conf "$root/etc/resolv.conf"
in_root() {
    chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"
}
{
    in_root apt-get update
    in_root apt-get install --yes --no-install-recommends systemd systemd-sysv systemd-resolved libnss-resolve dbus certbot curl \
        iproute2 knot openssl procps sudo
    in_root systemctl disable knot.service
} >"$work/packages.log" 2>&1 || {
    tail -n 20 "$work/packages.log" >&2
    exit 1
}
"$here/deploy/dist.sh" "$program" "$work/dist" >/dev/null
mkdir "$root/walk"
tar -xzf "$work/dist/"*.tar.gz -C "$root/walk" --strip-components=1
cp "$ca" "$root/walk/throwaway_ca"
cp "$here/tests/delivery/cases.sh" "$here/tests/delivery/booted/walk.sh" "$root/walk/"
cp "$here/tests/delivery/booted/walk.service" "$root/etc/systemd/system/"
in_root systemctl enable walk.service >/dev/null 2>&1
rm -f "$root/etc/resolv.conf" "$root/etc/machine-id"
ln -s /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

# The walk turns the machine off.
timeout 600 systemd-nspawn --quiet --directory "$root" --boot --private-network --register=no --keep-unit </dev/null >"$work/console.log" 2>&1 || true
[ -s "$root/walk/said" ] || {
    cat "$work/console.log" >&2
    echo "systemd did not come so far as to run the walk" >&2
    exit 1
}
cat "$root/walk/said"
tail -n 1 "$root/walk/said" | grep -q ', 0 failed$'
