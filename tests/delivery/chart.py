"""The Helm chart, by Helm's own library: chart.py CASE PROGRAM, where a case is one of the functions below."""

import json
import pathlib
import subprocess
import sys
import tempfile

import helm_python as helm
import kubernetes_validate
import yaml

CHART = pathlib.Path(__file__).parents[2] / "deploy/helm/acme-proxy"
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
SMALLEST = {
    "image": {"repository": "registry.example.com/acme-proxy"},
    "dnsNames": ["acmeproxy.example.com"],
    "ca": {"url": "https://ca.example.com/directory", "eab": {"existingSecret": "eab"}},
}
EVERYTHING = {
    "image": {"repository": "registry.example.com/acme-proxy", "tag": "1.2.3", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "pull"}],
    "dnsNames": ["acmeproxy.example.com", "acme.example.com"],
    "ca": {"url": "https://ca.example.com/directory", "email": "ops@example.com", "eab": {"kid": "kid-1", "hmacKey": KEY}},
    "provisioners": [{"type": "ACME", "name": "web", "challenges": ["http-01"], "requireEAB": True}],
    "config": {"authority": {"policy": {"x509": {"allow": {"dns": ["*.example.com"]}}}}, "logger": {"format": "text"}},
    "persistence": {"existingClaim": "store"},
    "service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"], "annotations": {"a": "b"}},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "nodeSelector": {"zone": "a"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "podAnnotations": {"c": "d"},
    "env": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.com:3128"}],
}


URL = "postgresql://acmeproxy@db1,db2/acmeproxy?sslmode=verify-full&sslrootcert=/run/secrets/acme-proxy-database/root.pem"
SECRET = "YtR0o5r7vTzvV1gk2cQ8b3mJ4nX6wL9pS0dF1hG2jK3l"
SHARED = {**SMALLEST, "database": {"url": URL, "existingSecret": "database"}}
SHARED_BY_TWO = {
    **EVERYTHING,
    "persistence": {},
    "database": {"url": URL, "pool": 8, "password": "correct horse", "secret": SECRET, "root": "-----BEGIN CERTIFICATE-----"},
    "replicas": 2,
}
ALL = (SMALLEST, EVERYTHING, SHARED, SHARED_BY_TWO)


def render(values):
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        texts = chart.render(values, name="ra", namespace="pki")
    objects = []
    for path, text in texts.items():
        if path.endswith(".yaml"):
            objects += [one for one in yaml.safe_load_all(text) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


def configuration(objects):
    return json.loads(objects["ConfigMap", "ra"]["data"]["ca.json"])


def lint(_program):
    for values in ALL:
        report = helm.lint(CHART, values, strict=True)
        # "icon is recommended" is information.
        found = [message for message in report["messages"] if message["severity"] > 1]
        assert report["total_charts_linted"] == 1 and not found and not report["errors"], report


def workload(objects):
    (found,) = [one for (kind, _), one in objects.items() if kind in ("StatefulSet", "Deployment")]
    return found


def manifests(_program):
    for values, count in zip(ALL, (4, 6, 5, 8), strict=True):
        objects = render(values)
        for (kind, _name), one in objects.items():
            if kind != "ServiceMonitor":
                for version in ("1.25", "1.37"):
                    kubernetes_validate.validate(one, version, strict=True)
        assert len(objects) == count, list(objects)
        spec = workload(objects)["spec"]
        pod = spec["template"]["spec"]
        mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        volumes = {volume["name"] for volume in pod["volumes"]}
        claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
        assert mounts == volumes | claims, (mounts, volumes, claims)
        # No secret is where everybody in the namespace may look.
        rest = json.dumps([one for (kind, _), one in objects.items() if kind != "Secret"])
        assert not any(secret in rest for secret in (KEY, SECRET, "correct horse"))


def replicas(_program):
    for values, kind, count in ((SMALLEST, "StatefulSet", 1), (SHARED, "Deployment", 3), (SHARED_BY_TWO, "Deployment", 2)):
        objects = render(values)
        spec = objects[kind, "ra"]["spec"]
        pod = spec["template"]["spec"]
        probes = pod["containers"][0]
        assert spec["replicas"] == count
        assert probes["livenessProbe"]["httpGet"]["path"] == "/livez"
        delay = configuration(objects)["authority"]["config"].get("shutdown_delay", "0s")
        # What it serves on, what it drains, and a rest.
        assert pod["terminationGracePeriodSeconds"] >= int(delay.removesuffix("s")) + 35 + 5
        assert (("PodDisruptionBudget", "ra") in objects) == (count > 1)
        if kind == "StatefulSet":
            continue
        assert delay == "15s"
        # Told to stop, it is taken out before the time is over in which it serves.
        ready = probes["readinessProbe"]
        assert ready["httpGet"] == {"path": "/readyz", "port": "metrics"}
        assert ready["periodSeconds"] * ready["failureThreshold"] < 15
        assert objects["PodDisruptionBudget", "ra"]["spec"]["maxUnavailable"] == 1
        assert objects["PodDisruptionBudget", "ra"]["spec"]["selector"] == spec["selector"]
        spread = {one["topologyKey"]: one["labelSelector"] for one in pod["topologySpreadConstraints"]}
        assert spread == dict.fromkeys(("kubernetes.io/hostname", "topology.kubernetes.io/zone"), spec["selector"])


def accepted(program):
    for values in ALL:
        with tempfile.TemporaryDirectory() as directory:
            secrets = pathlib.Path(directory)
            for name, content in (("kid", "kid-1"), ("hmac-key", KEY), ("password", "correct horse"), ("secret", SECRET)):
                (secrets / name).write_text(content)
            text = json.dumps(configuration(render(values)))
            for mount in ("/run/secrets/acme-proxy-database", "/run/secrets/acme-proxy"):
                text = text.replace(mount, directory)
            file = secrets / "ca.json"
            file.write_text(text)
            for path in secrets.iterdir():
                path.chmod(0o640)
            done = subprocess.run([program, "check", file], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert "warning" not in done.stdout.lower(), done.stdout


def laid_over(_program):
    config = configuration(render(EVERYTHING))
    assert config["logger"] == {"format": "text"}
    assert config["authority"]["policy"]["x509"]["allow"]["dns"] == ["*.example.com"]
    assert config["authority"]["config"]["account_email"] == "ops@example.com"
    assert config["authority"]["provisioners"] == EVERYTHING["provisioners"]


def restarted(_program):
    def annotations(values):
        return workload(render(values))["spec"]["template"]["metadata"]["annotations"]

    def changed(values, name, change):
        return {**values, name: {**values[name], **change}}

    before = annotations(SHARED_BY_TWO)
    assert annotations(SHARED_BY_TWO) == before
    for change in ({"password": "battery staple"}, {"secret": SECRET[::-1]}, {"root": "-----BEGIN TRUSTED CERTIFICATE-----"}, {"pool": 9}):
        assert annotations(changed(SHARED_BY_TWO, "database", change)) != before, change
    for values in (EVERYTHING, SHARED_BY_TWO):
        other = changed(values, "ca", {"eab": {"kid": "kid-1", "hmacKey": KEY[::-1]}})
        assert annotations(other) != annotations(values)


def refused(_program):
    changes = [
        ({"image": {"repository": ""}}, "repository"),
        ({"dnsNames": []}, "dnsNames"),
        ({"ca": {"url": "http://ca.example.com"}}, "url"),
        ({"ca": {"url": "https://ca.example.com", "eab": {"kid": "kid-1"}}}, "kid and hmacKey belong together"),
        (
            {"ca": {"url": "https://ca.example.com", "eab": {"kid": "a", "hmacKey": KEY, "existingSecret": "b"}}},
            "existingSecret, or kid and hmacKey, and not both",
        ),
        ({"ca": {"url": "https://ca.example.com", "key": KEY}}, "key"),
        ({"provisioners": []}, "provisioners"),
        ({"replicaCount": 2}, "replicaCount"),
        ({"replicas": 2}, "replicas: the embedded store belongs to one process; more than one needs a PostgreSQL"),
        ({"replicas": 0}, "replicas"),
        ({"config": {"db": {"type": "postgresql"}}}, "config: db comes from the values database and persistence"),
        ({"database": {"url": URL}}, "database: give existingSecret, or password and secret"),
        ({"database": {"url": URL, "password": "a"}}, "database: give existingSecret, or password and secret"),
        (
            {"database": {"url": URL, "password": "a", "secret": SECRET, "existingSecret": "b"}},
            "existingSecret, or password and secret, and not both",
        ),
        ({"database": {"url": URL, "existingSecret": "b", "pool": 1}}, "pool"),
        ({"database": {"url": "mysql://a@b/c", "existingSecret": "b"}}, "url"),
        (
            {"database": {"url": URL, "existingSecret": "b", "root": "a"}},
            "database.root: with existingSecret it is that secret's key root.pem",
        ),
        (
            {"database": {"url": "postgresql://a@b/c", "password": "a", "secret": SECRET, "root": "a"}},
            "database.root: for it to be used, database.url has to say sslrootcert=/run/secrets/acme-proxy-database/root.pem",
        ),
        *(
            ({"database": {name: value}}, "database: nothing of it is used without its url: give database.url")
            for name, value in (("existingSecret", "b"), ("pool", 8), ("password", "a"), ("secret", SECRET), ("root", "a"))
        ),
        ({"database": {"url": "postgresql://b/c", "existingSecret": "b"}}, "url"),
        # The schema's own refusal would show it in the log of a deployment.
        *(
            ({"database": {"url": url, "existingSecret": "b"}}, "database.url: a password in it would be in the ConfigMap")
            for url in (
                "postgresql://a:b@c/d",
                "postgresql://:b@c/d",
                "postgresql://a@b:c@d/e",
                "postgresql://a:b/c?d@e/f",
                "postgresql://a@b/c?password=d",
                "postgresql://a@b/c?sslmode=verify-full&password=d",
                "postgresql://a@b/c?sslmode=verify-full&sslpassword=d",
            )
        ),
        ({"database": {"url": URL, "password": "a", "secret": "guess me"}}, "secret"),
    ]
    for change, text in changes:
        try:
            render({**SMALLEST, **change})
        except helm.HelmError as error:
            assert text in str(error), f"{change}: {error}"
            assert "in the ConfigMap" not in text or change["database"]["url"] not in str(error)
        else:
            raise AssertionError(f"{change} is taken")


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
