"""The SASL step of a walk: the mechanisms of a listener, and what it says to a login."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiokafka.errors import IllegalSaslStateError, NoError, UnsupportedSaslMechanismError, for_code

from flowstream.kafka import requests
from flowstream.kafka.client import authenticator
from flowstream.kafka.looks import Fault, listed
from flowstream.kafka.oauth import TokenError

if TYPE_CHECKING:
    from flowstream.kafka.peer import Peer
    from flowstream.kafka.settings import Sasl


async def log_in(peer: Peer, sasl: Sasl, *, tls: bool) -> str | Fault:
    """Log in as a client does, on a connection with TLS or not; raises as ``Peer.ask`` does."""
    code, offered = await requests.SASL_HANDSHAKE.ask(peer, sasl.mechanism)
    error = for_code(code)
    if error is NoError:
        return await _authenticate(peer, sasl)
    if error is IllegalSaslStateError:
        protocol = "SSL" if tls else "PLAINTEXT"
        remedy = f"use the port of its SASL listener, or set security.protocol={protocol}"
        return Fault("has no SASL", remedy, lasting=True)
    if error is UnsupportedSaslMechanismError:
        text = f"does not support sasl.mechanism={sasl.mechanism}"
        return Fault(text, f"set one that it offers: {listed(offered or ())}", lasting=True)
    return Fault(f"refuses SASL ({error.__name__})", "see the broker's log")


async def mechanisms(peer: Peer) -> str:
    """Return the names of the SASL mechanisms that a listener offers, "" if it has none."""
    _, offered = await requests.SASL_HANDSHAKE.ask(peer, "")
    return listed(offered or ())


async def _authenticate(peer: Peer, sasl: Sasl) -> str | Fault:
    steps, answer = authenticator(sasl), None
    while True:
        try:
            step = await steps.step(answer)
        except TokenError as err:
            return Fault(f"needs a token: {err.args[0]}", "check the sasl.oauthbearer properties")
        except Exception:  # noqa: BLE001 - an answer without sense causes errors of any kind
            return Fault("sends a SASL answer that makes no sense", "check the broker")
        if step is None:
            return f"authenticated as {sasl.username or 'a token'} by {sasl.mechanism}"
        code, _, answer = await requests.SASL_AUTHENTICATE.ask(peer, step[0])
        # A token is refused by an answer with the reason (RFC 7628, 3.2.2).
        if for_code(code) is not NoError or (sasl.oauth and answer):
            return _refused(sasl)


def _refused(sasl: Sasl) -> Fault:
    """Name what was refused; the broker's own text may repeat what it was sent."""
    if sasl.oauth is not None:
        remedy = "check its scope and audience, and the issuer that the broker trusts"
        return Fault("refuses the token", remedy, lasting=True)
    return Fault(
        f"refuses the user {sasl.username} or the password ({sasl.mechanism})",
        "correct sasl.username and sasl.password, or the account on the broker",
        lasting=True,
    )
