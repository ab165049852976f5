"""What an image says of its containers: the few fields of its config that a start needs.

Configs were checked when they came into the store, and their bytes are verified on every read.
:mod:`layerstore.formats.oci_config` knows the other fields, and takes 15 ms to import.

On the fast path.
"""

from __future__ import annotations

from layerstore import light_json as json
from layerstore.errors import FormatError
from layerstore.light_typing import Any, NamedTuple

_SHELL = ("/bin/sh", "-c")


class ImageHealth(NamedTuple):
    """What a HEALTHCHECK says; times in nanoseconds, 0 for the usual one.

    Attributes:
        args: The command, none for NONE.
    """

    args: tuple[str, ...]
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


class ImageDefaults(NamedTuple):
    """The platform, and fields named and meant as those of ``ContainerConfig`` there."""

    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: dict[str, str] = {}  # noqa: RUF012 -- immutable by convention
    stop_signal: str = ""
    stop_timeout_s: int | None = None
    platform: str = ""
    shell: tuple[str, ...] = _SHELL
    health: ImageHealth | None = None


def image_defaults(raw: bytes) -> ImageDefaults:
    """Return what an image's config says of its containers.

    Raises:
        FormatError: A field has a form that no config has.
    """
    try:
        whole = json.loads(raw)
        config = whole.get("config") or {}
        timeout = config.get("StopTimeout")
        return ImageDefaults(
            user=_text(config, "User"),
            env=_texts(config, "Env") or (),
            entrypoint=_texts(config, "Entrypoint"),
            cmd=_texts(config, "Cmd"),
            volumes=tuple(sorted(map(str, config.get("Volumes") or {}))),
            working_dir=_text(config, "WorkingDir"),
            labels={str(key): str(value) for key, value in (config.get("Labels") or {}).items()},
            stop_signal=_text(config, "StopSignal"),
            stop_timeout_s=None if timeout is None else int(timeout),
            shell=_texts(config, "Shell") or _SHELL,
            health=_health(config),
            platform=f"{_text(whole, 'os')}/{_text(whole, 'architecture')}",
        )
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as err:
        raise FormatError(
            f"the image's config cannot be used: {err}", hint="layerstore check"
        ) from err


def _health(config: dict[str, Any]) -> ImageHealth | None:
    found = config.get("Healthcheck")
    if not found:
        return None
    test = _texts(found, "Test")
    if not test:
        return None
    kind, *words = test
    if kind == "CMD-SHELL":
        words = [*(_texts(config, "Shell") or _SHELL), *words]
    elif kind != "CMD":  # NONE
        words = []
    names = ("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")
    return ImageHealth(tuple(words), *(_count(found.get(name)) for name in names))


def _count(value: Any) -> int:  # noqa: ANN401 -- a stranger's
    """Return a number that is told, as far as it goes in Go's integers."""
    return min(max(0, int(value or 0)), (1 << 63) - 1)


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"its {name} is no text")
    return value


def _texts(fields: dict[str, Any], name: str) -> tuple[str, ...] | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, str):  # old writers gave one bare string
        return (value,)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"its {name} is no list of texts")
    return tuple(value)
