"""The command ``generate``: a systemd unit that keeps a container running, over restarts too."""

from __future__ import annotations

import os
import sys

from layerstore.errors import InputError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

_RESTARTS = {"no": "no", "on-failure": "on-failure", "always": "always", "unless-stopped": "always"}
_GRACE_S = 20
_SYSTEM = (
    "Wants=network-online.target\nAfter=network-online.target local-fs.target\n",
    "mixed",
    "multi-user",
)
_USER = ("", "process", "default")


def generate_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``generate`` takes."""
    parser.add_argument("kind", choices=("systemd",), metavar="systemd", help="what to print")
    parser.add_argument("container", metavar="CONTAINER", help="name or id")
    parser.add_argument(
        "-n", "--name", action="store_true", help="podman's; units have names in them anyway"
    )
    parser.add_argument(
        "--restart-policy", choices=tuple(_RESTARTS), metavar="POLICY",
        help="of the unit (default: the container's)",
    )  # fmt: skip


def generate(options: argparse.Namespace, root: str) -> int:
    """Print a unit for a container."""
    from layerstore.containers.records import find

    container = find(root, options.container)
    settings = container.settings
    if settings.auto_remove:
        raise InputError(
            f"container {container.name} is removed at its end", hint="make it without --rm"
        )
    program = f"{sys.executable} -P -m layerstore --store {_quoted(root)}"
    policy = _RESTARTS[options.restart_policy or settings.restart]
    seconds = settings.stop_timeout_s
    timeout = "infinity" if seconds < 0 else str(seconds + _GRACE_S)
    # A user's manager knows no network, and what shows an image may show it for others' units.
    after, kill, wanted_by = _SYSTEM if os.geteuid() == 0 else _USER
    sys.stdout.write(
        f"""\
# Written by: layerstore generate systemd {container.name}
[Unit]
Description=Container {container.name} of {container.image.replace("%", "%%")}
{after}RequiresMountsFor={_quoted(root)}

[Service]
Type=exec
ExecStart={program} start --attach {container.name}
ExecStop={program} stop {container.name}
# When who attends it was killed, ExecStop is not asked, and the container would go on.
ExecStopPost={program} stop {container.name}
Restart={policy}
TimeoutStopSec={timeout}
KillMode={kill}

[Install]
WantedBy={wanted_by}.target
"""
    )
    return 0


def _quoted(path: str) -> str:
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'
