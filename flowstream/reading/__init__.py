"""Records of topics and recordings, selected and in any format: for people and programs.

::

    from flowstream.reading import Reader, read, selected

    for record in read("kafka://10.0.0.1:9092", since="10m", where="dst_port == 443"):
        print(record.source, record.packets)
"""

from flowstream.reading.formats import json_line
from flowstream.reading.reader import Reader, read, selected
from flowstream.reading.selection import Selection, decoded
from flowstream.reading.where import Condition

__all__ = ["Condition", "Reader", "Selection", "decoded", "json_line", "read", "selected"]
