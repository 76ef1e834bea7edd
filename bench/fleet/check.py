"""The command ``python -m bench.fleet.check``: fleets of growing size, audited by Spark.

Each is written to a broker of its own topics; the example's sums must equal
what was written, and it must find exactly the hosts that lost something.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from broker import Broker

ROUNDS: Final = 2
ROOT: Final = Path(__file__).parents[2]
CACHE: Final = ROOT / ".cache"
ENGINES: Final = CACHE / "examples-venv" / "bin"
JOB: Final = ROOT / "examples" / "fleet_audit_spark.py"
KAFKA: Final = "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0"
SPARK: Final = (
    *(str(ENGINES / "spark-submit"), "--master", "local[2]", "--driver-memory", "1g"),
    *("--packages", KAFKA),
    *("--conf", f"spark.jars.ivy={CACHE / 'ivy'}", "--conf", "spark.ui.enabled=false"),
    *("--conf", "spark.sql.shuffle.partitions=4", "--conf", "spark.log.level=ERROR"),
    *("--conf", "spark.driver.host=127.0.0.1"),
)


def main() -> int:
    """Write, audit, compare; 1 when anything differs."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet.check", description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=[10, 100, 300, 1_000])
    sizes = sorted(parser.parse_args().hosts)
    with Broker() as broker, tempfile.TemporaryDirectory(prefix="flowstream-fleet-") as name:
        directory = Path(name)
        for hosts in sizes:
            _generate(hosts, broker.url, directory)
        # The first round pays for Java's warming up as well; the fastest counts.
        results = _audit(sizes * ROUNDS, broker.address, directory)
        truths = [json.loads((directory / f"{hosts}.json").read_text()) for hosts in sizes]
    differences = [
        f"{hosts} hosts: {text}"
        for hosts, result, truth in zip(sizes * ROUNDS, results, truths * ROUNDS, strict=True)
        for text in compare(result, truth)
    ]
    _show(sizes, results)
    print("\n".join(differences) or "sums, gaps and lossy hosts are exactly those written")
    return 1 if differences else 0


def _generate(hosts: int, url: str, directory: Path) -> None:
    print(f"\n{hosts:,} hosts", flush=True)
    arguments = ("--hosts", str(hosts), "--to", url, "--topic-prefix", f"fleet{hosts}")
    truth = ("--truth", str(directory / f"{hosts}.json"))
    command = [sys.executable, "-m", "bench.fleet", *arguments, *truth]
    subprocess.run(command, check=True, timeout=600, cwd=ROOT)


def _audit(sizes: list[int], brokers: str, directory: Path) -> list[dict[str, Any]]:
    to = directory / "result.json"
    prefixes = [f"fleet{hosts}" for hosts in sizes]
    command = [*SPARK, str(JOB), "--brokers", brokers, "--to", str(to)]
    subprocess.run(
        [*command, "--topic-prefix", *prefixes],
        check=True,
        timeout=900,
        env=os.environ | {"PYSPARK_PYTHON": str(ENGINES / "python")},
    )
    results: list[dict[str, Any]] = json.loads(to.read_text())
    return results


def compare(result: dict[str, Any], truth: dict[str, Any]) -> list[str]:
    """What the job found and the generator did not write, or the reverse, in sentences."""
    found = []
    if sorted(result["traffic"]) != truth["traffic"]:
        wrong = {tuple(row) for row in result["traffic"]} ^ set(map(tuple, truth["traffic"]))
        found.append(f"{len(wrong)} sums differ, such as {sorted(wrong)[:2]}")
    found += [f"the equation is broken: {row}" for row in result["equation_broken"]]
    missing = {row["host_id"]: row["missing"] for row in result["sequences"]}
    if missing != truth["missing"]:
        found.append(f"missing: {missing}, not {truth['missing']}")
    if any(row["duplicates"] for row in result["sequences"]):
        found.append("duplicates, and none were written")
    lossy = {row["host_id"] for row in result["losses"]} | missing.keys()
    if sorted(lossy) != truth["lossy"]:
        found.append(f"lossy hosts: {sorted(lossy)}, not {truth['lossy']}")
    return found


def _show(sizes: list[int], results: list[dict[str, Any]]) -> None:
    """Print the time of each size, Spark being up, and what each record more has cost.

    A job of any size has the same stages and tasks: their start is what the
    smallest fleet costs, and is taken off in the last two columns.
    """
    heading = ("hosts", "records", "seconds", "CPU s", "net CPU s", "net µs a record")
    print("\n{:>8}{:>12}{:>10}{:>10}{:>12}{:>18}".format(*heading))
    of_size = [results[n :: len(sizes)] for n in range(len(sizes))]
    least = min(of_size[0], key=itemgetter("cpu_seconds"))
    for hosts, rounds in zip(sizes, of_size, strict=True):
        best = min(rounds, key=itemgetter("cpu_seconds"))
        seconds = min(map(itemgetter("seconds"), rounds))
        net = best["cpu_seconds"] - least["cpu_seconds"]
        more = best["records"] - least["records"]
        cost = f"{net:>12.2f}{net / more * 1e6:>18.1f}" if more else ""
        print(
            f"{hosts:>8,}{best['records']:>12,}{seconds:>10.2f}{best['cpu_seconds']:>10.2f}{cost}"
        )


if __name__ == "__main__":
    sys.exit(main())
