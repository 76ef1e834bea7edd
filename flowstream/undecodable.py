"""Exceptions of msgspec's decoders; apart from ``errors``, which must import quickly."""

from __future__ import annotations

from typing import Final

import msgspec

UNDECODABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""What msgspec's decoders raise: ValueError for text that is not UTF-8, RecursionError for
deep nesting."""
