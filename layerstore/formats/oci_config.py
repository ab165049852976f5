"""Image configs: what a container of an image runs as, and where the image came from.

Reads what docker, BuildKit, podman and the OCI image spec write, and writes one
canonical form, because an image's id is the digest of its config. Fields that
are not known here survive a round trip in ``extra``. Values are immutable (the
mappings by convention); functions are pure.

Source: OCI image spec, config.md; docker's image spec v1.2 for Healthcheck,
OnBuild, Shell and ArgsEscaped, which OCI lacks or reserves.
"""

from __future__ import annotations

import re

from msgspec import Struct

from layerstore.digest import DiffId, parse_digest
from layerstore.errors import FormatError, LimitExceededError
from layerstore.formats import strict_json
from layerstore.formats._fields import Fields

MAX_LAYERS = 512
"""Layers of one image; overlayfs ends at 500 lower directories, docker at 127."""

_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class Healthcheck(Struct, frozen=True, kw_only=True):
    """How to ask a container whether it is well.

    Attributes:
        test: ``("NONE",)``, ``("CMD", ...)`` or ``("CMD-SHELL", command)``; empty inherits.
        interval_ns: Nanoseconds between checks; 0 inherits, like the other numbers.
    """

    test: tuple[str, ...] = ()
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0
    extra: dict[str, object] = {}


class ContainerConfig(Struct, frozen=True, kw_only=True):
    """What containers of an image start with; docker's ``Config`` object.

    Attributes:
        user: ``user``, ``uid``, ``user:group``; empty is root.
        exposed_ports: ``"80/tcp"``, sorted when written.
        env: ``NAME=value`` in order.
        entrypoint: None when the image sets none; an empty tuple clears an inherited one.
        stop_timeout_s: Seconds between the stop signal and SIGKILL; None for the default.
        on_build: Dockerfile instructions to run in images built from this one.
        shell: What shell forms run in; empty is ``/bin/sh -c``.
    """

    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: dict[str, str] = {}
    stop_signal: str = ""
    stop_timeout_s: int | None = None
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    extra: dict[str, object] = {}


class History(Struct, frozen=True, kw_only=True):
    """One step of an image's making; steps with ``empty_layer`` left no layer."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False
    extra: dict[str, object] = {}


class ImageConfig(Struct, frozen=True, kw_only=True):
    """A whole image config.

    Attributes:
        created: RFC 3339; empty when unknown.
        diff_ids: The layers, lowest first.
        rootfs_extra: Unknown fields of the ``rootfs`` object.
    """

    architecture: str
    os: str = "linux"
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()
    created: str = ""
    author: str = ""
    config: ContainerConfig = ContainerConfig()
    diff_ids: tuple[DiffId, ...] = ()
    rootfs_extra: dict[str, object] = {}
    history: tuple[History, ...] = ()
    extra: dict[str, object] = {}


def decode_config(raw: bytes) -> ImageConfig:
    """Return the image config in a JSON text.

    Raises:
        FormatError: Not an image config, or one that two programs would read differently.
        LimitExceededError: More than ``MAX_LAYERS`` layers, or a JSON limit.
    """
    fields = Fields(strict_json.decode(raw, "image config"), "config")
    diff_ids, rootfs_extra = fields.part("rootfs", _rootfs) or ((), {})
    return ImageConfig(
        architecture=fields.required_text("architecture"),
        os=fields.required_text("os"),
        variant=fields.text("variant"),
        os_version=fields.text("os.version"),
        os_features=fields.texts("os.features") or (),
        created=_time(fields, "created"),
        author=fields.text("author"),
        config=fields.part("config", _container_config) or ContainerConfig(),
        diff_ids=diff_ids,
        rootfs_extra=rootfs_extra,
        history=fields.parts("history", _history),
        extra=fields.rest(),
    )


def encode_config(config: ImageConfig) -> bytes:
    """Return the canonical JSON text of a config; equal configs give equal bytes."""
    plain: dict[str, object] = {
        **config.extra,
        **_present(
            {
                "architecture": config.architecture,
                "author": config.author,
                "created": config.created,
                "os": config.os,
                "os.features": list(config.os_features),
                "os.version": config.os_version,
                "variant": config.variant,
            }
        ),
        "config": container_config_to_json(config.config),
        "history": [_history_to_json(step) for step in config.history],
        "rootfs": {**config.rootfs_extra, "diff_ids": list(config.diff_ids), "type": "layers"},
    }
    return strict_json.encode(plain)


def container_config_to_json(config: ContainerConfig) -> dict[str, object]:
    """Return docker's ``Config`` object, without the fields that are empty."""
    plain: dict[str, object] = {
        **config.extra,
        **_present(
            {
                "ArgsEscaped": config.args_escaped,
                "Env": list(config.env),
                "ExposedPorts": _set_to_json(config.exposed_ports),
                "Labels": dict(config.labels),
                "OnBuild": list(config.on_build),
                "Shell": list(config.shell),
                "StopSignal": config.stop_signal,
                "User": config.user,
                "Volumes": _set_to_json(config.volumes),
                "WorkingDir": config.working_dir,
            }
        ),
    }
    if config.entrypoint is not None:
        plain["Entrypoint"] = list(config.entrypoint)
    if config.cmd is not None:
        plain["Cmd"] = list(config.cmd)
    if config.stop_timeout_s is not None:
        plain["StopTimeout"] = config.stop_timeout_s
    if config.healthcheck is not None:
        plain["Healthcheck"] = _healthcheck_to_json(config.healthcheck)
    return plain


def _container_config(value: object, where: str) -> ContainerConfig:
    fields = Fields(value, where)
    return ContainerConfig(
        user=_user(fields),
        exposed_ports=tuple(sorted(fields.members("ExposedPorts"))),
        env=fields.texts("Env") or (),
        entrypoint=fields.words("Entrypoint"),
        cmd=fields.words("Cmd"),
        volumes=tuple(sorted(fields.members("Volumes"))),
        working_dir=fields.text("WorkingDir"),
        labels=fields.mapping("Labels"),
        stop_signal=fields.text("StopSignal"),
        stop_timeout_s=fields.optional_integer("StopTimeout"),
        on_build=fields.texts("OnBuild") or (),
        shell=fields.words("Shell") or (),
        healthcheck=fields.part("Healthcheck", _healthcheck),
        args_escaped=fields.boolean("ArgsEscaped"),
        extra=fields.rest(),
    )


def _user(fields: Fields) -> str:
    user = fields.text("User")
    if user.count(":") > 1:
        raise FormatError(f"{fields.where}.User is {user[:100]!r}, expected user or user:group")
    return user


def _healthcheck(value: object, where: str) -> Healthcheck:
    fields = Fields(value, where)
    return Healthcheck(
        test=fields.texts("Test") or (),
        interval_ns=fields.integer("Interval", low=0),
        timeout_ns=fields.integer("Timeout", low=0),
        start_period_ns=fields.integer("StartPeriod", low=0),
        start_interval_ns=fields.integer("StartInterval", low=0),
        retries=fields.integer("Retries", low=0),
        extra=fields.rest(),
    )


def _healthcheck_to_json(check: Healthcheck) -> dict[str, object]:
    return {
        **check.extra,
        **_present(
            {
                "Test": list(check.test),
                "Interval": check.interval_ns,
                "Timeout": check.timeout_ns,
                "StartPeriod": check.start_period_ns,
                "StartInterval": check.start_interval_ns,
                "Retries": check.retries,
            }
        ),
    }


def _history(value: object, where: str) -> History:
    fields = Fields(value, where)
    return History(
        created=_time(fields, "created"),
        created_by=fields.text("created_by"),
        author=fields.text("author"),
        comment=fields.text("comment"),
        empty_layer=fields.boolean("empty_layer"),
        extra=fields.rest(),
    )


def _history_to_json(step: History) -> dict[str, object]:
    return {
        **step.extra,
        **_present(
            {
                "created": step.created,
                "created_by": step.created_by,
                "author": step.author,
                "comment": step.comment,
                "empty_layer": step.empty_layer,
            }
        ),
    }


def _rootfs(value: object, where: str) -> tuple[tuple[DiffId, ...], dict[str, object]]:
    fields = Fields(value, where)
    kind = fields.text("type", "layers")
    if kind != "layers":
        raise FormatError(f"{where}.type is {kind[:100]!r}, expected 'layers'")
    texts = fields.texts("diff_ids") or ()
    if len(texts) > MAX_LAYERS:
        raise LimitExceededError(
            f"image has {len(texts)} layers, more than the limit of {MAX_LAYERS}"
        )
    return tuple(DiffId(parse_digest(text)) for text in texts), fields.rest()


def _time(fields: Fields, key: str) -> str:
    value = fields.text(key)
    if value and not _RFC3339.fullmatch(value):
        raise FormatError(f"{fields.where}.{key} is {value[:100]!r}, expected an RFC 3339 time")
    return value


def _present(plain: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in plain.items() if value}


def _set_to_json(names: tuple[str, ...]) -> dict[str, object]:
    return {name: {} for name in names}
