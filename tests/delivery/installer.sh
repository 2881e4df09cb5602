#!/bin/sh
# install.sh in a clean Debian: installer.sh PROGRAM ROOT, with a built acme-proxy and what root.sh has made. As root, for chroot.
set -eu

program=$1
base=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
work=$(mktemp -d)
root=$work/root
trap 'rm -rf "$work"' EXIT
# shellcheck source=tests/delivery/cases.sh
. "$here/tests/delivery/cases.sh"

cp -a "$base" "$root"
"$here/deploy/dist.sh" "$program" "$work/dist" >/dev/null
archive=$(basename -- "$work"/dist/*.tar.gz)
mkdir "$root/release" "$root/source"
cp "$work/dist/"* "$root/release/"
cp -r "$here/install.sh" "$here/ca.json" "$here/systemd" "$root/source/"
cp "$here/tests/samples/esnet-installer-ca.json" "$root/source/esnet.json"
mkdir -p "$root/source/target/release"
cp "$program" "$root/source/target/release/acme-proxy"

# inside [NAME=VALUE...] COMMAND...: in the clean Debian, with an environment that has nothing else.
inside() {
    chroot "$root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# install [NAME=VALUE...]: from the release archive.
install_archive() {
    inside ARCHIVE="/release/$archive" "$@" /source/install.sh
}

# As if nothing had ever been installed.
clean_root() {
    rm -rf "$root/opt/acme-proxy" "$root/srv/acme" "$root/etc/acme" "$root/run/systemd" "$root/usr/local/sbin/systemctl"
    rm -f "$root"/etc/systemd/system/acme-proxy* "$root/called" "$root"/etc/systemd/system/multi-user.target.wants/acme-proxy*
    for user in acme-proxy ra; do
        ! inside id "$user" >/dev/null 2>&1 || inside userdel "$user"
    done
    ! inside getent group certs >/dev/null || inside groupdel certs
}

# Everything that an installation may have put somewhere, with mode, owner and content.
state() {
    (
        cd "$root"
        find opt srv etc/systemd/system etc/acme etc/passwd etc/group tmp -printf '%p %y %m %U:%G ' \
            \( -type f -exec sha256sum {} \; -o -printf '\n' \) 2>/dev/null | sed 's| [^ ]*$||' | LC_ALL=C sort
    )
}

mode() {
    inside stat -c '%a %U:%G' "$1"
}

fill_in() {
    sed -i -e 's|"ca_url": ""|"ca_url": "https://ca.example.com/dir"|' -e 's|"eab_kid": ""|"eab_kid": "kid"|' \
        -e 's|"eab_hmac_key": ""|"eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"|' "$root$1"
}

scripts_are_clean() {
    cd "$here"
    shellcheck install.sh deploy/*.sh tests/needs.sh tests/delivery/*.sh
}

from_an_archive() {
    clean_root
    install_archive
    is "$(mode /opt/acme-proxy)" "750 root:acme-proxy"
    is "$(mode /opt/acme-proxy/acme-proxy)" "755 root:root"
    is "$(mode /opt/acme-proxy/ca.json)" "640 root:acme-proxy"
    is "$(mode /opt/acme-proxy/db)" "700 acme-proxy:acme-proxy"
    is "$(mode /etc/systemd/system/acme-proxy.service)" "644 root:root"
    is "$(inside getent passwd acme-proxy | cut -d: -f6,7)" "/:/usr/sbin/nologin"
    grep -q '^ExecStart=/opt/acme-proxy/acme-proxy /opt/acme-proxy/ca.json$' "$root/etc/systemd/system/acme-proxy.service"
    cmp "$program" "$root/opt/acme-proxy/acme-proxy"
    # What is laid down needs nothing but the CA's words in it.
    says "ca_url" inside /opt/acme-proxy/acme-proxy check /opt/acme-proxy/ca.json
    fill_in /opt/acme-proxy/ca.json
    inside /opt/acme-proxy/acme-proxy check /opt/acme-proxy/ca.json
}

a_second_run() {
    clean_root
    install_archive
    state >"$work/before"
    install_archive
    state >"$work/after"
    cmp "$work/before" "$work/after"
}

from_where_it_was_unpacked() {
    clean_root
    rm -rf "$root/unpacked"
    mkdir "$root/unpacked"
    tar -xzf "$work/dist/$archive" -C "$root/unpacked" --strip-components=1
    inside /unpacked/install.sh
    cmp "$program" "$root/opt/acme-proxy/acme-proxy"
    clean_root
    state >"$work/before"
    echo >>"$root/unpacked/ca.json"
    says "what was unpacked is not what was packed: ca.json: FAILED" inside /unpacked/install.sh
    state >"$work/after"
    cmp "$work/before" "$work/after"
}

from_a_local_build() {
    clean_root
    inside /source/install.sh
    cmp "$program" "$root/opt/acme-proxy/acme-proxy"
    clean_root
    says "there is no /release/none; run make build first" inside BINARY=/release/none /source/install.sh
    printf '\177ELF rubbish' >"$root/release/rubbish"
    chmod 755 "$root/release/rubbish"
    says "/release/rubbish does not run on this machine" inside BINARY=/release/rubbish /source/install.sh
    test ! -e "$root/opt/acme-proxy"
}

bad_archives() {
    clean_root
    state >"$work/before"
    bad=$root/bad
    rm -rf "$bad"
    mkdir "$bad"
    sum=$(cut -d ' ' -f 1 <"$work/dist/SHA256SUMS")

    cp "$work/dist/$archive" "$bad/$archive"
    says "nothing tells the checksum of /bad/$archive" inside ARCHIVE="/bad/$archive" /source/install.sh
    says "is no SHA-256: that has 64 digits" inside ARCHIVE="/bad/$archive" CHECKSUM=abc /source/install.sh
    says "\"no digits\" is no SHA-256" inside ARCHIVE="/bad/$archive" CHECKSUM="no digits" /source/install.sh
    says "it is damaged, or not the one that was released" \
        inside ARCHIVE="/bad/$archive" CHECKSUM="$(echo "$sum" | tr 0-9 1-90)" /source/install.sh
    echo "$sum  another.tar.gz" >"$bad/SHA256SUMS"
    says "/bad/SHA256SUMS does not have $archive" inside ARCHIVE="/bad/$archive" /source/install.sh

    # One bit, and a download that broke off.
    cp "$work/dist/SHA256SUMS" "$bad/"
    printf '\001' | dd of="$bad/$archive" bs=1 seek=100000 conv=notrunc 2>/dev/null
    says "it is damaged, or not the one that was released" inside ARCHIVE="/bad/$archive" /source/install.sh
    head -c 100000 "$work/dist/$archive" >"$bad/$archive"
    says "it is damaged, or not the one that was released" inside ARCHIVE="/bad/$archive" /source/install.sh

    # The right checksum of the wrong thing.
    echo "no archive" >"$bad/page.tar.gz"
    says "/bad/page.tar.gz can not be unpacked" \
        inside ARCHIVE=/bad/page.tar.gz CHECKSUM="$(sha256sum <"$bad/page.tar.gz" | cut -d ' ' -f 1)" /source/install.sh
    tar -czf "$bad/other.tar.gz" -C "$here" LICENSE README.md
    says "/bad/other.tar.gz is no release archive of acme-proxy" \
        inside ARCHIVE=/bad/other.tar.gz CHECKSUM="$(sha256sum <"$bad/other.tar.gz" | cut -d ' ' -f 1)" /source/install.sh

    says "there is no /bad/none.tar.gz" inside ARCHIVE=/bad/none.tar.gz /source/install.sh
    says "ARCHIVE and BINARY are both set" inside ARCHIVE="/release/$archive" BINARY=/bin/true /source/install.sh
    says "CHECKSUM is the SHA-256 of ARCHIVE, which is not set" inside CHECKSUM="$sum" /source/install.sh
    state >"$work/after"
    cmp "$work/before" "$work/after"

    # In either case of letters.
    inside ARCHIVE="/release/$archive" CHECKSUM="$(echo "$sum" | tr a-f A-F)" /source/install.sh
}

bad_values() {
    clean_root
    state >"$work/before"
    while IFS='|' read -r value text; do
        says "$text" inside "$value" /source/install.sh
    done <<'END'
INSTALL_DIR=opt/acme-proxy|INSTALL_DIR is "opt/acme-proxy", which is not a full path
INSTALL_DIR=/opt/acme proxy|only letters, digits
INSTALL_DIR=/opt/$(id)|only letters, digits
INSTALL_DIR=/opt/a;b|only letters, digits
INSTALL_DIR=/opt/../etc|without ".."
INSTALL_DIR=/opt/acme-proxy/|a double slash or one at the end
INSTALL_DIR=/opt|a directory at the top
INSTALL_DIR=/|a double slash or one at the end
DB_DIR=db|DB_DIR is "db", which is not a full path
DB_DIR=/var|a directory at the top
CONFIG_FILE=ca.json|CONFIG_FILE is "ca.json", which is not a full path
UNIT_DIR=units|UNIT_DIR is "units", which is not a full path
SERVICE_USER=root|SERVICE_USER is root
SERVICE_USER=a b|SERVICE_USER is "a b", which is no name
SERVICE_USER=-r|SERVICE_USER is "-r", which is no name
SERVICE_GROUP=a:b|SERVICE_GROUP is "a:b", which is no name
CHECK=maybe|CHECK is "maybe": write yes or no
END
    says '"--help-me" can not be understood' inside /source/install.sh --help-me
    says '"--purge" can not be understood' inside /source/install.sh --purge
    inside /source/install.sh --help | grep -q INSTALL_DIR
    says "run this as root, or set DESTDIR" chroot --userspec=nobody "$root" /source/install.sh
    state >"$work/after"
    cmp "$work/before" "$work/after"
}

other_values() {
    clean_root
    install_archive INSTALL_DIR=/srv/acme/bin DB_DIR=/srv/acme/store CONFIG_FILE=/etc/acme/ra.json SERVICE_USER=ra SERVICE_GROUP=certs
    unit=$root/etc/systemd/system/acme-proxy.service
    grep -qx 'ExecStart=/srv/acme/bin/acme-proxy /etc/acme/ra.json' "$unit"
    grep -qx 'ReadWritePaths=/srv/acme/store' "$unit"
    grep -qx 'User=ra' "$unit"
    grep -qx 'Group=certs' "$unit"
    never grep /opt/acme-proxy "$unit" "$root/etc/acme/ra.json"
    grep -q '"dataSource": "/srv/acme/store/sled"' "$root/etc/acme/ra.json"
    is "$(mode /etc/acme/ra.json)" "640 root:certs"
    is "$(mode /srv/acme/store)" "700 ra:certs"
    test ! -e "$root/opt/acme-proxy"
    fill_in /etc/acme/ra.json
    inside /srv/acme/bin/acme-proxy check /etc/acme/ra.json
}

upgrade() {
    clean_root
    install_archive
    fill_in /opt/acme-proxy/ca.json
    sha256sum <"$root/opt/acme-proxy/ca.json" >"$work/configuration"
    # The program of before is at work.
    cp "$root/bin/sleep" "$root/opt/acme-proxy/acme-proxy"
    inside /opt/acme-proxy/acme-proxy 60 &
    running=$!
    sleep 0.2
    install_archive
    kill -0 "$running"
    kill "$running"
    cmp "$program" "$root/opt/acme-proxy/acme-proxy"
    sha256sum <"$root/opt/acme-proxy/ca.json" | cmp - "$work/configuration"
    is "$(mode /opt/acme-proxy/ca.json)" "640 root:acme-proxy"
}

unusable_configuration() {
    clean_root
    install_archive
    fill_in /opt/acme-proxy/ca.json
    sed -i 's|https://ca.example.com|ftp://ca.example.com|' "$root/opt/acme-proxy/ca.json"
    echo "the program of before" >"$root/opt/acme-proxy/acme-proxy"
    state >"$work/before"
    says "ca_url" install_archive
    grep -qF "can not use /opt/acme-proxy/ca.json, as said above; nothing was changed" "$work/said"
    state >"$work/after"
    cmp "$work/before" "$work/after"
    # Whoever knows better may say so.
    install_archive CHECK=no
    cmp "$program" "$root/opt/acme-proxy/acme-proxy"

    rm "$root/opt/acme-proxy/ca.json"
    ln -s /nowhere "$root/opt/acme-proxy/ca.json"
    says "ca.json is a symbolic link to nothing" install_archive
    rm "$root/opt/acme-proxy/ca.json"
    mkdir "$root/opt/acme-proxy/ca.json"
    says "ca.json is not a file" install_archive
}

# What esnet/acme-proxy's installer leaves: everything the service's own, and ca.json for all to read.
esnet() {
    clean_root
    inside useradd --system --no-create-home --shell /usr/sbin/nologin acme-proxy
    mkdir -p "$root/opt/acme-proxy/db"
    printf '#!/bin/sh\nexit 0\n' >"$root/opt/acme-proxy/step-ca"
    echo "accounts" >"$root/opt/acme-proxy/db/bbolt"
    cp "$root/source/esnet.json" "$root/opt/acme-proxy/ca.json"
    inside chown -R acme-proxy:acme-proxy /opt/acme-proxy
    chmod 755 "$root/opt/acme-proxy" "$root/opt/acme-proxy/db" "$root/opt/acme-proxy/step-ca"
    chmod 644 "$root/opt/acme-proxy/ca.json"
    printf '[Service]\nUser=acme-proxy\nExecStart=/opt/acme-proxy/step-ca /opt/acme-proxy/ca.json\n' \
        >"$root/etc/systemd/system/acme-proxy.service"
    fill_in /opt/acme-proxy/ca.json
}

in_place_of_esnet() {
    esnet
    (cd "$root/opt/acme-proxy" && sha256sum ca.json step-ca db/bbolt) >"$work/kept"
    cp "$root/etc/systemd/system/acme-proxy.service" "$work/unit"
    install_archive >"$work/said"
    grep -q "warning: every user of this host could read /opt/acme-proxy/ca.json (mode 644); it is 0640 now" "$work/said"
    (cd "$root/opt/acme-proxy" && sha256sum -c "$work/kept")
    cmp "$work/unit" "$root/etc/systemd/system/acme-proxy.service.before"
    grep -qx 'ExecStart=/opt/acme-proxy/acme-proxy /opt/acme-proxy/ca.json' "$root/etc/systemd/system/acme-proxy.service"
    is "$(mode /opt/acme-proxy)" "750 root:acme-proxy"
    is "$(mode /opt/acme-proxy/ca.json)" "640 root:acme-proxy"
    is "$(mode /opt/acme-proxy/db)" "700 acme-proxy:acme-proxy"
    # The service itself can read what it needs, and write where it has to.
    chroot --userspec=acme-proxy:acme-proxy "$root" /opt/acme-proxy/acme-proxy check /opt/acme-proxy/ca.json
    chroot --userspec=acme-proxy:acme-proxy "$root" mkdir /opt/acme-proxy/db/bbolt.sled
    says "Permission denied" chroot --userspec=nobody "$root" cat /opt/acme-proxy/ca.json
    # Not once more.
    state >"$work/before"
    install_archive >"$work/said"
    never grep warning "$work/said"
    state >"$work/after"
    cmp "$work/before" "$work/after"
}

# At each command that changes files the run is ended once, at once or politely.
interrupted() {
    esnet
    # One that is quick to copy.
    program=$root/source/small
    printf '#!/bin/sh\necho "acme-proxy 0.1.0"\n' >"$program"
    chmod 755 "$program"
    before=$(sha256sum <"$root/opt/acme-proxy/ca.json")
    cp -a "$root" "$work/start"
    mkdir -p "$root/usr/local/sbin" "$work/start/usr/local/sbin"
    for tool in chown chmod mkdir cp mv; do
        cat >"$work/start/usr/local/sbin/$tool" <<END
#!/bin/sh
echo >>/steps
[ "\$(wc -l </steps)" -ne "\$CUT" ] || kill -"\$SIGNAL" "\$PPID"
exec /bin/$tool "\$@"
END
        chmod 755 "$work/start/usr/local/sbin/$tool"
    done
    for signal in KILL TERM; do
        cut=0
        while :; do
            cut=$((cut + 1))
            rm -rf "${root:?}/opt" "${root:?}/etc" "$root/steps"
            cp -a "$work/start/opt" "$work/start/etc" "$root/"
            cp "$work/start/usr/local/sbin/"* "$root/usr/local/sbin/"
            ended=0
            inside BINARY=/source/small CUT="$cut" SIGNAL="$signal" /source/install.sh || ended=$?
            for tool in chown chmod mkdir cp mv; do
                rm "$root/usr/local/sbin/$tool"
            done
            # Whatever has a name that anything would look for is whole.
            is "$(sha256sum <"$root/opt/acme-proxy/ca.json")" "$before"
            [ ! -e "$root/opt/acme-proxy/acme-proxy" ] || cmp "$program" "$root/opt/acme-proxy/acme-proxy"
            grep -q '^ExecStart=' "$root/etc/systemd/system/acme-proxy.service"
            if grep -q '^ExecStart=/opt/acme-proxy/acme-proxy' "$root/etc/systemd/system/acme-proxy.service"; then
                cmp "$program" "$root/opt/acme-proxy/acme-proxy"
            fi
            if [ "$signal" = TERM ]; then
                is "$(find "$root/opt" "$root/etc/systemd" -name '*.new.*')" ""
                is "$(find "$root/tmp" -mindepth 1)" ""
            fi
            # And the next run does the rest.
            inside BINARY=/source/small /source/install.sh
            cmp "$program" "$root/opt/acme-proxy/acme-proxy"
            is "$(find "$root/opt" "$root/etc/systemd" -name '*.new.*')" ""
            grep -q '^ExecStart=/opt/acme-proxy/acme-proxy' "$root/etc/systemd/system/acme-proxy.service"
            rm -rf "$root"/tmp/*
            [ "$ended" -ne 0 ] || break
        done
        [ "$cut" -gt 8 ]
    done
    rm -rf "$work/start"
}

full_disk() {
    clean_root
    mkdir -p "$root/opt/acme-proxy"
    mount -t tmpfs -o size=4m,mode=750 tmpfs "$root/opt/acme-proxy"
    echo "the program of before" >"$root/opt/acme-proxy/acme-proxy"
    ended=0
    says "No space left on device" install_archive || ended=$?
    content=$(cat "$root/opt/acme-proxy/acme-proxy")
    left=$(find "$root/opt/acme-proxy" -name '*.new.*')
    umount "$root/opt/acme-proxy"
    is "$ended" 0
    is "$content" "the program of before"
    is "$left" ""
}

with_systemd() {
    clean_root
    mkdir -p "$root/run/systemd/system"
    printf '#!/bin/sh\necho "$*" >>/called\n' >"$root/usr/local/sbin/systemctl"
    chmod 755 "$root/usr/local/sbin/systemctl"
    install_archive
    is "$(cat "$root/called")" "daemon-reload
enable acme-proxy"
    rm "$root/called"
    touch "$root/etc/systemd/system/acme-proxy.socket"
    inside /source/install.sh --uninstall
    is "$(cat "$root/called")" "disable --now acme-proxy.socket
disable --now acme-proxy.service
daemon-reload"
    clean_root
}

uninstalled() {
    clean_root
    install_archive
    fill_in /opt/acme-proxy/ca.json
    echo record >"$root/opt/acme-proxy/db/record"
    before=$(sha256sum <"$root/opt/acme-proxy/ca.json")
    inside /source/install.sh --uninstall
    test ! -e "$root/opt/acme-proxy/acme-proxy"
    test ! -e "$root/etc/systemd/system/acme-proxy.service"
    is "$(sha256sum <"$root/opt/acme-proxy/ca.json")" "$before"
    is "$(cat "$root/opt/acme-proxy/db/record")" record
    inside id acme-proxy
    says "there is neither /opt/acme-proxy/acme-proxy nor /etc/systemd/system/acme-proxy.service" inside /source/install.sh --uninstall

    # Installed again, it goes on with what was there.
    install_archive
    is "$(sha256sum <"$root/opt/acme-proxy/ca.json")" "$before"

    inside /source/install.sh --uninstall --purge
    test ! -e "$root/opt/acme-proxy"
    says "no such user" inside id acme-proxy

    # A file of the administrator's is nothing that was installed.
    install_archive
    echo secret >"$root/opt/acme-proxy/eab"
    inside /source/install.sh --uninstall --purge
    is "$(ls "$root/opt/acme-proxy")" eab
}

not_ours() {
    esnet
    state >"$work/before"
    says "does not start /opt/acme-proxy/acme-proxy: it is not of this installation, and nothing was removed" \
        inside /source/install.sh --uninstall --purge
    state >"$work/after"
    cmp "$work/before" "$work/after"
}

below_destdir() {
    clean_root
    state >"$work/before"
    chmod 755 "$root"
    inside install -d -m 0777 /destdir
    chroot --userspec=nobody "$root" /usr/bin/env DESTDIR=/destdir ARCHIVE="/release/$archive" /source/install.sh
    is "$(cd "$root/destdir" && find . -type f | LC_ALL=C sort | grep -v '\.socket$')" "./etc/systemd/system/acme-proxy.service
./opt/acme-proxy/acme-proxy
./opt/acme-proxy/ca.json"
    chroot --userspec=nobody "$root" /usr/bin/env DESTDIR=/destdir /source/install.sh --uninstall --purge
    is "$(cd "$root/destdir" && find . -type f)" ""
    state >"$work/after"
    cmp "$work/before" "$work/after"
}

it "the scripts pass shellcheck" scripts_are_clean
it "a release archive is installed with the modes and owners that it needs" from_an_archive
it "a second run changes nothing" a_second_run
it "an archive that was unpacked installs itself, and not if a file was changed" from_where_it_was_unpacked
it "a local build is installed, and not one that is missing or does not run" from_a_local_build
it "an archive that is damaged, unchecked or another's is refused before anything is touched" bad_archives
it "bad values and arguments are refused, each by its name, before anything is touched" bad_values
it "program, store, configuration, user and group go where the variables say" other_values
it "an upgrade replaces a running program and keeps ca.json" upgrade
it "an upgrade whose program can not use ca.json changes nothing" unusable_configuration
it "an installation of esnet/acme-proxy is taken over in place, and can go back" in_place_of_esnet
it "a run that is cut off at any step leaves whole files, and the next one ends the work" interrupted
it "on a full disk the program of before stays" full_disk
it "systemd hears of it" with_systemd
it "uninstalling keeps ca.json and the store; --purge does not" uninstalled
it "what was not installed by it is not removed by it" not_ours
it "below DESTDIR anybody may lay the files out, and nothing else happens" below_destdir
close
