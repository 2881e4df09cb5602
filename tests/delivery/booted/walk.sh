#!/bin/sh
# Runs in the container of booted.sh: installs acme-proxy as docs/INSTALL.md says, and does what docs/OPERATIONS.md says of systemd.
set -eu
cd /walk
work=/walk/work
mkdir -p "$work"
# shellcheck source=tests/delivery/cases.sh
. /walk/cases.sh

kid="kid-1"
key=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8
config=/opt/acme-proxy/ca.json

# await COMMAND...: until it works, for a minute.
await() {
    for _ in $(seq 300); do
        if "$@" >"$work/awaited" 2>&1; then
            return 0
        fi
        sleep 0.2
    done 2>/dev/null
    cat "$work/awaited"
    journalctl --no-pager --unit acme-proxy --lines 30
    return 1
}

property() {
    systemctl show --property "$1" --value "${2:-acme-proxy}"
}

pid() {
    property MainPID
}

restarted() {
    [ "$(property NRestarts)" = 1 ] && [ "$(property ActiveState)" = active ]
}

healthy() {
    curl --silent --show-error --fail --cacert /walk/ca.pem https://acmeproxy.example.com/health | grep -F '{"status":"ok"}'
}

answers() {
    curl --silent --show-error --fail --cacert /walk/ca.pem https://acmeproxy.example.com/acme/acme/directory | grep -F newOrder
}

# The names of the organisation, and the address of the CA.
names() {
    # systemd-resolved asks nobody as long as there is nothing but a loopback.
    ip link add near type veth peer name far
    ip address add 192.0.2.2/24 dev near
    ip link set near up
    ip link set far up
    mkdir -p /run/names
    cat >/walk/knot.conf <<END
server:
    rundir: /run/names
    listen: 127.0.0.1@5300
zone:
  - domain: example.com
    file: /walk/example.com.zone
    zonefile-load: whole
END
    printf '%s\n' '@ 60 SOA ns hostmaster 1 60 60 60 60' '@ 60 NS ns' '* 60 A 127.0.0.1' >/walk/example.com.zone
    systemd-run --quiet --unit names knotd --config /walk/knot.conf
    mkdir -p /etc/systemd/resolved.conf.d
    printf '[Resolve]\nDNS=127.0.0.1:5300\nDomains=~.\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\n' >/etc/systemd/resolved.conf.d/names.conf
    systemctl restart systemd-resolved
    await getent ahostsv4 www.example.com
    grep '^hosts:.* resolve ' /etc/nsswitch.conf
    systemd-run --quiet --unit throwaway-ca /walk/throwaway_ca --listen 127.0.0.1:14000 --root /walk/ca.pem --eab-kid "$kid" --eab-hmac-key "$key"
    await test -s /walk/ca.pem
    directory=$(journalctl --no-pager --output cat --unit throwaway-ca | sed -n 's/^directory *//p')
    echo "$directory" >/walk/directory
    chmod 644 /walk/ca.pem
}

installed() {
    is "$(systemctl is-system-running || true)" running || systemctl --no-pager --failed
    /walk/install.sh
    is "$(systemctl is-enabled acme-proxy)" enabled
    is "$(property Type)" notify
    mkdir -p /etc/acme-proxy
    printf '%s' "$key" | install -m 0600 /dev/stdin /etc/acme-proxy/eab
    cat >"$config" <<END
{
  "address": ":443", "dnsNames": ["acmeproxy.example.com"],
  "db": {"type": "sled", "dataSource": "/opt/acme-proxy/db/sled"},
  "logger": {"format": "text"},
  "authority": {
    "type": "externalcas",
    "config": {
      "ca_url": "$(cat /walk/directory)", "ca_root": "/walk/ca.pem", "eab_kid": "$kid",
      "eab_hmac_key": "file:/run/credentials/acme-proxy.service/eab",
      "audit": {"file": "/var/log/acme-proxy/audit.log"},
      "validation": {"allow": ["127.0.0.0/8"]}
    },
    "provisioners": [{"type": "ACME", "name": "acme"}]
  }
}
END
    mkdir -p /etc/systemd/system/acme-proxy.service.d
    printf '[Service]\nLoadCredential=eab:/etc/acme-proxy/eab\n' >/etc/systemd/system/acme-proxy.service.d/credential.conf
    systemctl daemon-reload
}

started() {
    systemctl start acme-proxy
    is "$(property ActiveState)" active
    is "$(property NRestarts)" 0
    await healthy
    is "$(stat -c '%U %a' /run/credentials/acme-proxy.service/eab)" "acme-proxy 400" || ls -l /run/credentials/acme-proxy.service
    systemctl --no-pager status acme-proxy
    test -s /var/log/acme-proxy/audit.log
    is "$(stat -c '%U %a' /var/log/acme-proxy)" "acme-proxy 700"
    # The host's modules of nsswitch.conf are not in the program.
    never grep libnss "/proc/$(pid)/maps"
}

hardened() {
    grep -E '^(NoNewPrivs|Seccomp|Cap(Eff|Bnd|Amb))' "/proc/$(pid)/status" >"$work/status"
    cat "$work/status"
    grep -qx 'NoNewPrivs:	1' "$work/status"
    grep -qx 'Seccomp:	2' "$work/status"
    for set in CapEff CapBnd CapAmb; do
        grep -qx "$set:	0000000000000400" "$work/status"
    done
    # What the service sees, as its user.
    inside() {
        nsenter --target "$(pid)" --mount --setuid "$(id -u acme-proxy)" --setgid "$(id -g acme-proxy)" -- "$@"
    }
    # Even root could not.
    says "Read-only file system" nsenter --target "$(pid)" --mount -- touch /opt/acme-proxy/probe
    says "Read-only file system" nsenter --target "$(pid)" --mount -- touch /etc/passwd
    inside touch /opt/acme-proxy/db/probe
    rm /opt/acme-proxy/db/probe
    says "No such file or directory" inside stat /proc/sys/kernel/hostname
    says "No such file or directory" inside stat /dev/kmsg
    says "Permission denied" inside ls /home
    # Limits of memory and tasks are not looked at: where the host has cgroups of version 1, systemd in a container can not set them.
    grep '^Max core file size *0 *0 ' "/proc/$(pid)/limits"
}

certificate() {
    REQUESTS_CA_BUNDLE=/walk/ca.pem certbot certonly --standalone --non-interactive --agree-tos --email ops@example.com \
        --server https://acmeproxy.example.com/acme/acme/directory -d www.example.com
    openssl x509 -noout -ext subjectAltName -in /etc/letsencrypt/live/www.example.com/cert.pem | grep DNS:www.example.com
    sudo -u acme-proxy /opt/acme-proxy/acme-proxy certs list "$config" | grep www.example.com
    sudo -u acme-proxy /opt/acme-proxy/acme-proxy audit verify /var/log/acme-proxy/audit.log
}

reloaded() {
    before=$(pid)
    sed -i 's|"format": "text"|"format": "json"|' "$config"
    systemctl reload acme-proxy
    await journalctl --no-pager --unit acme-proxy --grep 'what was under way when the configuration was reloaded has ended'
    # A fault changes nothing.
    cp "$config" "$work/ca.json"
    echo '{' >"$config"
    systemctl reload acme-proxy || true
    await journalctl --no-pager --unit acme-proxy --grep 'the one before stays in force'
    systemctl --no-pager status acme-proxy
    cat "$work/ca.json" >"$config"
    is "$(property ActiveState)" active
    is "$(pid)" "$before"
    healthy
}

watched() {
    mkdir -p /etc/systemd/system/acme-proxy.service.d
    printf '[Service]\nWatchdogSec=4\nRestartSec=1\nTimeoutAbortSec=2\n' >/etc/systemd/system/acme-proxy.service.d/watchdog.conf
    systemctl daemon-reload
    systemctl restart acme-proxy
    await healthy
    sleep 9
    is "$(property NRestarts)" 0
    before=$(pid)
    kill -STOP "$before"
    await restarted
    never test "$(pid)" = "$before"
    await healthy
    journalctl --no-pager --unit acme-proxy --grep 'Watchdog timeout'
    rm /etc/systemd/system/acme-proxy.service.d/watchdog.conf
}

crashed() {
    systemctl daemon-reload
    systemctl restart acme-proxy
    await healthy
    kill -KILL "$(pid)"
    await restarted
    await healthy
}

listens() {
    systemctl stop acme-proxy
    printf '[Service]\nAmbientCapabilities=\nCapabilityBoundingSet=\n' >/etc/systemd/system/acme-proxy.service.d/socket.conf
    systemctl daemon-reload
    systemctl start acme-proxy.socket
    is "$(property ActiveState)" inactive
    # The first client starts the daemon, and waits.
    await healthy
    is "$(property ActiveState)" active
    grep -qx 'CapEff:	0000000000000000' "/proc/$(pid)/status"
    # Clients wait through a restart.
    systemctl restart --no-block acme-proxy
    for _ in 1 2 3 4 5; do
        answers
    done
    systemctl stop acme-proxy.socket acme-proxy
    rm /etc/systemd/system/acme-proxy.service.d/socket.conf
    systemctl daemon-reload
}

ended() {
    systemctl start acme-proxy
    await healthy
    systemctl stop acme-proxy
    is "$(property ActiveState) $(property Result) $(property ExecMainStatus)" "inactive success 0"
    never journalctl --no-pager --unit acme-proxy --grep "$key"
}

removed() {
    systemctl start acme-proxy
    /walk/install.sh --uninstall --purge
    is "$(systemctl is-active acme-proxy || true)" inactive
    test ! -e /opt/acme-proxy
    test ! -e /etc/systemd/system/acme-proxy.service
    says "no such user" id acme-proxy
}

systemctl --version | head -n 1
it "names come from systemd-resolved, and there is a CA" names
it "install.sh installs and enables the unit" installed
it "the unit starts, says so, and has its EAB from LoadCredential=" started
it "the daemon can do and see no more than the unit says" hardened
it "certbot gets a certificate" certificate
it "a reload takes up a changed ca.json, and a faulty one changes nothing" reloaded
it "a daemon that hangs is started again by the watchdog" watched
it "a daemon that is killed is started again" crashed
it "with acme-proxy.socket systemd holds the port and the daemon has no capability" listens
it "a stop is orderly, and the journal has no key" ended
it "install.sh --uninstall --purge stops it and leaves nothing" removed
close
