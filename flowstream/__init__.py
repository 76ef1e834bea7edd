"""flowstream: host flow telemetry from XDP to Apache Kafka, with every packet accounted for."""

__version__ = "0.1.0"
