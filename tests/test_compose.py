"""The example in compose/: as docker compose loads it, and with the files that it mounts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.dashboards import COMPOSE, DASHBOARDS
from support.go import built

from flowstream.cli.main import make_parser
from flowstream.config.run import load

MONITORING = {"prometheus", "clickhouse", "grafana"}
PLAIN = {"kafka", "agent", "consumer"}


@pytest.fixture(scope="module")
def loader() -> Path:
    """A program around the loader of docker compose."""
    return built(Path(__file__).parent / "compose")


def project(loader: Path, *files: str) -> dict[str, Any]:
    done = subprocess.run(
        [loader, *(COMPOSE / file for file in files)],
        capture_output=True,
        text=True,
        check=False,
        env={},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


@pytest.mark.parametrize(
    ("files", "more"),
    [(("compose.yaml",), set()), (("compose.yaml", "secure.yaml"), {"secrets", "users"})],
    ids=["plain", "secure"],
)
def test_docker_compose_loads_it(loader: Path, files: tuple[str, ...], more: set[str]) -> None:
    loaded = project(loader, *files)
    services = loaded["services"]
    assert services.keys() == PLAIN | MONITORING | more
    for name, service in services.items():
        assert service.get("profiles") == (["monitoring"] if name in MONITORING else None)
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1"
        for mount in service.get("volumes", []):
            if mount["type"] == "volume":
                assert mount["source"] in loaded["volumes"]
            else:
                assert Path(mount["source"]).exists(), mount


def test_mistakes_are_found(loader: Path, tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    text = (COMPOSE / "compose.yaml").read_text(encoding="utf-8")
    file.write_text(text.replace("cap_drop:", "cap_drops:"), encoding="utf-8")
    done = subprocess.run([loader, file], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "cap_drops" in done.stderr


def test_the_agent_takes_its_options(loader: Path) -> None:
    agent = project(loader, "compose.yaml")["services"]["agent"]
    config = load(vars(make_parser().parse_args(agent["command"])))
    assert config.metrics == "127.0.0.1:9435"
    assert agent["healthcheck"]["test"] == ["CMD", "flowstream", "health", config.metrics]


def test_each_asks_where_the_other_answers(loader: Path) -> None:
    services = project(loader, "compose.yaml")["services"]
    prometheus = yaml.safe_load((COMPOSE / "prometheus" / "prometheus.yml").read_text("utf-8"))
    (job,) = prometheus["scrape_configs"]
    assert job["job_name"] == "flowstream"
    assert job["static_configs"] == [{"targets": ["127.0.0.1:9435"]}]
    sources = provisioned("datasources")["datasources"]
    by_type = {source["type"]: source for source in sources}
    assert all("uid" not in source for source in sources)
    (listens,) = (
        word.partition("=")[2]
        for word in services["prometheus"]["command"]
        if word.startswith("--web.listen-address=")
    )
    assert by_type["prometheus"]["url"] == f"http://{listens}"
    assert (
        by_type["prometheus"]["jsonData"]["timeInterval"]
        == prometheus["global"]["scrape_interval"]
    )
    (port,) = services["clickhouse"]["ports"]
    clickhouse = by_type["grafana-clickhouse-datasource"]["jsonData"]
    assert (port["host_ip"], int(port["published"])) == (clickhouse["host"], clickhouse["port"])
    assert {each["type"] for each in sources} == {
        dashboard["templating"]["list"][0]["query"] for dashboard in DASHBOARDS.values()
    }


def test_grafana_finds_the_dashboards(loader: Path) -> None:
    grafana = project(loader, "compose.yaml")["services"]["grafana"]
    mounts = {mount["target"]: Path(mount["source"]) for mount in grafana["volumes"]}
    (provider,) = provisioned("dashboards")["providers"]
    place = mounts[provider["options"]["path"]]
    assert {path.stem for path in place.iterdir()} == DASHBOARDS.keys()
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (mounts[str(home.parent)] / home.name).exists()
    assert (mounts["/etc/grafana/provisioning"] / "datasources").exists()


def provisioned(kind: str) -> dict[str, Any]:
    (path,) = (COMPOSE / "grafana" / "provisioning" / kind).iterdir()
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert document["apiVersion"] == 1
    return document
