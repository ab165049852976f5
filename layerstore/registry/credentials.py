"""Who we are at registries: docker's ``config.json``, containers' ``auth.json``, and helpers.

Files are read in the order that podman has; written is one of them, whole or not at all and for its
owner only. What other programs keep in it survives. Helpers are processes that get the variables
that helpers need and no others. A secret is in no message, no ``repr`` and no command line.

Source: docker's documentation of ``docker login``; docker-credential-helpers' README for the
protocol of helpers; containers-auth.json(5).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import select
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

from layerstore.registry.errors import RegistryConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

DOCKER_HUB_KEY = "https://index.docker.io/v1/"
"""Under which docker keeps who we are at docker.io."""

MAX_CONFIG_BYTES = 4 << 20
_MAX_ANSWER_BYTES = 1 << 20
_HELPER_S = 60.0
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_FOUND = "credentials not found"

# Where keyrings are, and what the helpers of clouds ask their services with.
_HELPER_VARIABLES = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TERM", "DISPLAY", "WAYLAND_DISPLAY",
    "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DBUS_SESSION_BUS_ADDRESS",
    "GNUPGHOME", "GPG_TTY", "SSL_CERT_FILE", "SSL_CERT_DIR", "DOCKER_CONFIG",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
})  # fmt: skip
_HELPER_PREFIXES = ("PASSWORD_STORE_", "AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_", "ECR_")


class Credentials:
    """A name and a secret. Their texts show the name only.

    Args:
        username: Of the account.
        password: Or a token that stands for it; empty with an identity token.
        identity_token: Gives tokens of its own (OAuth 2 refresh token).
    """

    __slots__ = ("identity_token", "password", "username")

    def __init__(self, username: str, password: str, identity_token: str = "") -> None:
        self.username = username
        self.password = password
        self.identity_token = identity_token

    def __repr__(self) -> str:
        return f"Credentials({self.username!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credentials) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]

    def basic(self) -> str:
        """Return the header value of basic authentication (RFC 7617)."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")


class Kept(NamedTuple):
    """Where credentials were written.

    Attributes:
        place: A file's path, or the name of a helper.
        is_helper: It is a helper.
    """

    place: str
    is_helper: bool


class Keychain:
    """See the module.

    Args:
        files: Read one after the other.
        written: The one of them that ``put`` writes to.
        environ: The caller's variables, of which helpers see some.
    """

    def __init__(self, files: Sequence[Path], written: Path, environ: Mapping[str, str]) -> None:
        self._files = files
        self._written = written
        self._environ = environ

    def get(self, host: str, path: str = "") -> Credentials | None:
        """Return who we are at a registry, for one of its repositories if that differs.

        Args:
            host: ``host[:port]`` as names have it.
            path: Of the repository.

        Raises:
            RegistryConfigError: A file or a helper's answer cannot be understood.
        """
        for file in self._files:
            document = read_document(file)
            helper = _helper_for(document, host, file)
            found = self._ask(helper, host) if helper else None
            found = found or _of_document(document, host, path, file)
            if found is not None:
                return found
        return None

    def put(self, host: str, credentials: Credentials) -> Kept:
        """Keep credentials, with the helper that the written file names or in the file itself.

        Raises:
            RegistryConfigError: The file cannot be understood or written, or the helper fails.
        """
        document = read_document(self._written, is_written=True)
        helper = _helper_for(document, host, self._written)
        auths = _table(document, "auths", self._written)
        if helper:
            secret = credentials.identity_token or credentials.password
            name = "<token>" if credentials.identity_token else credentials.username
            request = {"ServerURL": server_key(host), "Username": name, "Secret": secret}
            self._run(helper, "store", json.dumps(request))
            auths[server_key(host)] = {}
        else:
            pair = f"{credentials.username}:{credentials.password}".encode()
            entry = {"auth": base64.b64encode(pair).decode("ascii")}
            if credentials.identity_token:
                entry["identitytoken"] = credentials.identity_token
            auths[server_key(host)] = entry
        document["auths"] = auths
        _write(self._written, document)
        return Kept(helper or str(self._written), bool(helper))

    def remove(self, host: str) -> bool:
        """Forget credentials; return whether there were any where ``put`` writes them.

        Raises:
            RegistryConfigError: The file cannot be understood or written, or the helper fails.
        """
        document = read_document(self._written, is_written=True)
        helper = _helper_for(document, host, self._written)
        found = False
        if helper:
            found = self._ask(helper, host) is not None
            if found:
                self._run(helper, "erase", server_key(host))
        auths = _table(document, "auths", self._written)
        keys = [key for key in auths if host_of_key(key) == host_of_key(host)]
        for key in keys:
            del auths[key]
        if keys:
            document["auths"] = auths
            _write(self._written, document)
        return found or bool(keys)

    def _ask(self, helper: str, host: str) -> Credentials | None:
        answer = self._run(helper, "get", server_key(host))
        if answer is None:
            return None
        try:
            value = json.loads(answer)
            name, secret = value["Username"], value["Secret"]
        except (ValueError, KeyError, TypeError, RecursionError):
            name = secret = None
        if not isinstance(name, str) or not isinstance(secret, str):
            raise RegistryConfigError(
                f"the credential helper {helper} does not speak the helpers' protocol"
            )
        if name == "<token>":
            return Credentials("", "", secret)
        return Credentials(name, secret)

    def _run(self, helper: str, verb: str, text: str) -> str | None:
        """Run a helper; return what it says, None if it knows of nothing."""
        program = f"docker-credential-{helper}"
        environment = {
            name: value
            for name, value in self._environ.items()
            if name in _HELPER_VARIABLES or name.startswith(_HELPER_PREFIXES)
        }
        try:
            status, raw = _answer_of([program, verb], text.encode(), environment)
        except FileNotFoundError as err:
            raise RegistryConfigError(
                f"the credential helper {program} is not installed",
                hint="install it, or take credsStore and credHelpers out of the config file",
            ) from err
        except (OSError, subprocess.TimeoutExpired) as err:
            raise RegistryConfigError(f"the credential helper {program} does not end") from err
        if len(raw) > _MAX_ANSWER_BYTES:
            raise RegistryConfigError(
                f"the credential helper {program} says more than {_MAX_ANSWER_BYTES} bytes"
            )
        answer = raw.decode("utf-8", "replace")
        if status == 0:
            return answer
        if _NOT_FOUND in answer.lower():
            return None
        # What it says of an error is for people; its input, which it might repeat, is not.
        said = "".join(c if c.isprintable() else " " for c in answer[:200]).strip()
        said = "" if verb == "store" else said
        raise RegistryConfigError(
            f"the credential helper {program} fails with status {status}"
            + (f": {said}" if said else "")
        )


def _answer_of(words: list[str], told: bytes, environment: dict[str, str]) -> tuple[int, bytes]:
    """Run a helper; return its status and what it says, a byte too much if that has no end.

    Raises:
        TimeoutExpired: It goes on; it was killed.
        OSError: It cannot be run.
    """
    until = time.monotonic() + _HELPER_S
    answer = b""
    with os.fdopen(os.memfd_create("layerstore-helper"), "w+b") as given:
        given.write(told)
        given.seek(0)
        process = subprocess.Popen(
            words, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
    with process:
        assert process.stdout is not None
        fd = process.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        try:
            while (room := _MAX_ANSWER_BYTES + 1 - len(answer)) > 0:
                if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                    raise subprocess.TimeoutExpired(words, _HELPER_S)
                if not (piece := os.read(fd, room)):
                    return process.wait(max(0.0, until - time.monotonic())), answer
                answer += piece
            return 0, answer
        finally:
            process.kill()  # harmless for one that has ended


def server_key(host: str) -> str:
    """Return what docker calls a registry in its files and to helpers."""
    return DOCKER_HUB_KEY if host == "docker.io" else host


def host_of_key(key: str) -> str:
    """Return the ``host[:port]`` that an entry is for, however it was written."""
    rest = key.partition("://")[2] or key
    host = rest.partition("/")[0]
    return "docker.io" if host in ("index.docker.io", "registry-1.docker.io") else host


def read_document(path: Path, *, is_written: bool = False) -> dict[str, object]:
    """Return a config file's JSON; empty if there is none.

    Args:
        path: Of the file. One that is not for us to read is none,
        is_written: unless it is to be replaced, which would lose what it holds.

    Raises:
        RegistryConfigError: It cannot be read, or is not an object of JSON.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as err:
        if isinstance(err, PermissionError) and not is_written:
            return {}
        raise RegistryConfigError(f"{path} cannot be read: {err.strerror}") from err
    if not raw.strip():
        return {}
    try:
        value = json.loads(raw) if len(raw) <= MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RegistryConfigError(
            f"{path} is not a config file of docker", hint="repair it, or move it aside"
        )
    return value


def _helper_for(document: dict[str, object], host: str, path: Path) -> str:
    helpers = _table(document, "credHelpers", path)
    named = next((v for k, v in helpers.items() if host_of_key(k) == host), None)
    name = named if named is not None else document.get("credsStore", "")
    if not name:
        return ""
    if not isinstance(name, str) or not _HELPER_NAME.fullmatch(name):
        raise RegistryConfigError(f"{path}: {str(name)[:60]!r} is not the name of a helper")
    return name


def _of_document(
    document: dict[str, object], host: str, path: str, file: Path
) -> Credentials | None:
    auths = _table(document, "auths", file)
    for key in _keys(host, path):
        for written, entry in auths.items():
            exact = written == key
            if exact or ("/" not in key and host_of_key(written) == key and _is_host_key(written)):
                found = _entry(entry, written, file)
                if found is not None:
                    return found
    return None


def _keys(host: str, path: str) -> Iterator[str]:
    """Yield what an entry may be called, the most special first."""
    parts = path.split("/") if path else []
    for count in range(len(parts), 0, -1):
        yield "/".join([host, *parts[:count]])
    yield host


def _is_host_key(written: str) -> bool:
    """Return whether an entry is for all of a registry: a host, or docker's old URLs."""
    return "://" in written or "/" not in written or written.endswith(("/v1/", "/v2/"))


def _entry(entry: object, key: str, file: Path) -> Credentials | None:
    if not isinstance(entry, dict):
        raise RegistryConfigError(f"{file}: auths[{key!r}] is not an object")
    token = entry.get("identitytoken", "")
    auth = entry.get("auth", "")
    username, password = entry.get("username", ""), entry.get("password", "")
    if auth:
        try:
            text = base64.b64decode(auth, validate=True).decode("utf-8")
        except (binascii.Error, ValueError, TypeError):
            text = ""
        username, colon, password = text.rstrip("\0").partition(":")
        if not colon:
            raise RegistryConfigError(
                f"{file}: auths[{key!r}].auth is not base64 of NAME:PASSWORD",
                hint=f"layerstore login {host_of_key(key)}",
            )
    if not all(isinstance(text, str) for text in (username, password, token)):
        raise RegistryConfigError(f"{file}: auths[{key!r}] does not hold texts")
    if not token and not (username or password):
        return None
    return Credentials(username, "" if token else password, token)


def _table(document: dict[str, object], name: str, path: Path) -> dict[str, object]:
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RegistryConfigError(f"{path}: {name} is not an object")
    return value


def _write(path: Path, document: dict[str, object]) -> None:
    """Replace a config file, and the one that a link in its place points to."""
    target = os.path.realpath(path)  # people keep it among their dotfiles
    text = json.dumps(document, indent="\t") + "\n"
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(file, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as err:
        raise RegistryConfigError(f"{path} cannot be written: {err.strerror}") from err
