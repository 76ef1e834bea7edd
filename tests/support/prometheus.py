"""A real Prometheus with the configuration of compose/prometheus, on loopback."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml
from broker import free_ports

from support.dashboards import COMPOSE, PROGRAMS
from support.traffic import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

START_TIMEOUT_S = 60.0
SCRAPE_S = 1
"""Time between two scrapes, and between two evaluations of the rules."""


class Prometheus:
    """Scrapes ``targets``, the address of each by the name of its host, until it is closed."""

    def __init__(self, targets: Mapping[str, str]) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="flowstream-prometheus-"))
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        config = self._directory / "prometheus.yml"
        config.write_text(json.dumps(_config(targets)), encoding="utf-8")
        self._log = (self._directory / "log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [
                PROGRAMS / "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={self._directory}/data",
                f"--web.listen-address={self.address}",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def ready(self) -> Self:
        """Wait until it answers."""

        def answers() -> bool:
            assert self._process.poll() is None, self._output()
            try:
                with urllib.request.urlopen(
                    f"http://{self.address}/-/ready", timeout=10
                ) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        assert wait_until(answers, START_TIMEOUT_S), self._output()
        return self

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Series of an instant query; one that is wrong raises ``ValueError``."""
        return self._get("query", query=expr)

    def query_range(
        self, expr: str, start: float, end: float, step: float
    ) -> list[dict[str, Any]]:
        """Series of a range query, times in Unix seconds."""
        return self._get("query_range", query=expr, start=start, end=end, step=step)

    def _get(self, path: str, **parameters: str | float) -> list[dict[str, Any]]:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                document = json.load(answer)
        except urllib.error.HTTPError as err:
            raise ValueError(err.read().decode()) from err
        result: list[dict[str, Any]] = document["data"]["result"]
        return result

    def _output(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def close(self) -> None:
        """End it and remove what it stored."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self._directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _config(targets: Mapping[str, str]) -> dict[str, Any]:
    """The example's configuration, with these targets and shorter times."""
    place = COMPOSE / "prometheus"
    config: dict[str, Any] = yaml.safe_load((place / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = dict.fromkeys(config["global"], f"{SCRAPE_S}s")
    config["rule_files"] = [str(place / name) for name in config["rule_files"]]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [
        {"targets": [address], "labels": {"instance": host}} for host, address in targets.items()
    ]
    return config
