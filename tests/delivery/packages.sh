#!/bin/sh
# The static program, the Debian package, the image, the chart, the compose file and the role: packages.sh PROGRAM ROOT TOOLS CA, with a built acme-proxy,
# what root.sh and tools.sh have made, and the throwaway CA of examples/. As root, for chroot.
set -eu

program=$1
base=$2
tools=$3
ca=$4
here=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
work=$(mktemp -d)
running=
# shellcheck disable=SC2086 # none or several
trap '[ -z "$running" ] || kill $running 2>/dev/null || true; rm -rf "$work"' EXIT
# shellcheck source=tests/delivery/cases.sh
. "$here/tests/delivery/cases.sh"

PATH=$tools/bin:$PATH
kid="kid-1"
key=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8
version=$("$program" --version | cut -d ' ' -f 2)
"$here/deploy/dist.sh" "$program" "$work/dist" >/dev/null
archive=$work/dist/acme-proxy-$version-linux-$(uname -m).tar.gz

# in_root ROOT COMMAND...
in_root() {
    directory=$1
    shift
    chroot "$directory" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"
}

# new_root NAME: a clean Debian that can install packages.
new_root() {
    cp -a "$base" "$work/$1"
    cp /etc/resolv.conf "$work/$1/etc/resolv.conf"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

needs_no_library() {
    ldd "$program" 2>&1 | grep -E "statically linked|not a dynamic executable"
    never grep -q "INTERP" "$work/headers"
}

fill_in() {
    sed -i -e 's|"ca_url": ""|"ca_url": "https://ca.example.com/dir"|' -e "s|\"eab_kid\": \"\"|\"eab_kid\": \"$kid\"|" \
        -e "s|\"eab_hmac_key\": \"\"|\"eab_hmac_key\": \"$key\"|" "$1"
}

same_archive_twice() {
    "$here/deploy/dist.sh" "$program" "$work/again" >/dev/null
    cmp "$archive" "$work/again/$(basename -- "$archive")"
    (cd "$work/dist" && sha256sum -c SHA256SUMS)
}

debian_package() {
    new_root debian
    root=$work/debian
    # cargo-deb takes its paths from the directory of Cargo.toml.
    "$here/deploy/debian/stage.sh" "$program" "$here/target/deb"
    (cd "$here" && cargo-deb --no-build --no-strip --fast --output "$work/deb/") >/dev/null
    package=$(echo "$work"/deb/*.deb)
    cp "$package" "$root/acme-proxy.deb"
    in_root "$root" apt-get update >/dev/null
    in_root "$root" apt-get install --yes --no-install-recommends /acme-proxy.deb
    is "$(in_root "$root" stat -c '%a %U:%G' /etc/acme-proxy/ca.json)" "640 root:acme-proxy"
    is "$(in_root "$root" stat -c '%a %U:%G' /var/lib/acme-proxy)" "700 acme-proxy:acme-proxy"
    unit=$root/usr/lib/systemd/system/acme-proxy.service
    grep -qx 'ExecStart=/usr/bin/acme-proxy /etc/acme-proxy/ca.json' "$unit"
    grep -qx 'ReadWritePaths=/var/lib/acme-proxy' "$unit"
    never grep /opt/acme-proxy "$unit" "$root/etc/acme-proxy/ca.json"
    test -s "$root/usr/share/bash-completion/completions/acme-proxy"
    fill_in "$root/etc/acme-proxy/ca.json"
    chroot --userspec=acme-proxy:acme-proxy "$root" /usr/bin/acme-proxy check /etc/acme-proxy/ca.json

    # Installed again, removed, and installed once more: the configuration is never touched.
    before=$(sha256sum <"$root/etc/acme-proxy/ca.json")
    echo record >"$root/var/lib/acme-proxy/record"
    in_root "$root" apt-get install --yes --reinstall /acme-proxy.deb
    is "$(sha256sum <"$root/etc/acme-proxy/ca.json")" "$before"
    in_root "$root" apt-get remove --yes acme-proxy
    test ! -e "$root/usr/bin/acme-proxy"
    test ! -e "$unit"
    is "$(sha256sum <"$root/etc/acme-proxy/ca.json")" "$before"
    is "$(cat "$root/var/lib/acme-proxy/record")" record
    in_root "$root" apt-get install --yes /acme-proxy.deb
    is "$(sha256sum <"$root/etc/acme-proxy/ca.json")" "$before"
    in_root "$root" apt-get purge --yes acme-proxy
    test ! -e "$root/etc/acme-proxy"
    test ! -e "$root/var/lib/acme-proxy"
    says "no such user" in_root "$root" id acme-proxy
}

# await COMMAND...: until it works, for half a minute.
await() {
    for _ in $(seq 300); do
        if "$@" >"$work/awaited" 2>&1; then
            return 0
        fi
        sleep 0.1
    done 2>/dev/null
    cat "$work/awaited"
    return 1
}

healthy() {
    curl --silent --show-error "http://127.0.0.1:$metrics/health" | grep -F '{"status":"ok"}'
}

# What the Containerfile says is what runs, as its user, with nothing else around it.
image() {
    "$here/deploy/container/root.sh" "$program" "$work/context/root"
    mkdir -p "$work/context/store"
    buildah="buildah --root $work/images --runroot $work/running --storage-driver vfs"
    $buildah bud --quiet --isolation chroot --tag acme-proxy --file "$here/deploy/container/Containerfile" "$work/context"
    container=$($buildah from acme-proxy)
    root=$($buildah mount "$container")
    is "$($buildah inspect --type image --format '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}}' acme-proxy)" \
        "65532:65532 [/usr/bin/acme-proxy] [/etc/acme-proxy/ca.json]"
    is "$(cd "$root" && find . -type f | LC_ALL=C sort)" "./etc/group
./etc/passwd
./etc/ssl/certs/ca-certificates.crt
./usr/bin/acme-proxy"
    is "$(stat -c '%u:%g' "$root/var/lib/acme-proxy")" 65532:65532

    ca_port=$(free_port)
    "$ca" --listen "127.0.0.1:$ca_port" --root "$work/ca.pem" --eab-kid "$kid" --eab-hmac-key "$key" >"$work/ca.log" &
    running=$!
    # What a container's runtime adds.
    mkdir "$root/dev"
    mknod -m 0666 "$root/dev/random" c 1 8
    mknod -m 0666 "$root/dev/urandom" c 1 9
    port=$(free_port)
    metrics=$(free_port)
    printf '127.0.0.1 localhost ca.test\n' >"$root/etc/hosts"
    printf 'nameserver 127.0.0.1\n' >"$root/etc/resolv.conf"
    await grep directory "$work/ca.log"
    cp "$work/ca.pem" "$root/etc/acme-proxy/ca.pem"
    directory_url=$(sed -n 's/^directory *//p' "$work/ca.log")
    cat >"$root/etc/acme-proxy/ca.json" <<END
{
  "address": "127.0.0.1:$port", "metricsAddress": "127.0.0.1:$metrics", "dnsNames": ["acmeproxy.example.com"],
  "db": {"type": "sled", "dataSource": "/var/lib/acme-proxy/sled"},
  "authority": {
    "type": "externalcas",
    "config": {"ca_url": "$directory_url", "ca_root": "/etc/acme-proxy/ca.pem", "eab_kid": "$kid", "eab_hmac_key": "$key"},
    "provisioners": [{"type": "ACME", "name": "acme"}]
  }
}
END
    chown 0:65532 "$root/etc/acme-proxy/ca.json"
    chmod 640 "$root/etc/acme-proxy/ca.json"
    chmod 644 "$root/etc/acme-proxy/ca.pem"
    env -i PATH="$PATH" chroot --userspec=65532:65532 "$root" /usr/bin/acme-proxy /etc/acme-proxy/ca.json 2>"$work/daemon.log" &
    daemon=$!
    running="$running $daemon"
    await healthy || {
        cat "$work/daemon.log"
        return 1
    }
    # Its own certificate is the CA's, and clients trust it.
    curl --silent --show-error --fail --cacert "$work/ca.pem" --resolve "acmeproxy.example.com:$port:127.0.0.1" \
        "https://acmeproxy.example.com:$port/acme/acme/directory" | grep -q newOrder
    kill "$daemon"
    wait "$daemon"
    # A name is looked up: the CA is found, and is not ca.test. The C library has no part in that: it would load this module, as it
    # does those of a host, which are made for another C library as a rule.
    mkdir -p "$root/lib/x86_64-linux-gnu"
    echo '__attribute__((constructor)) static void loaded(void) { __builtin_trap(); }' |
        cc -shared -nostdlib -x c -o "$root/lib/x86_64-linux-gnu/libnss_trap.so.2" -
    echo "hosts: trap files dns" >"$root/etc/nsswitch.conf"
    sed -i 's|https://127.0.0.1:|https://ca.test:|' "$root/etc/acme-proxy/ca.json"
    env -i PATH="$PATH" chroot --userspec=65532:65532 "$root" /usr/bin/acme-proxy /etc/acme-proxy/ca.json 2>"$work/daemon.log" &
    daemon=$!
    running="$running $daemon"
    await grep "not valid for name" "$work/daemon.log"
    kill "$daemon"
    wait "$daemon"
    # Without roots to trust it says so.
    rm "$root/etc/ssl/certs/ca-certificates.crt"
    sed -i 's|"ca_root": "/etc/acme-proxy/ca.pem", ||' "$root/etc/acme-proxy/ca.json"
    says "install the ca-certificates package, or set ca_root" chroot --userspec=65532:65532 "$root" /usr/bin/acme-proxy /etc/acme-proxy/ca.json
    # shellcheck disable=SC2086 # the CA alone is left
    kill $running 2>/dev/null || true
    $buildah umount "$container"
}

chart() {
    python3 "$here/tests/delivery/chart.py" "$1" "$program"
}

compose() {
    python3 "$here/tests/delivery/compose.py" "$1" "$program"
}

role_lint() {
    cd "$here/deploy/ansible"
    ansible-lint --offline --strict .
    ansible-playbook --syntax-check install.yml uninstall.yml
}

# play PLAYBOOK [ARGUMENT...]
play() {
    playbook=$1
    shift
    ANSIBLE_CONNECTION_PLUGINS=$here/tests/delivery/ansible/connection_plugins ANSIBLE_LOCAL_TEMP=$work/ansible \
        ANSIBLE_NOCOLOR=1 ansible-playbook --inventory "root," --connection in_root \
        --extra-vars "ansible_host=$work/ansible-root ansible_become=false ansible_python_interpreter=/usr/bin/python3" \
        --extra-vars "@$work/variables.json" "$@" "$here/deploy/ansible/$playbook"
}

role() {
    new_root ansible-root
    root=$work/ansible-root
    in_root "$root" apt-get update >/dev/null
    in_root "$root" apt-get install --yes --no-install-recommends python3 >/dev/null
    cat >"$work/variables.json" <<END
{
  "acme_proxy_archive": "$archive", "acme_proxy_ca_url": "https://ca.example.com/dir", "acme_proxy_dns_names": ["acmeproxy.example.com"],
  "acme_proxy_account_email": "ops@example.com", "acme_proxy_eab_kid": "$kid", "acme_proxy_eab_hmac_key": "$key",
  "acme_proxy_config": {"authority": {"policy": {"x509": {"allow": {"dns": ["*.example.com"]}}}}}
}
END
    play install.yml
    is "$(in_root "$root" stat -c '%a %U:%G' /opt/acme-proxy/ca.json)" "640 root:acme-proxy"
    chroot --userspec=acme-proxy:acme-proxy "$root" /opt/acme-proxy/acme-proxy check /opt/acme-proxy/ca.json >"$work/report"
    cat "$work/report"
    grep -q 'example.com' "$work/report"
    grep -q '"\*.example.com"' "$root/opt/acme-proxy/ca.json"
    # Once more: nothing is left to do.
    play install.yml >"$work/said"
    grep -q ' changed=0 ' "$work/said"
    # Another archive under the same name, a configuration that does not work, values that are missing.
    says "Verify the archive" play install.yml --extra-vars "acme_proxy_checksum=$(echo none | sha256sum | cut -d ' ' -f 1)"
    before=$(sha256sum <"$root/opt/acme-proxy/ca.json")
    says "ca_url" play install.yml --extra-vars acme_proxy_ca_url=ftp://ca.example.com
    says "acme_proxy_ca_url and acme_proxy_dns_names are required" play install.yml --extra-vars '{"acme_proxy_dns_names": []}'
    is "$(sha256sum <"$root/opt/acme-proxy/ca.json")" "$before"
    never grep -r "$key" "$work/said"

    play uninstall.yml
    test ! -e "$root/opt/acme-proxy/acme-proxy"
    is "$(sha256sum <"$root/opt/acme-proxy/ca.json")" "$before"
    play uninstall.yml --extra-vars acme_proxy_purge=true
    test ! -e "$root/opt/acme-proxy"
}

readelf --program-headers "$program" >"$work/headers"
it "the program needs no library" needs_no_library
it "the release archive has the same bytes when it is made again" same_archive_twice
it "the Debian package is installed, kept, removed and purged" debian_package
it "the image has nothing but the program and roots, and gets its certificate from a CA as an unprivileged user" image
it "the chart passes helm lint" chart lint
it "the chart's objects are what Kubernetes knows, and hold no secret but the secret" chart manifests
it "the chart has three replicas with a database, and one without" chart replicas
it "acme-proxy takes the chart's ca.json" chart accepted
it "the chart lays config over the rest" chart laid_over
it "another password, root, db.secret or EAB in the chart's secrets is another pod" chart restarted
it "the chart refuses bad values, each by its name" chart refused
it "the compose file, HAProxy's configuration and ca.json fit together" compose fits_together
it "prepare.sh makes what the compose file mounts, once, and for nobody else's eyes" compose secrets
it "acme-proxy takes the compose file's ca.json" compose accepted
it "the role passes ansible-lint" role_lint
it "the role installs, changes nothing the second time, refuses what is wrong, and uninstalls" role
close
