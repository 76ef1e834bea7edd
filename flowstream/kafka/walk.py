"""Walks the steps of a client at one address, up to the first that fails.

aiokafka has one error for most faults. Here each step has a result of its own: a text,
or a fault with its remedy. Nothing is trusted: the peer may be anything, and each
address has a deadline. Credentials are sent only where a client would send them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from flowstream.kafka import requests
from flowstream.kafka.login import log_in, mechanisms
from flowstream.kafka.looks import OTHER_PORT, Fault, Look, Step, Walk, shown
from flowstream.kafka.peer import ClosedError, Peer, PeerError
from flowstream.kafka.tls import context
from flowstream.kafka.tls_faults import (
    another_host,
    days_left,
    explained,
    is_for_another_host,
    issuer,
    names,
)
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from flowstream.kafka.settings import ClientSettings, Tls

DEADLINE: Final = 5.0
"""For all steps at one address, in seconds."""

_CONNECT_TIMEOUT: Final = 2.0
_MOST_ADDRESSES: Final = 3
_NO_BROKER: Final = "accepts connections but does not answer as a Kafka broker"


async def walk(settings: ClientSettings, address: str, *, as_client: bool = True) -> Walk:
    """Walk the steps at HOST:PORT; without ``as_client`` only up to a broker's first answer."""
    walker = _Walker(settings, address)
    try:
        return await walker.run(as_client=as_client)
    finally:
        walker.close()


class _Walker:
    def __init__(self, settings: ClientSettings, address: str) -> None:
        self._settings = settings
        host, _, self._port = address.rpartition(":")
        self._host = host.strip("[]")
        self._walk = Walk(address)
        self._found: list[tuple[Any, ...]] = []
        self._peers = contextlib.ExitStack()
        self._connected = False
        self._peer: Peer

    def close(self) -> None:
        self._peers.close()

    async def peer(self) -> Peer:
        fault = (await self.run(as_client=True)).fault
        if fault:
            raise PeerError(fault.text)
        return self._peer

    async def run(self, *, as_client: bool) -> Walk:
        steps: dict[Step, Callable[[], Awaitable[str | Fault]]] = {
            Step.RESOLVE: self._resolve,
            Step.CONNECT: self._connect,
        }
        if tls := self._settings.tls:
            steps[Step.TLS] = lambda: self._start_tls(tls)
        if as_client and (sasl := self._settings.sasl):
            steps[Step.SASL] = lambda: log_in(self._peer, sasl, tls=bool(tls))
        if as_client:
            steps[Step.METADATA] = self._ask_for_brokers
        ends = asyncio.get_running_loop().time() + DEADLINE
        for step, take in steps.items():
            try:
                async with asyncio.timeout_at(ends):
                    result = await take()
            except TimeoutError:
                result = self._silent(step)
            except PeerError as err:
                result = Fault(f"{_NO_BROKER}: it {err}", OTHER_PORT)
            except ssl.SSLError as err:
                result = explained(err, has_certificate=True)
            self._walk.looks.append(Look(step, result))
            if isinstance(result, Fault):
                break
        return self._walk

    def _silent(self, step: Step) -> Fault:
        match step:
            case Step.RESOLVE:
                text, remedy = "does not resolve in time", "correct the address or the resolver"
            case Step.CONNECT if not self._connected:
                text, remedy = "does not answer", "check the address, routes and firewalls"
            case Step.TLS:
                text = "accepts connections but does not answer the TLS handshake"
                remedy = OTHER_PORT
            case _:
                text, remedy = _NO_BROKER, OTHER_PORT
        return Fault(text, remedy)

    async def _resolve(self) -> str | Fault:
        loop, remedy = asyncio.get_running_loop(), "correct the address"
        number = int(self._port) if re.fullmatch("[0-9]{1,5}", self._port) else 0
        if not 0 < number < 65_536 or not self._host.strip(".") or "\0" in self._host:
            return Fault("is not an address", remedy)
        try:
            found = await loop.getaddrinfo(self._host, number, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError):  # UnicodeError: a part is longer than 63 letters
            return Fault("does not resolve to an address", remedy)
        self._found = found[:_MOST_ADDRESSES]
        return ", ".join(dict.fromkeys(str(address[0]) for *_, address in found))

    async def _connect(self) -> str | Fault:
        try:
            self._peer = await self._new_peer()
            self._connected = True
        except TimeoutError:
            return self._silent(Step.CONNECT)
        except OSError as err:
            text = os.strerror(err.errno).lower() if err.errno else str(err)
            remedy = "start a broker there or correct the address"
            return Fault(text, remedy)
        if self._settings.tls:
            return "accepts connections"
        try:
            await requests.greet(self._peer)
        except PeerError as err:
            if self._peer.speaks_tls or await self._has_tls():
                protocol = "SASL_SSL" if self._settings.sasl else "SSL, or SASL_SSL with SASL"
                return Fault("requires TLS", f"set security.protocol={protocol}", lasting=True)
            if isinstance(err, ClosedError):
                return Fault(f"{_NO_BROKER}: it {err}", OTHER_PORT)
            raise
        return "answers as a Kafka broker"

    async def _new_peer(self) -> Peer:
        """Connect to the first address that takes it; raises ``OSError``."""
        error: OSError = TimeoutError()
        for family, _, _, _, address in self._found:
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT):
                    peer = await Peer.connect(family, address, self._settings.client_id)
            except OSError as err:  # includes TimeoutError
                error = err
            else:
                return self._peers.enter_context(peer)
        raise error

    async def _start_tls(self, tls: Tls) -> str | Fault:
        peer = self._peer
        try:
            await peer.start_tls(context(tls), self._host)
            # With TLS 1.3 a broker refuses the client's certificate only here.
            await requests.greet(peer)
        except ssl.SSLError as err:
            if not peer.speaks_tls:
                return await self._no_tls()
            if is_for_another_host(err):
                return another_host(self._host, await self._names_certified(tls))
            return explained(err, has_certificate=tls.certificate is not None)
        except ClosedError:
            if peer.speaks_tls:
                raise
            return await self._no_tls()
        certificate = peer.certificate
        self._walk.days_left = days_left(certificate)
        return (
            f"{peer.protocol}, a certificate of {shown(issuer(certificate))}, "
            f"valid for {self._walk.days_left} more days"
        )

    async def _no_tls(self) -> Fault:
        try:
            await requests.greet(await self._new_peer())
        except (OSError, PeerError):
            text = "accepts connections but closes them in the TLS handshake"
            return Fault(text, OTHER_PORT)
        protocol = "SASL_PLAINTEXT" if self._settings.sasl else "PLAINTEXT"
        remedy = f"use the port of its TLS listener, or set security.protocol={protocol}"
        return Fault("has no TLS", remedy, lasting=True)

    async def _names_certified(self, tls: Tls) -> list[str]:
        """Return the names of the certificate, which is verified but for them."""
        try:
            peer = await self._new_peer()
            await peer.start_tls(context(replace(tls, check_host=False)), self._host)
            return names(peer.certificate)
        except (OSError, PeerError):
            return []

    async def _has_tls(self) -> bool:
        """Whether TLS is spoken there; trusts no certificate and says nothing secret."""
        any_peer = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        any_peer.check_hostname, any_peer.verify_mode = False, ssl.CERT_NONE
        try:
            peer = await self._new_peer()
        except OSError:
            return False
        with contextlib.suppress(ssl.SSLError, PeerError):
            await peer.start_tls(any_peer, self._host)
        return peer.speaks_tls

    async def _ask_for_brokers(self) -> str | Fault:
        try:
            (brokers,) = await requests.METADATA.ask(self._peer, [])
        except ClosedError:
            if self._settings.sasl is None and (offered := await self._mechanisms()):
                protocol = "SASL_SSL" if self._settings.tls else "SASL_PLAINTEXT"
                remedy = f"set security.protocol={protocol}, sasl.mechanism and the credentials"
                return Fault(f"requires SASL ({offered})", remedy, lasting=True)
            raise
        if not brokers:
            raise PeerError("names no broker")
        self._walk.brokers = tuple(_address(host or "", port) for _, host, port, _ in brokers)
        return counted(len(self._walk.brokers), "broker")

    async def _mechanisms(self) -> str:
        try:
            peer = await self._new_peer()
            if self._settings.tls:
                await peer.start_tls(context(self._settings.tls), self._host)
            await requests.greet(peer)
            return await mechanisms(peer)
        except (OSError, PeerError):
            return ""


@contextlib.asynccontextmanager
async def logged_in(settings: ClientSettings, address: str) -> AsyncIterator[Peer]:
    """Walk the steps at HOST:PORT and yield the connection; raises ``PeerError``."""
    walker = _Walker(settings, address)
    try:
        yield await walker.peer()
    finally:
        walker.close()


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
