"""Bearer tokens of registries: where one may be asked for, and what a token server answers.

A registry names the server that gives tokens for it, its realm. That server is sent credentials,
so a registry's word for it is not enough: it is the registry's own host, one that is known or
configured to belong to it, reached as safely as the registry, at an address no nearer to us than
the registry's, and it redirects nowhere.

Source: distribution's "Token Authentication Specification" and "OAuth2 token authentication"; RFC
6749; reliability rules of CVE-2020-15157.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlencode

from layerstore.errors import FormatError, InputError
from layerstore.formats import strict_json
from layerstore.net.errors import NetworkError
from layerstore.net.transport import Request, printable
from layerstore.net.urls import parse_http_url
from layerstore.registry.errors import (
    RegistryAnswerError,
    UnauthorizedError,
    UnsafeRealmError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from layerstore.net.transport import Answer, Transport
    from layerstore.net.urls import HttpUrl
    from layerstore.registry.credentials import Credentials

MAX_REALM_CHARACTERS = 4096
MAX_TOKEN_BYTES = 1 << 20
DEFAULT_LIFE_S = 60
"""Of a token that says nothing of it (specification)."""

_SPARE_S = 10
_LIFE_MAX_S = 3600
_CLIENT_ID = "layerstore"
_CREDENTIAL = re.compile(r"[\x21-\x7e]+")
_OK = 200
_METHOD_UNKNOWN = frozenset({404, 405})


class Realm(NamedTuple):
    """A token server that may be asked, for one service."""

    url: HttpUrl
    service: str


class TokenCache:
    """Tokens by what they are good for. For several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: dict[tuple[Realm, str], tuple[str, float]] = {}

    def get(self, realm: Realm, scope: str) -> str | None:
        """Return a token that is good for some seconds more."""
        with self._lock:
            token, ends = self._tokens.get((realm, scope), ("", 0.0))
        return token if token and self._clock() < ends else None

    def put(self, realm: Realm, scope: str, token: str, life_s: float) -> None:
        """Keep a token for its life."""
        with self._lock:
            self._tokens[realm, scope] = token, self._clock() + life_s - _SPARE_S

    def drop(self, realm: Realm, scope: str) -> None:
        """Forget a token that was refused."""
        with self._lock:
            self._tokens.pop((realm, scope), None)


def checked_realm(text: str, registry: HttpUrl, paired: Sequence[str]) -> HttpUrl:
    """Return a realm's URL if tokens for a registry may be asked for there.

    Args:
        text: As the registry wrote it.
        registry: Where that was said.
        paired: ``host[:port]`` of the registry's other token servers.

    Raises:
        UnsafeRealmError: It may not; nothing was sent there.
    """
    shown = printable(text)
    if len(text) > MAX_REALM_CHARACTERS:
        raise UnsafeRealmError(f"the token server's URL has {len(text)} characters")
    if "#" in text:
        raise UnsafeRealmError(f"the token server's URL {shown!r} has a fragment")
    try:
        url = parse_http_url(text)
    except InputError as err:
        raise UnsafeRealmError(f"the token server cannot be asked: {err.message}") from err
    if url.user or "@" in text.partition("://")[2].partition("/")[0]:
        raise UnsafeRealmError("the token server's URL has credentials of its own")
    if registry.scheme == "https" and url.scheme != "https":
        raise UnsafeRealmError(
            f"{registry.authority} wants tokens from {url.shown}, without TLS",
        )
    allowed = {registry.authority, *paired}
    if url.authority not in allowed and url.place not in allowed:
        raise UnsafeRealmError(
            f"{registry.authority} wants tokens from {url.authority}, which is not known to "
            "belong to it",
            hint=f'if it does: [registry."{registry.authority}"] realms = ["{url.authority}"] '
            "in registries.toml",
        )
    return url


def fetch_token(
    transport: Transport,
    realm: Realm,
    scope: str,
    credentials: Credentials | None,
    registry_peer: str | None,
) -> tuple[str, float]:
    """Return a token and how many seconds it is good for.

    Args:
        transport: Asks.
        realm: Of :func:`checked_realm`.
        scope: ``repository:a/b:pull``; several are separated by spaces; empty for none.
        credentials: Who asks; None for anybody.
        registry_peer: The address that the registry was reached at.

    Raises:
        UnauthorizedError: Not for these credentials.
        RegistryAnswerError: The token server cannot be asked, or gives no token.
    """
    ask = _Asking(transport, realm, scope, credentials, registry_peer)
    if credentials is not None and credentials.identity_token:
        return ask.by_form()
    return ask.by_query()


class _Asking(NamedTuple):
    """One question to a token server."""

    transport: Transport
    realm: Realm
    scope: str
    credentials: Credentials | None
    registry_peer: str | None

    def by_query(self) -> tuple[str, float]:
        """Ask as the token specification has it: GET, with basic authentication."""
        parameters = [("service", self.realm.service)] if self.realm.service else []
        parameters += [("scope", scope) for scope in self.scope.split()]
        if self.credentials is not None:
            parameters.insert(0, ("account", self.credentials.username))
        url = self.realm.url
        query = urlencode(parameters, quote_via=quote)
        if query:
            url = url._replace(target=url.target + ("&" if "?" in url.target else "?") + query)
        request = self._request(url)
        if self.credentials is not None:
            request = request._replace(authorization=self.credentials.basic())
        with _asked(self.transport, request) as answer:
            if answer.status in _METHOD_UNKNOWN and self.credentials is not None:
                return self.by_form()
            return self._token(answer)

    def by_form(self) -> tuple[str, float]:
        """Ask as OAuth 2 has it: POST, with an identity token or a password."""
        assert self.credentials is not None
        form = {"service": self.realm.service, "client_id": _CLIENT_ID, "scope": self.scope}
        if self.credentials.identity_token:
            form |= {
                "grant_type": "refresh_token",
                "refresh_token": self.credentials.identity_token,
            }
        else:
            form |= {
                "grant_type": "password",
                "username": self.credentials.username,
                "password": self.credentials.password,
            }
        request = self._request(self.realm.url)._replace(
            method="POST",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            body=urlencode(form).encode(),
        )
        with _asked(self.transport, request) as answer:
            return self._token(answer)

    def _request(self, url: HttpUrl) -> Request:
        return Request(url, sent_by=self.registry_peer, inward_private=True)

    def _token(self, answer: Answer) -> tuple[str, float]:
        host = self.realm.url.authority
        if answer.status in (401, 403):
            raise UnauthorizedError(
                f"{host} gives no token for {self.scope or 'this account'}: access is denied"
            )
        if answer.status != _OK:
            raise RegistryAnswerError(
                f"{host} gives no token: it says {answer.status} {answer.reason}".rstrip(),
                transient=answer.status in (429, 500, 502, 503, 504),
            )
        raw = answer.whole(MAX_TOKEN_BYTES, "the token server's answer")
        try:
            value = strict_json.decode(raw, "the token server's answer")
        except FormatError as err:
            raise RegistryAnswerError(f"{host} gives no token: {err.message}") from err
        fields = value if isinstance(value, dict) else {}
        token = fields.get("token") or fields.get("access_token")
        if not isinstance(token, str) or not _CREDENTIAL.fullmatch(token):
            raise RegistryAnswerError(f"{host} gives no token")
        life = fields.get("expires_in", DEFAULT_LIFE_S)
        if not isinstance(life, int) or isinstance(life, bool) or life < 0:
            life = DEFAULT_LIFE_S
        return token, min(max(life, DEFAULT_LIFE_S), _LIFE_MAX_S)


@contextlib.contextmanager
def _asked(transport: Transport, request: Request) -> Iterator[Answer]:
    """Ask a token server; failures of the line are a registry's."""
    host = request.url.authority
    try:
        with transport.exchange(request) as answer:
            if 300 <= answer.status < 400:
                raise UnsafeRealmError(
                    f"the token server {host} redirects, which is never followed"
                )
            yield answer
    except NetworkError as err:
        raise RegistryAnswerError(
            f"no token from {host}: {err.message}", hint=err.hint, transient=err.transient
        ) from err
