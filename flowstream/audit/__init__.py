"""The audit: checks the loss equation from the topics alone.

::

    result = await audit("kafka://10.0.0.1:9092")
    result.holds

``Audit`` adds up messages from anywhere; ``audit`` reads them from topics;
``Result`` is the outcome.
"""

from flowstream.audit.accounts import Audit, Observer
from flowstream.audit.reading import audit
from flowstream.audit.result import Amount, Chain, ChainRun, Interface, Result, Run, Terms, Topic

__all__ = [
    "Amount",
    "Audit",
    "Chain",
    "ChainRun",
    "Interface",
    "Observer",
    "Result",
    "Run",
    "Terms",
    "Topic",
    "audit",
]
