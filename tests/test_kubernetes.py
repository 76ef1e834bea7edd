"""The manifest for Kubernetes: valid, with arguments and configuration that the agent accepts, and
with the capabilities that it needs and no others."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from broker import Broker
from support.agent import Agent, audit, delivered

from flowstream.cli.main import make_parser
from flowstream.config.source import ConfigSource

TOP = Path(__file__).parent.parent
MANIFEST = TOP / "compose" / "kubernetes" / "daemonset.yaml"
OBJECTS: dict[str, Any] = {
    each["kind"]: each for each in yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))
}
POD = OBJECTS["DaemonSet"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
CAPABILITIES = CONTAINER["securityContext"]["capabilities"]["add"]
CONFIG = OBJECTS["ConfigMap"]["data"]["flowstream.toml"]
MOUNTS = {each["mountPath"]: each["name"] for each in CONTAINER["volumeMounts"]}
VOLUMES = {each["name"]: each for each in POD["volumes"]}


@pytest.mark.parametrize("version", [f"1.{minor}" for minor in range(25, 38)])
@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_is_valid_in_the_api(kind, version):
    # strict: fields that the API does not know are errors, too.
    assert kubernetes_validate.validate(OBJECTS[kind], version, strict=True).startswith(version)


def test_objects_name_each_other():
    assert set(OBJECTS) == {"Namespace", "ConfigMap", "Secret", "DaemonSet"}
    for kind in ("ConfigMap", "Secret", "DaemonSet"):
        assert OBJECTS[kind]["metadata"]["namespace"] == OBJECTS["Namespace"]["metadata"]["name"]
    assert VOLUMES["config"]["configMap"]["name"] == OBJECTS["ConfigMap"]["metadata"]["name"]
    assert VOLUMES["secret"]["secret"]["secretName"] == OBJECTS["Secret"]["metadata"]["name"]
    assert set(MOUNTS.values()) == set(VOLUMES)
    spec = OBJECTS["DaemonSet"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels
    assert spec["template"]["metadata"]["annotations"]["prometheus.io/port"] == "9435"


def below(mount: str, path: str) -> str:
    """The name of what a path stands for in a volume."""
    assert path.startswith(f"{mount}/")
    return path.removeprefix(f"{mount}/")


def test_the_agent_accepts_arguments_and_configuration(tmp_path):
    words = [each.replace("$(NODE_ADDRESS)", "10.0.0.7") for each in CONTAINER["args"]]
    args = vars(make_parser().parse_args(words))
    assert below("/etc/flowstream/config", args["config"]) in OBJECTS["ConfigMap"]["data"]
    password = tomllib.loads(CONFIG)["kafka"]["sasl"]["password"].removeprefix("file:")
    assert below("/etc/flowstream/secret", password) in OBJECTS["Secret"]["stringData"]
    secret = tmp_path / "password"
    secret.write_text("a password", encoding="utf-8")
    file = tmp_path / "flowstream.toml"
    file.write_text(CONFIG.replace(password, str(secret)), encoding="utf-8")
    config = ConfigSource(args, file).config
    assert (config.user, config.metrics) == ("nobody", "10.0.0.7:9435")
    assert below("/var/lib/flowstream", config.spool) == "spool"
    assert VOLUMES["state"]["hostPath"]["path"] == "/var/lib/flowstream"


def test_probes_ask_where_the_agent_answers():
    (port,) = CONTAINER["ports"]
    assert f"--metrics=$(NODE_ADDRESS):{port['containerPort']}" in CONTAINER["args"]
    # With the host's network both must be the same.
    assert port["containerPort"] == port["hostPort"]
    asked = {kind: CONTAINER[kind]["httpGet"] for kind in ("livenessProbe", "readinessProbe")}
    assert asked == {
        "livenessProbe": {"path": "/healthz", "port": port["name"]},
        "readinessProbe": {"path": "/readyz", "port": port["name"]},
    }


def test_the_container_is_closed():
    context = CONTAINER["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["privileged"] is False
    assert context["capabilities"]["drop"] == ["ALL"]
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["automountServiceAccountToken"] is False
    compose = (TOP / "compose" / "compose.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(compose)["services"]["agent"]["cap_add"] == CAPABILITIES


REFUSALS = {
    "BPF": "needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
    "CHOWN": "state/spool: Permission denied",
    "DAC_OVERRIDE": "state/spool: Permission denied",
    "NET_ADMIN": "needs root or CAP_NET_ADMIN",
    "PERFMON": "needs root or CAP_PERFMON",
}
"""Capability, and what the error says without it."""
BECOMING = {"SETUID": "Uid", "SETGID": "Gid"}
"""Capability, and the identity that without it stays root's: the agent runs, without any."""


def limited(*capabilities: str) -> tuple[str, ...]:
    """Put before a command, leaves it root with these capabilities, as a runtime does."""
    kept = ",".join(f"+{each.lower()}" for each in capabilities)
    return "setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set=-all,{kept}"


def options(receiver, place: Path, sink: str) -> list[str]:
    """The manifest's arguments and configuration, for an interface and a broker of the test."""
    config = place / "flowstream.toml"
    text = re.sub(r'^sink = ".*"$', f'sink = "{sink}"', CONFIG, flags=re.MULTILINE)
    text = text.partition("[kafka]")[0].replace('["physical"]', '["veth"]')
    config.write_text(text, encoding="utf-8")
    replaced = {
        "/etc/flowstream/config/flowstream.toml": str(config),
        "/var/lib/flowstream": str(place / "state"),
        "$(NODE_ADDRESS)": "127.0.0.1",
    }
    (place / "state").mkdir(exist_ok=True)
    words = CONTAINER["args"][1:]
    for old, new in replaced.items():
        words = [each.replace(old, new) for each in words]
    return [*words, f"--interface={receiver.name}"]


def test_the_agent_runs_with_these_capabilities(wire, tmp_path):
    """Also when it finds what an agent before has made, which belongs to the user nobody."""
    sender, receiver = wire
    arrived = 0
    # As on a node: interfaces and brokers are reached from the agent's own network.
    with receiver.namespace.entered(), Broker() as broker:
        words = options(receiver, tmp_path, broker.url)
        for _ in range(2):
            with Agent(*words, before=limited(*CAPABILITIES)) as agent:
                agent.publishing()
                assert agent.status("CapEff") == {"0" * 16}
                assert agent.status("Uid") == {"\t".join(["65534"] * 4)}
                arrived += delivered(sender, receiver, 10_007, "-f", 101)
                agent.stop()
        status, result = audit(broker.url)
    assert (status, result["holds"]) == (0, True)
    interfaces = [each for run in result["runs"] for each in run["interfaces"]]
    assert [each["difference"]["packets"] for each in interfaces] == [0, 0]
    assert sum(each["seen"]["packets"] for each in interfaces) == arrived


def test_each_capability_is_one_that_the_agent_needs():
    assert sorted([*REFUSALS, *BECOMING]) == CAPABILITIES


def without(missing: str) -> tuple[str, ...]:
    return limited(*(each for each in CAPABILITIES if each != missing))


@pytest.mark.parametrize(("missing", "said"), REFUSALS.items())
def test_the_agent_does_not_start_without(missing, said, wire, tmp_path):
    _, receiver = wire
    words = options(receiver, tmp_path, "kafka://127.0.0.1:9")
    with receiver.namespace.entered(), Agent(*words, before=without(missing)) as agent:
        assert agent.wait() == 1, agent.output()
        (error,) = re.findall(r"^flowstream: error: (.*)$", agent.output(), re.MULTILINE)
    assert said in error


@pytest.mark.parametrize(("missing", "identity"), BECOMING.items())
def test_the_agent_does_not_become_nobody_without(missing, identity, wire, tmp_path):
    _, receiver = wire
    words = options(receiver, tmp_path, "kafka://127.0.0.1:9")
    with receiver.namespace.entered(), Agent(*words, before=without(missing)) as agent:
        agent.publishing()
        assert agent.status(identity) == {"\t".join(["0"] * 4)}
