#!/bin/sh
# Installs a built acme-proxy as a systemd service; `make install` runs it. An existing ca.json is left alone.
#
# The variables are those of esnet/acme-proxy's installer. With DESTDIR set, files are only laid out below it, for
# packages and tests: no user is made, no owner set, no service touched.
set -eu
umask 077

DESTDIR=${DESTDIR:-}
INSTALL_DIR=${INSTALL_DIR:-/opt/acme-proxy}
DB_DIR=${DB_DIR:-$INSTALL_DIR/db}
CONFIG_FILE=${CONFIG_FILE:-$INSTALL_DIR/ca.json}
SERVICE_USER=${SERVICE_USER:-acme-proxy}
SERVICE_GROUP=${SERVICE_GROUP:-$SERVICE_USER}
UNIT_DIR=${UNIT_DIR:-/etc/systemd/system}
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
BINARY=${BINARY:-$HERE/target/release/acme-proxy}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

# The values go into files by sed, and into a unit file, where blanks separate words.
for value in "$INSTALL_DIR" "$DB_DIR" "$CONFIG_FILE" "$UNIT_DIR" "/$SERVICE_USER" "/$SERVICE_GROUP"; do
    case $value in
        *[!A-Za-z0-9._/@+-]*) fail "\"$value\" has a character other than letters, digits and ._/@+-" ;;
        /*) ;;
        *) fail "\"$value\" is not a full path" ;;
    esac
done
[ -f "$BINARY" ] || fail "there is no $BINARY; run make first, or set BINARY"
[ -n "$DESTDIR" ] || [ "$(id -u)" -eq 0 ] || fail "run this as root, or set DESTDIR"

# own USER:GROUP FILE...
own() {
    [ -n "$DESTDIR" ] || chown "$@"
}

# new_dir MODE OWNER DIR: an existing directory keeps its mode and owner; it may be one of the system's.
new_dir() {
    [ ! -d "$DESTDIR$3" ] || return 0
    (umask 022 && mkdir -p "$(dirname -- "$DESTDIR$3")")
    mkdir -m "$1" "$DESTDIR$3"
    own "$2" "$DESTDIR$3"
}

# adapted FILE: the file with this installation's paths and user. The longer paths go first: INSTALL_DIR begins them.
adapted() {
    sed -e "s|/opt/acme-proxy/db|@DB_DIR@|g" \
        -e "s|/opt/acme-proxy/ca.json|@CONFIG_FILE@|g" \
        -e "s|/opt/acme-proxy|$INSTALL_DIR|g" \
        -e "s|@DB_DIR@|$DB_DIR|g" \
        -e "s|@CONFIG_FILE@|$CONFIG_FILE|g" \
        -e "s|^User=.*|User=$SERVICE_USER|" \
        -e "s|^Group=.*|Group=$SERVICE_GROUP|" "$1"
}

if [ -z "$DESTDIR" ]; then
    getent group "$SERVICE_GROUP" >/dev/null || groupadd --system "$SERVICE_GROUP"
    id "$SERVICE_USER" >/dev/null 2>&1 ||
        useradd --system --gid "$SERVICE_GROUP" --no-create-home --home-dir / --shell /usr/sbin/nologin "$SERVICE_USER"
fi

new_dir 0750 "root:$SERVICE_GROUP" "$INSTALL_DIR"
new_dir 0750 "root:$SERVICE_GROUP" "$(dirname -- "$CONFIG_FILE")"
new_dir 0700 "$SERVICE_USER:$SERVICE_GROUP" "$DB_DIR"
new_dir 0755 root:root "$UNIT_DIR"

# A running program's file can not be written, but it can be replaced.
install -m 0755 "$BINARY" "$DESTDIR$INSTALL_DIR/acme-proxy.new"
mv -f "$DESTDIR$INSTALL_DIR/acme-proxy.new" "$DESTDIR$INSTALL_DIR/acme-proxy"

if [ -e "$DESTDIR$CONFIG_FILE" ]; then
    echo "kept $CONFIG_FILE; try it with: $INSTALL_DIR/acme-proxy check $CONFIG_FILE"
else
    adapted "$HERE/ca.json" >"$DESTDIR$CONFIG_FILE"
    chmod 0640 "$DESTDIR$CONFIG_FILE"
    own "root:$SERVICE_GROUP" "$DESTDIR$CONFIG_FILE"
    echo "fill in dnsNames, commonName, ca_url, account_email and the EAB in $CONFIG_FILE, then try it with:"
    echo "  $INSTALL_DIR/acme-proxy check $CONFIG_FILE"
fi

adapted "$HERE/systemd/acme-proxy.service" >"$DESTDIR$UNIT_DIR/acme-proxy.service"
chmod 0644 "$DESTDIR$UNIT_DIR/acme-proxy.service"

if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable acme-proxy
    echo "then start it with: systemctl restart acme-proxy"
fi
