"""What containers of an image start with, and checks of words that several places take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.build.dockerfile.durations import parse_duration
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.ports import expand_ports
from layerstore.build.dockerfile.signals import is_signal
from layerstore.build.dockerfile.syntax import CommandLine, Healthcheck
from layerstore.build.modes import parse_mode
from layerstore.build.native.limits import MAX_VARIABLES, limit_exceeded
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.native.reader import Node
    from layerstore.build.native.spec import Health, Spec
    from layerstore.build.stage import StageState


def apply_config(state: StageState, spec: Spec, node: Node) -> None:
    """Set what containers of the image start with."""
    if spec.user:
        state.set_user(spec.user)
    if spec.entrypoint is not None:
        state.set_entrypoint(arguments(state, spec.entrypoint, node.span_of("entrypoint")))
    if spec.cmd is not None:
        state.set_cmd(arguments(state, spec.cmd, node.span_of("cmd")))
    if spec.ports:
        state.expose(expand_ports(map(str, spec.ports), node.span_of("ports")))
    if spec.volumes:
        for index, path in enumerate(spec.volumes):
            check_absolute(path, "a volume", node.span_of("volumes", index))
        state.add_volumes(spec.volumes)
    if spec.labels:
        state.set_labels(sorted(spec.labels.items()))
    if spec.healthcheck is not None:
        _set_healthcheck(state, spec.healthcheck, node)
    if spec.stop_signal:
        if not is_signal(spec.stop_signal):
            raise SpecError(f"{spec.stop_signal!r} is not a signal", node.span_of("stop-signal"))
        state.set_stop_signal(spec.stop_signal)
    if spec.author:
        state.author = spec.author


def _set_healthcheck(state: StageState, health: str | Health, node: Node) -> None:
    span = node.span_of("healthcheck")
    if isinstance(health, str):
        state.set_healthcheck(Healthcheck(span=span, original="HEALTHCHECK NONE", command=None))
        return
    command = health.command
    if not command:
        raise SpecError("the command of the healthcheck is empty", span)
    words = None if isinstance(command, str) else command
    state.set_healthcheck(
        Healthcheck(
            span=span,
            original="HEALTHCHECK",
            command=CommandLine(command if isinstance(command, str) else None, words),
            interval_ns=_duration(health.interval, "interval", node),
            timeout_ns=_duration(health.timeout, "timeout", node),
            start_period_ns=_duration(health.start_period, "start-period", node),
            start_interval_ns=_duration(health.start_interval, "start-interval", node),
            retries=health.retries,
        )
    )


def _duration(text: str, key: str, node: Node) -> int:
    if not text:
        return 0
    value = parse_duration(text)
    if value is None or value < 0 or 0 < value < 1_000_000:
        raise SpecError(
            f"{text!r} is not a duration of at least 1ms", node.span_of("healthcheck", key),
            hint="write 30s, 1m30s or 500ms",
        )  # fmt: skip
    return value


def arguments(
    state: StageState, command: str | tuple[str, ...], span: SourceSpan
) -> tuple[str, ...]:
    """Return the argument list of a command; a string goes to the shell.

    Raises:
        SpecError: It is empty.
    """
    if isinstance(command, str):
        if not command.strip():
            raise SpecError("a command is empty", span)
        return state.with_shell(command)
    return command


def check_count(variables: Mapping[str, str], span: SourceSpan) -> None:
    """Refuse more variables than anybody has.

    Raises:
        LimitExceededError: More than ``MAX_VARIABLES``.
    """
    if len(variables) > MAX_VARIABLES:
        raise limit_exceeded(span, "too many variables", MAX_VARIABLES)


def check_variable(name: str, span: SourceSpan) -> None:
    """Refuse what no environment can hold.

    Raises:
        SpecError: It is no name.
    """
    if not name or "=" in name or not name.isprintable():
        raise SpecError(f"{name!r} cannot be the name of a variable", span)


def check_mode(text: str, span: SourceSpan) -> None:
    """Refuse what is no mode of a file.

    Raises:
        SpecError: Neither octal nor symbolic.
    """
    try:
        parse_mode(text)
    except InputError as err:
        raise SpecError(err.message, span, hint=err.hint) from err


def check_absolute(path: str, what: str, span: SourceSpan) -> None:
    """Refuse paths that are relative, or lead to the root or out of where they seem to be.

    Raises:
        SpecError: It is one.
    """
    parts = path.split("/")
    if not path.startswith("/") or path.strip("/") in ("", ".") or ".." in parts:
        raise SpecError(f"{path!r} cannot be {what}: expected an absolute path below /", span)
