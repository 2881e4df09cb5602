"""deploy/compose: compose.py CASE PROGRAM, as root, where a case is one of the functions below. Docker itself is not asked."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import yaml

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
# Of the Compose specification, what is used here.
SERVICE = {
    *("cap_drop", "command", "depends_on", "environment", "extra_hosts", "healthcheck", "image", "networks", "ports", "read_only"),
    *("restart", "security_opt", "stop_grace_period", "stop_signal", "sysctls", "tmpfs", "volumes"),
}


def compose():
    return yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())


def ca_json():
    return json.loads((DEPLOY / "compose/ca.json").read_text())


def prepared(directory):
    """A copy of deploy/, with the secrets made."""
    copy = pathlib.Path(directory) / "deploy"
    shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("secrets*"))
    environment = {**os.environ, "EAB_KID": "kid-1", "EAB_HMAC_KEY": KEY}
    subprocess.run([copy / "compose/prepare.sh"], env=environment, check=True, capture_output=True)
    return copy / "compose"


def mounts(service):
    pairs = (volume.split(":")[:2] for volume in service["volumes"])
    return {inside: outside for outside, inside in pairs if outside.startswith(".")}


def fits_together(_program):
    file = compose()
    services = file["services"]
    for name, service in services.items():
        assert not service.keys() - SERVICE, (name, service.keys() - SERVICE)
    address = {name: one["networks"]["default"]["ipv4_address"] for name, one in services.items()}
    assert len(set(address.values())) == len(services) == 5
    replicas = [name for name in services if name.startswith("acme-proxy-")]
    same = [{key: value for key, value in services[name].items() if key != "networks"} for name in replicas]
    assert len(replicas) == 3 and same[0] == same[1] == same[2]

    balancer = (DEPLOY / "haproxy/haproxy.cfg").read_text()
    found = re.findall(r"^ +server (\S+) (\S+):443 check port 9123$", balancer, re.MULTILINE)
    assert found == [(name, name) for name in replicas]
    assert services["haproxy"]["extra_hosts"] == {name: address[name] for name in replicas}
    assert list(mounts(services["haproxy"]).values()) == ["../haproxy/haproxy.cfg"]

    config = ca_json()
    ours = config["authority"]["config"]
    assert ours["proxy_protocol"]["from"] == [address["haproxy"]]
    assert config["address"].endswith(":443") and config["metricsAddress"].endswith(":9123")
    seconds = [int(text.removesuffix("s")) for text in (services[replicas[0]]["stop_grace_period"], ours["shutdown_delay"])]
    assert seconds[0] >= seconds[1] + 35 + 5
    inter, fall = re.search(r"inter (\d+)s fall (\d+)", balancer).groups()
    assert int(inter) * int(fall) < seconds[1]

    # The one that the tests run with.
    configuration = (DEPLOY.parent / "docs/CONFIGURATION.md").read_text()
    (version,) = re.findall(r"The tests run with PostgreSQL (\d+), and no other version was tried", configuration)
    assert services["db1"]["image"] == f"postgres:{version}"


def secrets(_program):
    with tempfile.TemporaryDirectory() as directory:
        here = prepared(directory)
        for service in compose()["services"].values():
            for outside in mounts(service).values():
                assert (here / outside).exists(), outside
        for path in (here / "secrets").rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path
            assert path.stat().st_uid == (65532 if "acme-proxy" in path.relative_to(here).parts else 999), path
        roots, server = here / "secrets/acme-proxy/root.pem", here / "secrets/database/server.pem"
        verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", roots]
        assert subprocess.run([*verify, "-verify_hostname", "db1", server], capture_output=True, check=False).returncode == 0
        assert subprocess.run([*verify, "-verify_hostname", "db2", server], capture_output=True, check=False).returncode != 0
        assert not list((here / "secrets").rglob("root.key"))
        # Once more: a database belongs to its secret.
        before = (here / "secrets/acme-proxy/secret").read_bytes()
        environment = {**os.environ, "EAB_KID": "kid-2", "EAB_HMAC_KEY": KEY}
        again = subprocess.run([here / "prepare.sh"], env=environment, capture_output=True, text=True, check=False)
        assert again.returncode == 1 and "secrets/ is there already" in again.stderr
        assert (here / "secrets/acme-proxy/secret").read_bytes() == before


def accepted(program):
    with tempfile.TemporaryDirectory() as directory:
        here = prepared(directory)
        replica = mounts(compose()["services"]["acme-proxy-1"])
        text = (here / "ca.json").read_text()
        for inside, outside in replica.items():
            text = text.replace(inside + "/", f"{here / outside}/")
        file = here / "replaced.json"
        file.write_text(text)
        done = subprocess.run([program, "check", file], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stdout.lower() + done.stderr.lower(), done.stdout + done.stderr
        # The command that the comment shows is understood: of a file that is not there it says so.
        shown = re.search(r"docker compose exec acme-proxy-1 /usr/bin/acme-proxy (.*)", (here / "compose.yaml").read_text())
        words = shown[1].replace("/etc/acme-proxy/", f"{here}/nowhere/").split()
        asked = subprocess.run([program, *words], capture_output=True, text=True, check=False)
        assert "nowhere/ca.json: there is no such file" in asked.stderr, asked.stderr


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
