#!/bin/sh
# Lays out the whole content of the image below a directory: root.sh PROGRAM DIRECTORY. The roots of public CAs are this machine's
# (Debian: ca-certificates); nothing else is taken from it.
set -eu
umask 022

roots=/etc/ssl/certs/ca-certificates.crt
[ -f "$roots" ] || {
    echo "root.sh: there is no $roots: apt-get install ca-certificates" >&2
    exit 1
}
rm -rf "$2"
mkdir -p "$2/etc/ssl/certs" "$2/etc/acme-proxy" "$2/usr/bin" "$2/var/lib"
install -m 0755 "$1" "$2/usr/bin/acme-proxy"
cp "$roots" "$2$roots"
echo "acme-proxy:x:65532:65532::/:/nonexistent" >"$2/etc/passwd"
echo "acme-proxy:x:65532:" >"$2/etc/group"
