#!/bin/sh
# Lays out below a directory what the Debian package holds, for `cargo deb`: stage.sh PROGRAM DIRECTORY.
set -eu
umask 022

here=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
rm -rf "$2"
mkdir -p "$2"
DESTDIR=$2 BINARY=$1 INSTALL_DIR=/usr/bin CONFIG_FILE=/etc/acme-proxy/ca.json DB_DIR=/var/lib/acme-proxy \
    UNIT_DIR=/usr/lib/systemd/system "$here/install.sh" >/dev/null
