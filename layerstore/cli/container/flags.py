"""Which options ``run`` and ``create`` take, and which of docker's they refuse."""

from __future__ import annotations

import sys

from layerstore.errors import InputError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    _Add = Callable[..., object]

_WITHOUT_VALUE = ("--publish-all", "--oom-kill-disable")

_RESOLVER = "show a file of your own: --volume FILE:/etc/resolv.conf:ro"
_ON_GROUP = "set it on a control group of yours: --cgroup-parent"
REFUSED = {
    "--publish": "a network of its own is needed; with --network host its ports are the host's",
    "--publish-all": "with --network host all ports of a container are the host's",
    "--link": "containers on the host's network reach each other at 127.0.0.1",
    "--ip": "a container has the host's network, or none",
    "--ip6": "a container has the host's network, or none",
    "--network-alias": "a container has the host's network, or none",
    "--link-local-ip": "a container has the host's network, or none",
    "--mac-address": "a container has the host's network, or none",
    "--attach": "without --detach all its streams are attached; -i gives it input",
    "--detach-keys": "Ctrl-P Ctrl-Q detaches",
    "--annotation": "runtimes are told none; --label is for people",
    "--dns-search": _RESOLVER,
    "--dns-option": _RESOLVER,
    "--gpus": "give the devices: --device /dev/nvidia0 ...",
    "--device-cgroup-rule": "give the devices: --device PATH",
    "--volume-driver": "volumes are directories of the store; mount others on the host first",
    "--pid": "a container has its own; from outside: nsenter, or layerstore exec",
    "--uts": "a container has its own; --hostname names it",
    "--cgroupns": "a container sees its host's",
    "--isolation": "containers are those of runc or crun",
    "--storage-opt": "what a container writes is limited by the disk of the store",
    "--oom-kill-disable": "give it more --memory",
    "--kernel-memory": "the kernel has given it up",
    "--blkio-weight-device": _ON_GROUP,
    "--device-read-bps": _ON_GROUP,
    "--device-read-iops": _ON_GROUP,
    "--device-write-bps": _ON_GROUP,
    "--device-write-iops": _ON_GROUP,
    "--cpu-rt-period": _ON_GROUP,
    "--cpu-rt-runtime": _ON_GROUP,
    "--domainname": "NIS is not set up; --hostname NAME.DOMAIN is the name with its domain",
    "--pod": "containers share the host's network, so one reaches the others at 127.0.0.1",
    "--secret": "show the file: --volume FILE:/run/secrets/NAME:ro",
    "--tz": "--env TZ=Europe/Berlin, or --volume /etc/localtime:/etc/localtime:ro",
    "--use-api-socket": "there is no daemon; docker's: --volume /run/docker.sock:/run/docker.sock",
}
"""What docker's ``run`` has and ours has not, with what does the like."""


def add_run_options(parser: argparse.ArgumentParser, *, runs: bool) -> None:
    """Declare what ``run`` takes, or ``create``, which starts nothing."""
    add = parser.add_argument
    if runs:
        add("-d", "--detach", action="store_true", help="leave it running and print its id")
        add("--sig-proxy", choices=("true", "false"), default="true", help="pass signals on")
    add("-i", "--interactive", action="store_true", help="keep its standard input open")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add("--rm", action="store_true", help="remove it when it ends, anonymous volumes too")
    add("--name", default="", metavar="NAME", help="what to call it")
    add("--replace", action="store_true", help="with --name: in the place of one called so")
    add("--cidfile", metavar="FILE", help="write its id there")
    add("--pull", choices=("missing", "always", "never"), default="missing", help=_PULL_HELP)
    add("--platform", metavar="OS/ARCH", help="refuse an image for another one")
    add("-q", "--quiet", action="store_true", help="print nothing on the way")
    _add_process_options(add)
    _add_health(add)
    _add_limits(add)
    _add_places(add)
    _add_rights(add)
    _add_refused(add)


def _add_refused(add: _Add) -> None:
    # Of whoever gave us a parser; a light one prints no help.
    suppress = getattr(sys.modules.get("argparse"), "SUPPRESS", "")
    short = {
        "--publish": ("-p",),
        "--publish-all": ("-P",),
        "--network-alias": ("--net-alias",),
        "--attach": ("-a",),
        "--dns-option": ("--dns-opt",),
    }
    for option in REFUSED:
        names, dest = (option, *short.get(option, ())), f"refused{option}"
        if option in _WITHOUT_VALUE:
            add(*names, dest=dest, action="store_const", const="", help=suppress)
        else:
            add(*names, dest=dest, help=suppress)


_PULL_HELP = "when to bring the image out of its registry first (default: missing)"


def _many(add: _Add, *names: str, metavar: str, help: str) -> None:  # noqa: A002
    add(*names, action="append", default=[], metavar=metavar, help=f"{help}; may be repeated")


def _add_process_options(add: _Add) -> None:
    _many(add, "-e", "--env", metavar="NAME[=VALUE]", help="a variable; without value: ours")
    _many(add, "--env-file", metavar="FILE", help="variables, one a line")
    add("-w", "--workdir", metavar="DIR", help="where its command begins")
    add("-u", "--user", metavar="USER[:GROUP]", help="whom it runs as")
    _many(add, "--group-add", metavar="GROUP", help="one more group")
    add("--entrypoint", metavar="COMMAND", help=_ENTRYPOINT)
    add("--init", action="store_true", help="let catatonit or tini reap as process 1")
    add("--init-path", metavar="FILE", help="a static program for --init")
    add("-h", "--hostname", default="", metavar="NAME", help="its host name")
    _many(add, "-l", "--label", metavar="NAME=VALUE", help="a label")
    _many(add, "--label-file", metavar="FILE", help="labels, one a line")
    add("--restart", default="no", metavar="POLICY", help=_RESTART_HELP)
    add("--stop-signal", metavar="SIGNAL", help="what stop sends (default: the image's, or TERM)")
    add("--stop-timeout", type=int, metavar="SECONDS", help="until KILL (default: 10)")
    _many(add, "--log-opt", metavar="NAME=VALUE", help="max-size=10m, max-file=2")
    add("--log-driver", metavar="NAME", help="none for no log; all others of files are one here")


def _add_health(add: _Add) -> None:
    add("--health-cmd", metavar="COMMAND", help="check its health so, by a shell; none for none")
    add("--health-interval", metavar="TIME", help="between checks (default: 30s)")
    add("--health-timeout", metavar="TIME", help="that a check may take (default: 30s)")
    add("--health-retries", type=int, metavar="N", help="failures that count (default: 3)")
    add("--health-start-period", metavar="TIME", help="in which none counts (default: 0s)")
    add("--health-start-interval", metavar="TIME", help="between checks then (default: 5s)")
    add("--no-healthcheck", action="store_true", help="none, whatever the image says")


_RESTART_HELP = "no, on-failure[:TIMES], always or unless-stopped (default: no)"


def add_changing_limits(add: _Add) -> None:
    """Declare the limits that a container that runs can be given, too."""
    add("-m", "--memory", metavar="SIZE", help="memory at most")
    add("--memory-swap", metavar="SIZE", help="memory and swap together, -1 for all swap")
    add("--memory-reservation", metavar="SIZE", help="what it keeps when memory is short")
    add("--cpus", metavar="N", help="processors it may keep busy: 1.5")
    add("--cpu-period", type=int, metavar="US", help="microseconds until the quota begins anew")
    add("--cpu-quota", type=int, metavar="US", help="microseconds of processors in a period")
    add("-c", "--cpu-shares", type=int, metavar="N", help="weight beside others; 1024")
    add("--cpuset-cpus", metavar="LIST", help="processors: 0-2,4")
    add("--cpuset-mems", metavar="LIST", help="memory nodes")
    add("--pids-limit", type=int, metavar="N", help="processes at most; -1 for no limit")
    add("--blkio-weight", type=int, metavar="N", help="weight at disks beside others: 10 to 1000")


def _add_limits(add: _Add) -> None:
    add_changing_limits(add)
    add("--memory-swappiness", type=int, metavar="N", help="readiness to swap: 0 to 100")
    _many(add, "--ulimit", metavar="NAME=SOFT[:HARD]", help="as of setrlimit")
    add("--shm-size", metavar="SIZE", help="size of /dev/shm (default: 64m)")
    add("--cgroup-parent", metavar="PATH", help="control group below which its own is made")
    add("--oom-score-adj", type=int, metavar="N", help="-1000 to 1000")


def _add_places(add: _Add) -> None:
    _many(add, "-v", "--volume", metavar="[SOURCE:]TARGET[:ro]", help="a directory or a volume")
    _many(add, "--mount", metavar="type=...,target=...", help="bind, volume or tmpfs")
    _many(add, "--volumes-from", metavar="CONTAINER[:ro]", help="all that it has, no tmpfs")
    _many(add, "--tmpfs", metavar="TARGET[:OPTIONS]", help="a file system in memory")
    add("--read-only", action="store_true", help="nothing of the image may be written")
    add("--network", "--net", default="host", metavar="host|none", help="(default: host)")
    _many(add, "--add-host", metavar="NAME:IP", help="line of /etc/hosts")
    _many(add, "--dns", metavar="IP", help="who answers for names")
    _many(add, "--device", metavar="PATH[:TARGET][:rwm]", help="a device of the host")
    add("--ipc", metavar="private|host", help="its own shared memory, or the host's")
    _many(add, "--expose", metavar="PORT", help="docker's; ports are the host's anyway")
    add("--runtime", metavar="NAME", help="OCI runtime, by name or path")


def _add_rights(add: _Add) -> None:
    _many(add, "--cap-add", metavar="NAME", help="a capability it has, or ALL")
    _many(add, "--cap-drop", metavar="NAME", help="a capability it has not, or ALL")
    add("--privileged", action="store_true", help="all of root's rights and devices")
    _many(add, "--security-opt", metavar="OPTION", help=SECURITY_HELP)
    add("--userns", default="host", metavar="host|auto", help="ids are the host's, or its own")
    _many(add, "--sysctl", metavar="NAME=VALUE", help="a setting of its kernel's namespaces")


SECURITY_HELP = "no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE, label=type:TYPE"


def refuse_unsupported(options: argparse.Namespace, command: str) -> None:
    """Refuse what docker has and we have not.

    Raises:
        InputError: Names the option and what does the like here.
    """
    for option, instead in REFUSED.items():
        if getattr(options, f"refused{option}", None) is not None:
            raise InputError(f"{command} has no {option}: {instead}")


_ENTRYPOINT = 'instead of the image\'s, a command or ["a","b"]; "" for none'
