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
    for values in (SMALLEST, EVERYTHING):
        report = helm.lint(CHART, values, strict=True)
        # "icon is recommended" is information.
        found = [message for message in report["messages"] if message["severity"] > 1]
        assert report["total_charts_linted"] == 1 and not found and not report["errors"], report


def manifests(_program):
    for values in (SMALLEST, EVERYTHING):
        objects = render(values)
        for (kind, _name), one in objects.items():
            if kind != "ServiceMonitor":
                for version in ("1.25", "1.37"):
                    kubernetes_validate.validate(one, version, strict=True)
        assert len(objects) == (6 if values is EVERYTHING else 4), list(objects)
        pod = objects["StatefulSet", "ra"]["spec"]["template"]["spec"]
        mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        volumes = {volume["name"] for volume in pod["volumes"]}
        claims = {claim["metadata"]["name"] for claim in objects["StatefulSet", "ra"]["spec"].get("volumeClaimTemplates", [])}
        assert mounts == volumes | claims, (mounts, volumes, claims)
        # No secret is where everybody in the namespace may look.
        assert KEY not in json.dumps([one for (kind, _), one in objects.items() if kind != "Secret"])


def accepted(program):
    for values in (SMALLEST, EVERYTHING):
        with tempfile.TemporaryDirectory() as directory:
            secrets = pathlib.Path(directory)
            (secrets / "kid").write_text("kid-1")
            (secrets / "hmac-key").write_text(KEY)
            text = json.dumps(configuration(render(values))).replace("/run/secrets/acme-proxy", directory)
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
    ]
    for change, text in changes:
        try:
            render({**SMALLEST, **change})
        except helm.HelmError as error:
            assert text in str(error), f"{change}: {error}"
        else:
            raise AssertionError(f"{change} is taken")


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
