"""What EXPOSE accepts: ports, ranges and protocols.

Source: docker's port specifications (``nat.ParsePortSpecs``); a host address or
host port in front is accepted as docker accepts it, and says nothing here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.build.dockerfile import limits
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.hints import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterable

    from layerstore.build.dockerfile.syntax import SourceSpan

_PROTOCOLS = ("tcp", "udp", "sctp")
_MAX_PORT = 65_535


def expand_ports(words: Iterable[str], span: SourceSpan) -> tuple[str, ...]:
    """Return the image config's ``80/tcp`` for each port of expanded words, sorted by number.

    Raises:
        SpecError: Not a port, a range or a protocol.
        LimitExceededError: More than `limits.MAX_PORTS` ports.
    """
    ranges: set[tuple[int, int, str]] = set()
    count = 0
    for word in words:
        parsed = parse_port(word, span)
        if parsed in ranges:
            continue
        ranges.add(parsed)
        count += parsed[1] - parsed[0] + 1
        if count > limits.MAX_PORTS:
            raise limits.limit_exceeded(span, "EXPOSE lists too many ports", limits.MAX_PORTS)
    ports = {(port, protocol) for low, high, protocol in ranges for port in range(low, high + 1)}
    return tuple(f"{port}/{protocol}" for port, protocol in sorted(ports))


def parse_port(word: str, span: SourceSpan) -> tuple[int, int, str]:
    """Return first port, last port and protocol of ``port[-port][/protocol]``.

    Raises:
        SpecError: It is none of that.
    """
    spec, slash, protocol = word.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        hint = suggestion(protocol, _PROTOCOLS, "write tcp, udp or sctp")
        raise SpecError(f"{protocol!r} is not a protocol", span, hint=hint)
    low, dash, high = spec.rpartition(":")[2].partition("-")
    first = _port(low)
    last = _port(high) if dash else first
    if first is None or last is None or first > last or (slash and not spec):
        hint = "write a port from 0 to 65535 or a range: 80, 53/udp, 8000-8010"
        raise SpecError(f"EXPOSE {word!r} is not a port", span, hint=hint)
    return first, last, protocol


def _port(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text.lstrip("0")) <= 5):
        return None
    value = int(text)
    return value if value <= _MAX_PORT else None
