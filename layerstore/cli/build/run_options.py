"""The build command's options of where and how RUN runs, from words to values."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.build.run.settings import ENTITLEMENTS
from layerstore.cli.settings import RUNTIME_VARIABLE, chosen_runtime
from layerstore.errors import InputError
from layerstore.runtime.settings import RunOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.runtime.settings import Limits

_Many = list[str] | None
_Text = str | None
_Number = int | None

Allow = Annotated[
    _Many,
    typer.Option(
        "--allow",
        metavar="|".join(ENTITLEMENTS),
        help="What the Dockerfile may ask for: RUN --security=insecure, or RUN --network=host "
        "in a build without network. Repeatable.",
    ),
]
AddHost = Annotated[
    _Many,
    typer.Option(
        "--add-host",
        metavar="NAME:IP",
        help="Line of /etc/hosts for RUN; host-gateway is this host. Repeatable.",
    ),
]
Memory = Annotated[
    _Text, typer.Option("--memory", "-m", metavar="SIZE", help="What a RUN may have at most.")
]
MemorySwap = Annotated[
    _Text,
    typer.Option(
        metavar="SIZE", help="Memory and swap together, -1 for all swap. [twice --memory]"
    ),
]
Cpus = Annotated[_Text, typer.Option(metavar="N", help="Processors a RUN may keep busy: 1.5.")]
CpuPeriod = Annotated[
    _Number, typer.Option(metavar="US", help="Microseconds after which the quota begins anew.")
]
CpuQuota = Annotated[
    _Number, typer.Option(metavar="US", help="Microseconds of processor time in a period.")
]
CpuShares = Annotated[
    _Number, typer.Option("--cpu-shares", "-c", metavar="N", help="Weight beside others; 1024.")
]
CpusetCpus = Annotated[_Text, typer.Option(metavar="LIST", help="Processors RUN may use: 0-2,4.")]
CpusetMems = Annotated[_Text, typer.Option(metavar="LIST", help="Memory nodes RUN may use.")]
ShmSize = Annotated[_Text, typer.Option(metavar="SIZE", help="Size of RUN's /dev/shm. [64m]")]
Ulimits = Annotated[
    _Many,
    typer.Option(
        "--ulimit", metavar="NAME=SOFT[:HARD]", help="As of setrlimit, for RUN; repeatable."
    ),
]
CgroupParent = Annotated[
    _Text, typer.Option(metavar="PATH", help="Control group below which RUN's are made.")
]
SecurityOpt = Annotated[
    _Many,
    typer.Option(
        "--security-opt",
        metavar="OPTION",
        help="no-new-privileges, or seccomp=unconfined, for RUN. Repeatable.",
    ),
]
Isolation = Annotated[_Text, typer.Option(metavar="default", help="There is one kind only.")]
RuntimeName = Annotated[
    _Text,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help=f"OCI runtime, by name or path. [${RUNTIME_VARIABLE}, or what works]",
    ),
]

Push = Annotated[
    bool,
    typer.Option(
        "--push", help="Push the image under its names when it is built: --output type=registry."
    ),
]

Habits = Annotated[
    bool,
    typer.Option(
        "--load", "--rm", "--force-rm", "--compress",
        help="Accepted because docker has them: the result is in the store, nothing stays behind.",
    ),
]  # fmt: skip


def parse_allow(words: Sequence[str]) -> frozenset[str]:
    """Return the entitlements that a build gives its Dockerfile.

    Raises:
        InputError: Not an entitlement.
    """
    for word in words:
        if word not in ENTITLEMENTS:
            raise InputError(
                f"{word!r} is not an entitlement", hint="one of " + ", ".join(ENTITLEMENTS)
            )
    return frozenset(words)


def parse_run_options(
    limits: Limits, security: Sequence[str], isolation: str | None, runtime: str | None
) -> RunOptions:
    """Return how commands run.

    Raises:
        InputError: A word that means nothing here.
    """
    if isolation not in {None, "", "default", "oci"}:
        raise InputError(
            f"{isolation!r} is no isolation here", hint="--isolation default: an OCI runtime"
        )
    no_new_privileges, confined = False, True
    for word in security:
        match word.replace(":", "=", 1):
            case "no-new-privileges" | "no-new-privileges=true":
                no_new_privileges = True
            case "no-new-privileges=false":
                no_new_privileges = False
            case "seccomp=unconfined":
                confined = False
            case "seccomp=builtin":
                confined = True
            case _:
                raise InputError(
                    f"--security-opt {word} is not supported",
                    hint="no-new-privileges, seccomp=unconfined, seccomp=builtin",
                )
    return RunOptions(limits, no_new_privileges, confined, runtime or chosen_runtime(os.environ))
