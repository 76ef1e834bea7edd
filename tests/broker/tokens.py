"""An OAuth token endpoint for tests: client credentials, unsecured tokens (RFC 7515, A.5)."""

from __future__ import annotations

import base64
import json
import time
from typing import Any
from urllib.parse import parse_qs

from support.http_server import HttpServer, JsonHandler

CLIENT_ID = "agent"
CLIENT_SECRET = "client-secret-of-the-agent"
LIFETIME_S = 600


class TokenEndpoint(HttpServer):
    """Serves tokens to ``CLIENT_ID`` with ``CLIENT_SECRET``; ``requests`` are their forms.

    The principal of a token is its client. ``lifetime_s`` may be changed at any time.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, list[str]]] = []
        self.lifetime_s = LIFETIME_S
        endpoint = self

        class Handler(JsonHandler):
            def do_POST(self) -> None:  # noqa: N802 - named by http.server
                form = parse_qs(self.body().decode())
                endpoint.requests.append(form)
                known = _credentials(self.headers.get("Authorization", ""), form) == (
                    *(CLIENT_ID, CLIENT_SECRET),
                )
                self.answer(*(endpoint.answer() if known else (401, {"error": "invalid_client"})))

        super().__init__(Handler)
        self.url = f"{self.scheme}://{self.address}/token"

    @property
    def settings(self) -> dict[str, str]:
        """Client properties for tokens from here."""
        return {
            "sasl.oauthbearer.token.endpoint.url": self.url,
            "sasl.oauthbearer.client.id": CLIENT_ID,
            "sasl.oauthbearer.client.secret": CLIENT_SECRET,
        }

    def answer(self) -> tuple[int, dict[str, Any]]:
        """Return status and body for a known client."""
        now = int(time.time())
        claims = {"sub": CLIENT_ID, "iat": now, "exp": now + self.lifetime_s}
        token = f"{_part({'alg': 'none'})}.{_part(claims)}."
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime_s}


def _credentials(authorization: str, form: dict[str, list[str]]) -> tuple[str, str]:
    """Return client and secret, of the header or else of the form (RFC 6749, 2.3.1)."""
    if authorization.startswith("Basic "):
        client, _, secret = base64.b64decode(authorization[6:]).decode().partition(":")
        return client, secret
    return form.get("client_id", [""])[0], form.get("client_secret", [""])[0]


def _part(value: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
