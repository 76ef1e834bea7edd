"""The report: one page about the traffic, the losses and the runs in topics or a recording.

::

    page = await report("kafka://10.0.0.1:9092")

``replacing`` writes it to a file, whole or not at all.
"""

from flowstream.report.making import report
from flowstream.report.output import replacing

__all__ = ["replacing", "report"]
