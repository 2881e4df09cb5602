#!/bin/sh
# Lays out below a directory what the Debian package holds, for `cargo deb`: stage.sh PROGRAM DIRECTORY.
set -eu
umask 022

here=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
rm -rf "$2"
mkdir -p "$2"
DESTDIR=$2 BINARY=$1 INSTALL_DIR=/usr/bin CONFIG_FILE=/etc/acme-proxy/ca.json DB_DIR=/var/lib/acme-proxy \
    UNIT_DIR=/usr/lib/systemd/system "$here/install.sh" >/dev/null
mkdir -p "$2/usr/share/man/man1" "$2/usr/share/completions"
"$1" man --out "$2/usr/share/man/man1"
gzip -n -9 "$2/usr/share/man/man1/"*
for shell in bash zsh fish; do
    "$1" completions "$shell" >"$2/usr/share/completions/$shell"
done
