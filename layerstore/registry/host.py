"""One registry's API: requests with the right credentials, answers that are what was asked for.

Requests go out without credentials until the registry asks for some; what it asked for is kept, so
that later requests carry a token at once. Credentials are sent to the registry's own origin and to
its token server, never where a redirect or a ``Location`` leads.

Source: OCI distribution spec 1.1; distribution's "Token Authentication Specification".
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import LayerstoreError, LimitExceededError
from layerstore.formats import strict_json
from layerstore.net.errors import NetworkError
from layerstore.net.transport import Request, Transport, printable
from layerstore.net.urls import parse_http_url
from layerstore.registry.challenge import parse_challenges
from layerstore.registry.errors import (
    RateLimitedError,
    RegistryAnswerError,
    UnauthorizedError,
    UnknownToRegistryError,
)
from layerstore.registry.hosts import API_HOSTS, Registries
from layerstore.registry.retrying import of_network, retried, retry_after
from layerstore.registry.tokens import Realm, TokenCache, checked_realm, fetch_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.net.transport import Answer
    from layerstore.net.urls import HttpUrl
    from layerstore.registry.challenge import Challenge
    from layerstore.registry.credentials import Credentials, Keychain

_ERROR_BYTES = 1 << 16
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY = 401, 403, 404, 429
_LOW = 10
"""A registry's limit is told when less than a tenth of it is left."""


def say_nothing(_text: str) -> None:
    """Keep a note to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all registries are reached with.

    Attributes:
        transport: Asks; its settings' ``tls`` is the registries'.
        registries: Rules.
        keychain: Who we are; None for nobody.
        credentials: Of the command line: who we are everywhere, instead of the keychain.
        note: Takes what people should know once: limits that are near.
    """

    transport: Transport
    registries: Registries = field(default_factory=Registries)
    keychain: Keychain | None = None
    credentials: Credentials | None = None
    note: Callable[[str], None] = say_nothing


class Scope(NamedTuple):
    """What a token must be good for.

    Attributes:
        path: Of the repository; empty for none.
        actions: ``pull`` or ``pull,push``.
        also: Another repository to read from.
    """

    path: str = ""
    actions: str = "pull"
    also: str = ""

    @property
    def text(self) -> str:
        """The scopes as the token specification has them."""
        if not self.path:
            return ""
        text = f"repository:{self.path}:{self.actions}"
        return f"{text} repository:{self.also}:pull" if self.also else text


class Host:
    """See the module. For several threads.

    Args:
        name: ``host[:port]`` as names have it.
        prefix: Path before the repositories of a mirror; else empty.
        around: What it is reached with.

    Attributes:
        name: The same.
    """

    def __init__(self, name: str, around: Surroundings, prefix: str = "") -> None:
        self.name = name
        self._around = around
        self._prefix = prefix
        self._rules = around.registries.of(name)
        self._lock = threading.Lock()
        self._base: HttpUrl | None = None
        self._peer: str | None = None
        self._challenge: Challenge | None = None
        self._tokens = TokenCache()
        self._told_limit = False

    @property
    def pause(self) -> Callable[[float], None]:
        """How to wait between tries."""
        return self._around.transport.pause

    def url(self, path: str) -> HttpUrl:
        """Return the URL of something under ``/v2/``.

        Raises:
            RegistryAnswerError: The registry is blocked or cannot be reached.
        """
        base = self._found_base()
        target = f"/v2/{path}"
        return base._replace(
            target=target, path=target, shown=f"{base.scheme}://{base.authority}{target}"
        )

    def repository_path(self, path: str) -> str:
        """Return where a repository lies on this host."""
        return f"{self._prefix}/{path}" if self._prefix else path

    @contextlib.contextmanager
    def exchange(self, request: Request, scope: Scope) -> Iterator[Answer]:
        """Send a request with what the registry wants to see; hold its answer, if it is no 401.

        GET and HEAD follow redirects. Requests to other origins than the registry's, where
        uploads may lead, carry nothing of ours.

        Raises:
            RegistryAnswerError: No answer, or it wants credentials that we lack.
        """
        try:
            with self._sent(request, scope, refused="") as (answer, sent):
                if answer.status != _UNAUTHORIZED or answer.url.origin != self._found_base().origin:
                    yield answer
                    return
                self._peer = answer.peer
                self._learn(answer)
            if not _can_repeat(request):
                raise RegistryAnswerError(f"{self.name} asks for a new token", transient=True)
            with self._sent(request, scope, refused=sent) as (answer, _):
                yield answer
        except NetworkError as err:
            raise of_network(err, self.name) from err

    def check(self) -> None:
        """Ask whether the registry lets us in at all.

        Raises:
            RegistryAnswerError: It does not, or is none.
        """

        def ask() -> None:
            with self.exchange(Request(self.url("")), Scope()) as answer:
                if answer.status not in (200, 404):
                    raise refused(answer, self.name)

        retried(ask, self.pause)

    @contextlib.contextmanager
    def _sent(
        self, request: Request, scope: Scope, *, refused: str
    ) -> Iterator[tuple[Answer, str]]:
        """Send a request; give its answer and the authorization that went with it."""
        own = request.url.origin == self._found_base().origin
        authorization = self._authorization(scope, refused) if own else ""
        request = request._replace(authorization=authorization)
        with self._around.transport.follow(request) as answer:
            if own:
                self._tell_limit(answer)
            yield answer, authorization

    def _authorization(self, scope: Scope, refused: str) -> str:
        """Return what the registry wants to see, as far as it has said so.

        Args:
            scope: What for.
            refused: What it just did not want.
        """
        challenge = self._challenge
        if challenge is None:
            return ""
        credentials = self._credentials(scope.path)
        if challenge.scheme == "basic":
            value = credentials.basic() if credentials else ""
            return "" if value == refused else value
        try:
            return self._bearer(challenge, scope, credentials, refused)
        except LayerstoreError:
            # What cannot be answered is forgotten: the registry may want something else next time.
            self._challenge, self._tokens = None, TokenCache()
            raise

    def _bearer(
        self, challenge: Challenge, scope: Scope, credentials: Credentials | None, refused: str
    ) -> str:
        realm = Realm(
            checked_realm(
                challenge.parameters.get("realm", ""), self._found_base(), self._rules.realms
            ),
            challenge.parameters.get("service", ""),
        )
        text = scope.text or challenge.parameters.get("scope", "")
        token = self._tokens.get(realm, text)
        if token is not None and refused == f"Bearer {token}":
            self._tokens.drop(realm, text)
            token = None
        if token is None:
            token, life_s = fetch_token(
                self._around.transport, realm, text, credentials, self._peer
            )
            self._tokens.put(realm, text, token, life_s)
        return f"Bearer {token}"

    def _credentials(self, path: str) -> Credentials | None:
        if self._around.credentials is not None:
            return self._around.credentials
        keychain = self._around.keychain
        return keychain.get(self.name, path) if keychain else None

    def _learn(self, answer: Answer) -> None:
        """Take what a 401 says the registry wants to see."""
        challenges = parse_challenges(answer.headers.get_all("WWW-Authenticate") or [])
        for scheme in ("bearer", "basic"):
            for challenge in challenges:
                if challenge.scheme == scheme and (scheme == "basic" or _realm(challenge)):
                    self._challenge = challenge
                    return
        raise UnauthorizedError(f"{self.name} says 401 and not how to get in")

    def _found_base(self) -> HttpUrl:
        """Return where the API is; asked once where TLS is not certain."""
        with self._lock:
            if self._base is None:
                self._base = self._find_base()
            return self._base

    def _find_base(self) -> HttpUrl:
        if self._rules.blocked:
            raise RegistryAnswerError(f"{self.name} is blocked by configuration")
        host = API_HOSTS.get(self.name, self.name)
        safe = parse_http_url(f"https://{host}/v2/")
        if not self._rules.insecure:
            return safe
        try:
            with self._around.transport.exchange(Request(safe)):
                return safe
        except NetworkError:
            return parse_http_url(f"http://{host}/v2/")

    def _tell_limit(self, answer: Answer) -> None:
        limit = _count(answer.header("RateLimit-Limit"))
        left = _count(answer.header("RateLimit-Remaining"))
        if self._told_limit or limit is None or left is None or left * _LOW >= limit:
            return
        self._told_limit = True
        self._around.note(f"{self.name}: {left} of {limit} pulls are left before its limit")


def refused(answer: Answer, what: str) -> RegistryAnswerError:
    """Return the error that an answer is, with what the registry says of it.

    Args:
        answer: Not the one that was hoped for.
        what: What was asked for, for the message.
    """
    said = _said(answer)
    message = f"{what}: {answer.url.authority} says {answer.status} {answer.reason}".rstrip()
    if said:
        message += f" ({said})"
    if answer.status in (_UNAUTHORIZED, _FORBIDDEN):
        api = answer.url.authority
        names = [name for name, host in API_HOSTS.items() if host == api]
        return UnauthorizedError(message, hint=f"layerstore login {(names or [api])[0]}")
    if answer.status == _NOT_FOUND:
        return UnknownToRegistryError(message)
    transient = answer.status in _TRANSIENT
    try:
        wait = retry_after(answer) if transient else None
    except RateLimitedError as err:
        return RateLimitedError(f"{message}: {err.message}")
    kind = RateLimitedError if answer.status == _TOO_MANY else RegistryAnswerError
    return kind(message, transient=transient, retry_after_s=wait)


def _said(answer: Answer) -> str:
    """Return the code and words of an error in the specification's form; empty without one."""
    try:
        value = strict_json.decode(answer.whole(_ERROR_BYTES, "an error"), "an error")
    except (LayerstoreError, LimitExceededError):
        return ""
    errors = value.get("errors") if isinstance(value, dict) else None
    first = errors[0] if isinstance(errors, list) and errors else None
    if not isinstance(first, dict):
        return ""
    words = [str(first[name]) for name in ("code", "message") if first.get(name)]
    return printable(": ".join(words))


def _realm(challenge: Challenge) -> str:
    return challenge.parameters.get("realm", "")


def _count(text: str) -> int | None:
    number = text.partition(";")[0].strip()
    return int(number[:9]) if number.isascii() and number.isdigit() else None


def _can_repeat(request: Request) -> bool:
    return request.body is None or isinstance(request.body, bytes)
