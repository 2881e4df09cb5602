#!/bin/sh
# Installs, upgrades or removes acme-proxy as a systemd service: from a release archive, from where one was unpacked,
# or from a local build (`make install`). The variables are those of esnet/acme-proxy's installer and a few more.
#
# Whatever can be wrong is looked for before anything is touched. Then each file comes into its place by one rename, so
# that a run that is cut off leaves whole files only, and the next run goes on. With DESTDIR set, files are only laid
# out below it, for packages and tests: no user is made, no owner set, no service touched, no ca.json tried.
set -eu
umask 077

DESTDIR=${DESTDIR:-}
INSTALL_DIR=${INSTALL_DIR:-/opt/acme-proxy}
DB_DIR=${DB_DIR:-$INSTALL_DIR/db}
CONFIG_FILE=${CONFIG_FILE:-$INSTALL_DIR/ca.json}
SERVICE_USER=${SERVICE_USER:-acme-proxy}
SERVICE_GROUP=${SERVICE_GROUP:-$SERVICE_USER}
UNIT_DIR=${UNIT_DIR:-/etc/systemd/system}
ARCHIVE=${ARCHIVE:-}
CHECKSUM=${CHECKSUM:-}
BINARY=${BINARY:-}
CHECK=${CHECK:-yes}
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
UNIT=$UNIT_DIR/acme-proxy.service
PROGRAM=$INSTALL_DIR/acme-proxy

usage() {
    cat <<'END'
Usage: install.sh                      installs, or upgrades what is there; an existing ca.json is kept
       install.sh --uninstall          removes the program and its unit; keeps ca.json, the store and the user
       install.sh --uninstall --purge  removes these as well: every account, certificate and key is gone

Variables of the environment, with their defaults:
  ARCHIVE        a release archive; without it, what stands beside install.sh
  CHECKSUM       the archive's SHA-256; without it, SHA256SUMS beside the archive has it
  BINARY         a program that was built here       target/release/acme-proxy
  INSTALL_DIR    where the program goes              /opt/acme-proxy
  DB_DIR         where the store is                  INSTALL_DIR/db
  CONFIG_FILE    the configuration                   INSTALL_DIR/ca.json
  SERVICE_USER   whom the service runs as            acme-proxy
  SERVICE_GROUP  who may read the configuration      SERVICE_USER
  UNIT_DIR       where systemd looks for units       /etc/systemd/system
  CHECK=no       do not try an existing ca.json with the new program first
  DESTDIR        lay the files out below this directory, and do nothing else
END
}

say() {
    echo "install.sh: $*"
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

stage=
pending=
clean() {
    [ -z "$stage" ] || rm -rf "$stage"
    [ -z "$pending" ] || rm -f "$pending"
}
trap clean EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# The values go into files by sed, and into a unit file, where blanks separate words.
check_values() {
    for variable in INSTALL_DIR DB_DIR CONFIG_FILE UNIT_DIR; do
        value=$(eval "printf %s \"\$$variable\"")
        case $value in
            *[!A-Za-z0-9._/@+-]*) fail "$variable is \"$value\": only letters, digits and ._/@+- can be in it" ;;
            /*) ;;
            *) fail "$variable is \"$value\", which is not a full path" ;;
        esac
        case $value/ in
            */../* | */./* | *//*) fail "$variable is \"$value\": write it without \"..\", \".\", a double slash or one at the end" ;;
        esac
    done
    # What belongs to the service alone is never a directory of the system's, such as /var or /etc.
    for variable in INSTALL_DIR DB_DIR; do
        value=$(eval "printf %s \"\$$variable\"")
        case $value in
            /*/*) ;;
            *) fail "$variable is \"$value\", a directory at the top: give it one of its own, such as /opt/acme-proxy" ;;
        esac
    done
    for variable in SERVICE_USER SERVICE_GROUP; do
        value=$(eval "printf %s \"\$$variable\"")
        case $value in
            *[!A-Za-z0-9._-]* | [!A-Za-z_]*) fail "$variable is \"$value\", which is no name" ;;
        esac
    done
    [ "$SERVICE_USER" != root ] || fail "SERVICE_USER is root: the service needs no more than a user of its own"
    case $CHECK in
        yes | no) ;;
        *) fail "CHECK is \"$CHECK\": write yes or no" ;;
    esac
    [ -n "$DESTDIR" ] || [ "$(id -u)" -eq 0 ] || fail "run this as root, or set DESTDIR"
}

# own USER:GROUP FILE
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

# put MODE OWNER SOURCE TARGET: the target is the old file or the new one, whole, at any time.
put() {
    # What a run that was killed has left.
    rm -f "$DESTDIR$4".new.*
    pending=$DESTDIR$4.new.$$
    cp -- "$3" "$pending"
    chmod "$1" "$pending"
    own "$2" "$pending"
    mv -f -- "$pending" "$DESTDIR$4"
    pending=
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

# Leaves what is to be installed in `from` and `program`.
find_source() {
    [ -z "$CHECKSUM" ] || [ -n "$ARCHIVE" ] || fail "CHECKSUM is the SHA-256 of ARCHIVE, which is not set"
    if [ -n "$ARCHIVE" ]; then
        [ -z "$BINARY" ] || fail "ARCHIVE and BINARY are both set: which one is to be installed?"
        [ -f "$ARCHIVE" ] || fail "there is no $ARCHIVE"
        unpack
        program=$from/acme-proxy
    elif [ -z "$BINARY" ] && [ -f "$HERE/SHA256SUMS" ]; then
        from=$HERE
        wrong=$(cd "$HERE" && sha256sum --check --quiet --strict SHA256SUMS 2>&1) ||
            fail "what was unpacked is not what was packed: $wrong"
        program=$from/acme-proxy
    else
        from=$HERE
        program=${BINARY:-$HERE/target/release/acme-proxy}
    fi
    [ -f "$program" ] || fail "there is no $program; run make build first, or set ARCHIVE or BINARY"
    for file in ca.json systemd/acme-proxy.service; do
        [ -f "$from/$file" ] || fail "there is no $from/$file"
    done
    if [ -z "$DESTDIR" ]; then
        version=$("$program" --version 2>&1) || fail "$program does not run on this machine: $version"
    else
        version=acme-proxy
    fi
}

unpack() {
    name=$(basename -- "$ARCHIVE")
    expected=$CHECKSUM
    if [ -z "$expected" ]; then
        sums=$(dirname -- "$ARCHIVE")/SHA256SUMS
        [ -f "$sums" ] || fail "nothing tells the checksum of $ARCHIVE: set CHECKSUM, or put SHA256SUMS beside it"
        while read -r sum file; do
            [ "${file#\*}" != "$name" ] || expected=$sum
        done <"$sums"
        [ -n "$expected" ] || fail "$sums does not have $name"
    fi
    case $expected in
        *[!0-9A-Fa-f]*) fail "\"$expected\" is no SHA-256" ;;
    esac
    [ ${#expected} -eq 64 ] || fail "\"$expected\" is no SHA-256: that has 64 digits"
    stage=$(mktemp -d)
    # What is checked is what is unpacked, whoever may write to the archive in the meantime.
    cp -- "$ARCHIVE" "$stage/archive"
    actual=$(sha256sum <"$stage/archive")
    [ "${actual%% *}" = "$(echo "$expected" | tr A-F a-f)" ] ||
        fail "the SHA-256 of $ARCHIVE is ${actual%% *} and should be $expected: it is damaged, or not the one that was released"
    mkdir "$stage/content"
    tar --extract --gzip --no-same-owner --directory "$stage/content" --file "$stage/archive" ||
        fail "$ARCHIVE can not be unpacked"
    set -- "$stage/content"/*
    if [ $# -ne 1 ] || [ ! -f "$1/acme-proxy" ]; then
        fail "$ARCHIVE is no release archive of acme-proxy"
    fi
    from=$1
}

# An existing configuration has to do for the new program, or all stays as it is.
try_configuration() {
    config=$DESTDIR$CONFIG_FILE
    if [ -L "$config" ] && [ ! -e "$config" ]; then
        fail "$CONFIG_FILE is a symbolic link to nothing"
    fi
    [ -e "$config" ] || return 0
    [ -f "$config" ] || fail "$CONFIG_FILE is not a file"
    if [ -n "$DESTDIR" ] || [ "$CHECK" = no ] || adapted "$from/ca.json" | cmp -s - "$config"; then
        return 0
    fi
    # Relative paths count from the directory that the service runs in.
    directory=$INSTALL_DIR
    [ -d "$directory" ] || directory=/
    case $program in
        /*) tried=$program ;;
        *) tried=$(pwd)/$program ;;
    esac
    report=$(cd "$directory" && "$tried" check "$CONFIG_FILE" 2>&1) || {
        echo "$report" >&2
        fail "$version can not use $CONFIG_FILE, as said above; nothing was changed. Secrets that only the service" \
            "can read (env:NAME, /run/credentials) are no reason to stop: then set CHECK=no"
    }
}

make_user() {
    [ -z "$DESTDIR" ] || return 0
    getent group "$SERVICE_GROUP" >/dev/null || groupadd --system "$SERVICE_GROUP"
    id "$SERVICE_USER" >/dev/null 2>&1 ||
        useradd --system --gid "$SERVICE_GROUP" --no-create-home --home-dir / --shell /usr/sbin/nologin "$SERVICE_USER"
}

# esnet/acme-proxy's installer leaves ca.json for everybody to read, and the program for the service to overwrite.
tighten() {
    [ -z "$DESTDIR" ] || return 0
    if [ "$(stat -c %U "$INSTALL_DIR")" = "$SERVICE_USER" ]; then
        chown "root:$SERVICE_GROUP" "$INSTALL_DIR"
        chmod 0750 "$INSTALL_DIR"
    fi
    if [ "$(stat -c %U "$DB_DIR")" = "$SERVICE_USER" ]; then
        chmod 0700 "$DB_DIR"
    fi
    [ -e "$CONFIG_FILE" ] || return 0
    mode=$(stat -L -c %a "$CONFIG_FILE")
    case $mode in
        *0) ;;
        *)
            say "warning: every user of this host could read $CONFIG_FILE (mode $mode); it is 0640 now." \
                "If the EAB is in it and others have accounts here, ask the CA for another one"
            chown "root:$SERVICE_GROUP" "$CONFIG_FILE"
            chmod 0640 "$CONFIG_FILE"
            ;;
    esac
}

install_all() {
    find_source
    try_configuration
    [ -n "$stage" ] || stage=$(mktemp -d)
    adapted "$from/ca.json" >"$stage/ca.json"

    make_user
    new_dir 0750 "root:$SERVICE_GROUP" "$INSTALL_DIR"
    new_dir 0750 "root:$SERVICE_GROUP" "$(dirname -- "$CONFIG_FILE")"
    new_dir 0700 "$SERVICE_USER:$SERVICE_GROUP" "$DB_DIR"
    new_dir 0755 root:root "$UNIT_DIR"
    tighten

    put 0755 root:root "$program" "$PROGRAM"
    if [ -e "$DESTDIR$CONFIG_FILE" ]; then
        say "kept $CONFIG_FILE"
    else
        put 0640 "root:$SERVICE_GROUP" "$stage/ca.json" "$CONFIG_FILE"
        say "fill in dnsNames, commonName, ca_url, account_email and the EAB in $CONFIG_FILE"
    fi
    for unit in "$from"/systemd/*; do
        name=$(basename -- "$unit")
        adapted "$unit" >"$stage/unit"
        # An administrator's own lines belong in a drop-in, which is never touched; what stood here is kept for once.
        if [ -f "$DESTDIR$UNIT_DIR/$name" ] && ! cmp -s "$stage/unit" "$DESTDIR$UNIT_DIR/$name"; then
            put 0644 root:root "$DESTDIR$UNIT_DIR/$name" "$UNIT_DIR/$name.before"
            say "the unit that was there is in $UNIT_DIR/$name.before"
        fi
        put 0644 root:root "$stage/unit" "$UNIT_DIR/$name"
    done
    if has_systemd; then
        systemctl daemon-reload
        systemctl enable acme-proxy
    fi
    say "$version is in $INSTALL_DIR. Next: $PROGRAM check $CONFIG_FILE, then systemctl restart acme-proxy"
}

has_systemd() {
    [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]
}

uninstall() {
    if [ ! -e "$DESTDIR$PROGRAM" ] && [ ! -e "$DESTDIR$UNIT" ] && [ -z "$1" ]; then
        fail "there is neither $PROGRAM nor $UNIT; was it installed with another INSTALL_DIR or UNIT_DIR?"
    fi
    if [ -f "$DESTDIR$UNIT" ] && ! grep -q "^ExecStart=$PROGRAM " "$DESTDIR$UNIT"; then
        fail "$UNIT does not start $PROGRAM: it is not of this installation, and nothing was removed"
    fi
    # The socket unit, which is optional, would start the service again.
    for unit in acme-proxy.socket acme-proxy.service; do
        if has_systemd && [ -f "$UNIT_DIR/$unit" ]; then
            systemctl disable --now "$unit"
        fi
        rm -f "$DESTDIR$UNIT_DIR/$unit"
    done
    rm -f "$DESTDIR$PROGRAM"
    if has_systemd; then
        systemctl daemon-reload
    fi
    if [ -z "$1" ]; then
        say "removed $PROGRAM and $UNIT; kept $CONFIG_FILE, $DB_DIR and the user $SERVICE_USER"
        return 0
    fi
    rm -rf -- "$DESTDIR$DB_DIR"
    rm -f "$DESTDIR$CONFIG_FILE"
    # Other files of the administrator's stay, and with them the directory.
    rmdir "$DESTDIR$INSTALL_DIR" 2>/dev/null || [ ! -d "$DESTDIR$INSTALL_DIR" ] || say "$INSTALL_DIR is not empty, and stays"
    if [ -z "$DESTDIR" ] && id "$SERVICE_USER" >/dev/null 2>&1; then
        userdel "$SERVICE_USER"
    fi
    say "removed acme-proxy, its configuration, its store and its user. Whatever it had issued is still valid: an EAB that is not" \
        "used any more should be revoked at the CA"
}

case "$*" in
    --help | -h)
        usage
        exit 0
        ;;
    "" | --uninstall | "--uninstall --purge") ;;
    *)
        usage >&2
        fail "\"$*\" can not be understood"
        ;;
esac
check_values
case "$*" in
    "") install_all ;;
    --uninstall) uninstall "" ;;
    *) uninstall purge ;;
esac
