"""A Spark job: reads topics by the views of schemas/*.spark.sql and by an example's reader.

::

    spark-submit spark_views.py BROKERS RESULT DEFINITION=TOPIC[=ID]...

DEFINITION is ``flows.spark`` or ``flows.spark-avro``; ID is the schema's in its registry.
RESULT becomes JSON: by topic, for ``view`` and of flows in JSON for ``example`` too, the
records or an error's text.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

TOP = Path(__file__).parents[2]
sys.path.append(str(TOP / "examples"))
from spark_top_talkers import records  # noqa: E402


def view(
    spark: SparkSession, brokers: str, definition: str, topic: str, number: int = 1
) -> DataFrame:
    """The view of a definition, over this topic."""
    stream = definition.partition(".")[0]
    text = (TOP / "schemas" / f"{definition}.sql").read_text(encoding="utf-8")
    text = text.replace("localhost:9092", brokers).replace(f"flowstream.{stream}", topic)
    text = text.replace("X'0000000001'", f"X'{number:010x}'")
    for statement in text.split(";\n"):
        if statement.strip():
            spark.sql(statement)
    return spark.table(f"flowstream_{stream}")


def read_by_the_example(spark: SparkSession, stream: str) -> DataFrame:
    """Its records of the topic that the view before was made for."""
    return records(spark.table(f"flowstream_{stream}_topic"))


def outcome(frame: DataFrame) -> list[dict[str, Any]] | str:
    """All records, or the error of reading them."""
    try:
        return [row.asDict(recursive=True) for row in frame.collect()]
    except PySparkException as err:
        return str(err)


def main(brokers: str, result: str, *topics: str) -> None:
    """Read every topic."""
    spark = SparkSession.builder.appName("views").getOrCreate()
    found = {}
    for definition, topic, *number in (each.split("=") for each in topics):
        outcomes = {"view": outcome(view(spark, brokers, definition, topic, *map(int, number)))}
        if definition == "flows.spark":
            outcomes["example"] = outcome(read_by_the_example(spark, "flows"))
        found[topic] = outcomes
    Path(result).write_text(json.dumps(found, default=str), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
