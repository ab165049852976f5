"""The health check that a container is to have: by its image's HEALTHCHECK and the user's words."""

from __future__ import annotations

from layerstore.containers.settings import HealthCheck
from layerstore.errors import InputError
from layerstore.light_re import Pattern
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from layerstore.containers.image_config import ImageDefaults, ImageHealth

_NS = 1e9
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = Pattern(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ns|us|µs|ms|s|m|h)")
_MAX_S = 365.0 * 86400
_MIN_S = 0.001
"""docker's; a check costs a process."""


def health_of(options: argparse.Namespace, config: ImageDefaults) -> HealthCheck | None:
    """Return the check of a container, None for none; the user's words come first.

    Raises:
        InputError: A word that means nothing, or two that contradict each other.
    """
    given = {
        name: getattr(options, f"health_{name}")
        for name in ("cmd", "interval", "timeout", "retries", "start_period", "start_interval")
    }
    if options.no_healthcheck:
        if any(value is not None for value in given.values()):
            raise InputError("--no-healthcheck and --health-... contradict each other")
        return None
    image = config.health
    args = image.args if image is not None else ()
    if given["cmd"] is not None:
        args = (*config.shell, given["cmd"]) if given["cmd"] != "none" else ()
    if not args:
        return None
    usual = HealthCheck(args)
    retries = given["retries"] if given["retries"] is not None else image and image.retries
    if retries is not None and retries < 0:
        raise InputError(f"--health-retries {retries} is less than none")
    return HealthCheck(
        args,
        interval_s=_seconds(given["interval"], "interval", image) or usual.interval_s,
        timeout_s=_seconds(given["timeout"], "timeout", image) or usual.timeout_s,
        retries=retries or usual.retries,
        start_period_s=_seconds(given["start_period"], "start-period", image),
        start_interval_s=_seconds(given["start_interval"], "start-interval", image)
        or usual.start_interval_s,
    )


def _seconds(word: str | None, name: str, image: ImageHealth | None) -> float:
    """Return the seconds of a word, else those that the image says; 0 for the usual ones."""
    if word is None:
        if image is None:
            return 0.0
        of_image = getattr(image, f"{name.replace('-', '_')}_ns") / _NS
        return min(max(of_image, _MIN_S), _MAX_S) if of_image > 0 else 0.0
    terms = _TERM.findall(word)
    if word != "0" and (not terms or "".join(number + unit for number, unit in terms) != word):
        raise InputError(f"--health-{name} {word!r} is no duration", hint="30s, 1m30s, 500ms")
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in terms)
    if 0 < seconds < _MIN_S or seconds > _MAX_S:
        raise InputError(f"--health-{name} {word!r} is out of bounds", hint="from 1ms to 8760h")
    return seconds
