"""The options of ``run``, ``create`` and ``exec``, from words to values, as docker has them.

Parsed without typer: containers are started in loops. What docker has and we have not is
refused with what does it here.
"""

from __future__ import annotations

import os

from layerstore.cli.container.flags import SECURITY_HELP
from layerstore.cli.container.health import health_of
from layerstore.cli.container.mounts import mounts_of
from layerstore.containers.settings import (
    DEFAULT_STOP_SIGNAL,
    DEFAULT_STOP_TIMEOUT_S,
    NETWORKS,
    RESTART_POLICIES,
    Device,
    Settings,
)
from layerstore.errors import InputError
from layerstore.light_re import Pattern
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from layerstore.containers.image_config import ImageDefaults
    from layerstore.containers.settings import MountRequest

_FILE_MAX_BYTES = 4 << 20
_NAME = Pattern(r"[A-Za-z_][A-Za-z0-9_.-]*")
_HOSTNAME = Pattern(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62})")
_INITS = (
    "/usr/bin/catatonit", "/usr/libexec/podman/catatonit", "/usr/bin/tini-static",
    "/usr/bin/docker-init", "/usr/libexec/docker/docker-init", "/sbin/tini-static",
)  # fmt: skip
_INTERPRETER = b"/ld-"
_HEAD_BYTES = 4096


def settings_of(
    options: argparse.Namespace,
    config: ImageDefaults,
    command: Sequence[str],
    inherited: Sequence[MountRequest] = (),
) -> Settings:
    """Return what a container is to be, by the user's words and its image's config.

    Args:
        options: Of the parser.
        config: The image's.
        command: What stands behind the image's name.
        inherited: Mounts of the containers that ``--volumes-from`` names.

    Raises:
        InputError: A word that means nothing, or two that contradict each other.
    """
    from layerstore.cli.parsing.limit_values import parse_extra_hosts, parse_limits, unlimited

    env = environment(options, config)
    policy, times = parse_restart(options.restart)
    limits = parse_limits(
        memory=unlimited(options.memory), memory_swap=unlimited(options.memory_swap),
        cpus=unlimited(options.cpus), cpu_period=options.cpu_period or None,
        cpu_quota=None if options.cpu_quota == -1 else options.cpu_quota or None,
        cpu_shares=options.cpu_shares or None, cpuset_cpus=options.cpuset_cpus,
        cpuset_mems=options.cpuset_mems, shm_size=options.shm_size,
        cgroup_parent=options.cgroup_parent, ulimits=options.ulimit,
        memory_reservation=options.memory_reservation,
        memory_swappiness=options.memory_swappiness, blkio_weight=options.blkio_weight,
    )  # fmt: skip
    log_max_bytes, log_files = _log_options(options.log_driver, options.log_opt)
    settings = Settings(
        args=_args(options, config, command),
        env=env,
        cwd=_working_directory(options.workdir, config),
        user=config.user if options.user is None else options.user,
        groups=tuple(options.group_add),
        tty=options.tty,
        interactive=options.interactive,
        auto_remove=options.rm,
        hostname=_hostname(options.hostname),
        labels=_labels(options, config),
        limits=limits,
        pids=parse_pids(options.pids_limit),
        read_only=options.read_only,
        mounts=mounts_of(options, config, inherited),
        network=_network(options.network),
        extra_hosts=parse_extra_hosts(options.add_host),
        dns=tuple(_address(word) for word in options.dns),
        init=_init(options),
        restart=policy,
        restart_max=times,
        stop_signal=_stop_signal(options.stop_signal or config.stop_signal),
        stop_timeout_s=_stop_timeout(options, config),
        cap_add=_capabilities(options.cap_add),
        cap_drop=_capabilities(options.cap_drop),
        privileged=options.privileged,
        devices=tuple(map(_device, options.device)),
        sysctls=tuple(_pair(word, "--sysctl") for word in options.sysctl),
        userns=userns_of(options.userns),
        oom_score=_oom_score(options.oom_score_adj),
        log_max_bytes=log_max_bytes,
        log_files=log_files,
        runtime=runtime_of(options.runtime),
        health=health_of(options, config),
        ipc=_ipc(options.ipc),
    )
    return _without_contradictions(_secured(settings, options.security_opt))


def _without_contradictions(settings: Settings) -> Settings:
    if settings.auto_remove and settings.restart != "no":
        raise InputError("--rm and --restart contradict each other", hint="leave one out")
    if settings.network == "host":
        for name, _ in settings.sysctls:
            if name.startswith("net."):
                raise InputError(
                    f"--sysctl {name} would change the host's network", hint="--network none"
                )
    if settings.userns != "host" and settings.privileged:
        raise InputError("--privileged and --userns contradict each other", hint="leave one out")
    return settings


def _args(
    options: argparse.Namespace, config: ImageDefaults, command: Sequence[str]
) -> tuple[str, ...]:
    """Return the command line of a container: an entry point of one's own drops the image's CMD."""
    if options.entrypoint is not None:
        entry = _entrypoint(options.entrypoint)
        args = (*entry, *command)
        if not args:
            raise InputError(
                "no command: --entrypoint drops the image's CMD, too", hint="write one behind IMAGE"
            )
    else:
        args = (*(config.entrypoint or ()), *(command or config.cmd or ()))
    if not args or not args[0]:
        raise InputError(
            "no command: the image has neither CMD nor ENTRYPOINT", hint="write one behind IMAGE"
        )
    for word in args:
        _no_nul(word, "the command")
    return tuple(args)


def _entrypoint(word: str) -> tuple[str, ...]:
    """Return the words of an entry point: a list in JSON, as podman takes it, or one command."""
    if word.startswith("["):
        import json

        try:
            found = json.loads(word)
        except ValueError:
            found = None
        if isinstance(found, list) and all(isinstance(part, str) for part in found):
            return tuple(found)
    return (word,) if word else ()


def _no_nul(word: str, what: str) -> str:
    if "\0" in word:
        raise InputError(f"{what} holds a NUL byte")
    return word


def environment(options: argparse.Namespace, config: ImageDefaults) -> tuple[str, ...]:
    """Return the variables of a container: the image's, those of files, those of the words.

    Variables of the image without ``=`` mean nothing and are left out, as docker does.
    """
    found: dict[str, str] = {}
    for item in config.env:
        name, equals, value = item.partition("=")
        if name and equals and "\0" not in item:
            found[name] = value
    for path in options.env_file:
        found.update(pairs_of_file(path, "--env-file"))
    found.update(variables(options.env))
    return tuple(f"{name}={value}" for name, value in found.items())


def variables(words: Iterable[str]) -> dict[str, str]:
    """Return the variables of ``-e``; one without a value has ours, or is not set.

    Raises:
        InputError: One without a name.
    """
    found = {}
    for word in words:
        name, equals, value = _no_nul(word, "--env").partition("=")
        if not name:
            raise InputError(f"--env {word!r} names no variable", hint="--env NAME=VALUE")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def pairs_of_file(path: str, what: str) -> dict[str, str]:
    """Return what a file of docker's form says: ``NAME=VALUE`` or ``NAME``, or a ``#`` comment."""
    try:
        with open(path, "rb") as file:
            data = file.read(_FILE_MAX_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as err:
        raise InputError(f"{what} {path}: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise InputError(f"{what} {path} is no text in UTF-8") from err
    if len(data) > _FILE_MAX_BYTES:
        raise InputError(f"{what} {path} is larger than {_FILE_MAX_BYTES} bytes")
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.lstrip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.partition("=")
        if not name or any(character.isspace() for character in name) or "\0" in line:
            raise InputError(f"{path}, line {number}: {line[:80]!r} names no variable")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _labels(options: argparse.Namespace, config: ImageDefaults) -> tuple[tuple[str, str], ...]:
    found = dict(config.labels)
    for path in options.label_file:
        found.update(pairs_of_file(path, "--label-file"))
    for word in options.label:
        name, _, value = word.partition("=")
        if not name:
            raise InputError(f"--label {word!r} has no name", hint="--label NAME=VALUE")
        found[name] = value
    return tuple(found.items())


def _working_directory(wanted: str | None, config: ImageDefaults) -> str:
    path = wanted or config.working_dir or "/"
    if wanted and not wanted.startswith("/"):
        raise InputError(f"--workdir {wanted!r} is no absolute path", hint="-w /DIRECTORY")
    return _no_nul(path, "the working directory")


def _hostname(name: str) -> str:
    if name and _HOSTNAME.fullmatch(name) is None:
        raise InputError(f"{name!r} is no host name", hint="letters, digits, '-' and '.'")
    return name


def _network(name: str) -> str:
    if name not in NETWORKS:
        raise InputError(
            f"--network {name} is not supported",
            hint="host, or none; a bridge is what docker and podman have",
        )
    return name


def _ipc(word: str | None) -> str:
    if word not in (None, "", "private", "shareable", "host"):
        raise InputError(f"--ipc {word} is not supported", hint="private, or host")
    return "host" if word == "host" else "private"


def userns_of(word: str) -> str:
    """Return the user namespace that an option asks for.

    Raises:
        InputError: It is none of ours.
    """
    if word not in ("", "host", "auto"):
        raise InputError(f"--userns {word} is not supported", hint="host, or auto")
    return word or "host"


def parse_pids(number: int | None) -> int:
    """Return how many processes an option allows at most, 0 for no limit.

    Raises:
        InputError: It is no such number.
    """
    if number is None or number in (0, -1):
        return 0
    if number < 1:
        raise InputError(f"--pids-limit {number} is no number of processes", hint="-1 for no limit")
    return number


def _oom_score(number: int | None) -> int | None:
    if number is not None and not -1000 <= number <= 1000:
        raise InputError(f"--oom-score-adj {number} is not between -1000 and 1000")
    return number


def runtime_of(word: str | None) -> str:
    """Return the runtime that an option or the environment names, "" for any."""
    from layerstore.cli.settings import chosen_runtime

    return word or chosen_runtime(os.environ)


def parse_restart(word: str) -> tuple[str, int]:
    """Return a policy of restarts and how many there may be at most.

    Raises:
        InputError: There is no such policy.
    """
    policy, colon, times = word.partition(":")
    if policy not in RESTART_POLICIES or (colon and policy != "on-failure"):
        raise InputError(f"--restart {word} is no policy", hint=", ".join(RESTART_POLICIES))
    if colon and not (times.isascii() and times.isdigit()):
        raise InputError(f"--restart {word}: {times!r} is no number", hint="on-failure:3")
    return policy, int(times or 0)


def signal_number(word: str) -> int:
    """Return the number of a signal: ``9``, ``KILL``, ``SIGKILL``, ``SIGRTMIN+3``.

    Raises:
        InputError: There is none.
    """
    import signal

    name = word.upper().removeprefix("SIG")
    if name.isascii() and name.isdigit():
        number = int(name[:4])
    else:
        base, plus, offset = name.partition("+")
        found = getattr(signal, f"SIG{base}", None)
        number = int(found) if isinstance(found, signal.Signals) else 0
        if plus:
            number = number + int(offset) if base == "RTMIN" and offset.isdigit() else 0
    if not 0 < number < signal.NSIG:
        raise InputError(f"{word!r} is no signal", hint="TERM, KILL, or a number; see kill -l")
    return number


def _stop_signal(word: str) -> int:
    return signal_number(word) if word else DEFAULT_STOP_SIGNAL


def _stop_timeout(options: argparse.Namespace, config: ImageDefaults) -> int:
    if options.stop_timeout is not None:
        return int(options.stop_timeout)
    return DEFAULT_STOP_TIMEOUT_S if config.stop_timeout_s is None else config.stop_timeout_s


_LOGS_IN_FILES = ("json-file", "local", "k8s-file")


def _log_options(driver: str | None, words: Sequence[str]) -> tuple[int, int]:
    from layerstore.units import parse_size

    size, files = Settings._field_defaults["log_max_bytes"], Settings._field_defaults["log_files"]
    if driver == "none":
        return -1, files
    if driver not in (None, *_LOGS_IN_FILES):
        raise InputError(
            f"--log-driver {driver} is not supported: logs are files",
            hint="--log-opt max-size=10m; or --log-driver none",
        )
    for word in words:
        name, value = _pair(word, "--log-opt")
        if name == "max-size":
            size = 0 if value == "-1" else parse_size(value)  # as docker has it: never turned over
        elif name == "max-file" and value.isascii() and value.isdigit() and 0 < int(value) < 1000:
            files = int(value)
        else:
            raise InputError(f"--log-opt {word} is not supported", hint="max-size=10m, max-file=2")
    return size, files


def _pair(word: str, option: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not name or not equals:
        raise InputError(f"{option} {word!r} is not NAME=VALUE")
    return name, value


def _address(word: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_address(word))
    except ValueError as err:
        raise InputError(f"--dns {word!r} is no IP address") from err


def _capabilities(words: Sequence[str]) -> tuple[str, ...]:
    if not words:
        return ()
    from layerstore.runtime.capabilities import capability_name

    return tuple(capability_name(word) for word in words)


def _init(options: argparse.Namespace) -> str:
    if not options.init and not options.init_path:
        return ""
    candidates = (options.init_path,) if options.init_path else _INITS
    for path in candidates:
        try:
            with open(path, "rb") as file:
                head = file.read(_HEAD_BYTES)
        except OSError:
            continue
        # One that needs the host's libraries would not start among the image's.
        if _INTERPRETER not in head:
            return os.path.realpath(path)
    if options.init_path:
        raise InputError(f"--init-path {options.init_path} is no static program")
    raise InputError("--init needs catatonit or tini", hint="apt-get install catatonit")


def _device(word: str) -> Device:
    source, *rest = word.split(":")
    target, access = source, "rwm"
    if rest and set(rest[-1]) <= set("rwm") and rest[-1]:
        access = rest.pop()
    if rest:
        target = rest.pop(0)
    if rest or not source.startswith("/") or not target.startswith("/"):
        raise InputError(f"--device {word} is none", hint="--device /dev/fuse[:/dev/other][:rwm]")
    return Device(source, target, access)


def _secured(settings: Settings, words: Sequence[str]) -> Settings:
    """Return settings with what ``--security-opt`` says."""
    label: dict[str, str] = {}
    for word in words:
        name, _, value = word.replace(":", "=", 1).partition("=")
        if word in ("no-new-privileges", "no-new-privileges=true", "no-new-privileges:true"):
            settings = settings._replace(no_new_privileges=True)
        elif word in ("no-new-privileges=false", "no-new-privileges:false"):
            settings = settings._replace(no_new_privileges=False)
        elif name == "seccomp" and value:
            settings = settings._replace(seccomp=_seccomp(value))
        elif name == "apparmor" and value:
            settings = settings._replace(apparmor=value)
        elif name == "label" and value:
            kind, _, part = value.partition(":")
            if kind not in ("user", "role", "type", "level", "disable"):
                raise InputError(f"--security-opt {word}: no such label", hint="label=type:TYPE")
            label[kind] = part
        else:
            raise InputError(f"--security-opt {word} is not supported", hint=SECURITY_HELP)
    if label and "disable" not in label:
        parts = [label.get("user", "system_u"), label.get("role", "system_r")]
        parts += [label.get("type", "container_t"), label.get("level", "s0")]
        settings = settings._replace(selinux=":".join(parts))
    return settings


def _seccomp(value: str) -> str:
    if value in ("unconfined", "builtin"):
        return "default" if value == "builtin" else value
    try:
        with open(value, "rb") as file:
            data = file.read(_FILE_MAX_BYTES)
        text = data.decode("utf-8")
    except OSError as err:
        raise InputError(f"--security-opt seccomp={value}: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise InputError(f"--security-opt seccomp={value} is no text in UTF-8") from err
    from layerstore.containers.spec import custom_seccomp

    custom_seccomp(text, frozenset(), os.uname().machine)  # it is refused now, not at the start
    return text
