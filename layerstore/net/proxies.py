"""Which proxy a request goes through, by the variables that everybody uses for it.

``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``, small letters first. Pure.

Source: golang.org/x/net/http/httpproxy (behaviour), which docker's builders follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from layerstore.errors import InputError
from layerstore.net.urls import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.net.urls import HttpUrl

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_DEFAULT_PORT = 80


class Proxy(NamedTuple):
    """A proxy that speaks HTTP.

    Attributes:
        user: ``user:password``, or empty.
    """

    host: str
    port: int
    user: str


def proxy_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the proxy variables of an environment, by their names in small letters."""
    found = {}
    for name in PROXY_VARIABLES:
        value = environ.get(name) or environ.get(name.upper())
        if value:
            found[name] = value
    return found


def proxy_for(url: HttpUrl, variables: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for a URL, None to connect directly.

    Args:
        url: What is asked for.
        variables: As :func:`proxy_environment` returns them.

    Raises:
        InputError: The variable holds no proxy that can be used.
    """
    text = variables.get(f"{url.scheme}_proxy") or variables.get("all_proxy")
    if not text or _is_excepted(url, variables.get("no_proxy", "")):
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as err:
        raise InputError(f"the proxy for {url.scheme} is no URL: {err}") from err
    if not host or parts.scheme != "http":
        raise InputError(
            f"the proxy for {url.scheme} is not an HTTP proxy (http://HOST:PORT)",
            hint=f"see the variable {url.scheme.upper()}_PROXY",
        )
    user = unquote(f"{parts.username}:{parts.password or ''}") if parts.username else ""
    return Proxy(host, port or _DEFAULT_PORT, user)


def _is_excepted(url: HttpUrl, no_proxy: str) -> bool:
    if is_loopback(url.host):
        return True
    return any(_covers(rule.strip().lower(), url) for rule in no_proxy.split(","))


def _covers(rule: str, url: HttpUrl) -> bool:
    if not rule:
        return False
    if rule == "*":
        return True
    if "/" in rule:
        return _in_network(url.host, rule)
    host, _, port = rule.rpartition(":")
    if port.isdigit() and (host.endswith("]") or (host and ":" not in host)):
        if int(port) != url.port:
            return False
        rule = host
    rule = rule.strip("[]").removeprefix("*")
    if rule.startswith("."):
        return url.host.endswith(rule)
    return url.host == rule or url.host.endswith("." + rule)


def _in_network(host: str, rule: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(rule, strict=False)
    except ValueError:  # a name, or not a network
        return False
