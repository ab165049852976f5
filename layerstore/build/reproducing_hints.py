"""What often makes builds differ, by the path and by what differs there. Pure.

Source: reproducible-builds.org, documentation; Debian's and Python's own notes on it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.verify import FieldDifference

_BY_PATH = (
    (r"\.pyc$", "Python writes times into .pyc files, hashes after 'ARG SOURCE_DATE_EPOCH'"),
    (
        r"^var/(lib|cache)/apt/",
        "the mirror's state: end it with 'rm -rf /var/lib/apt/lists/*'",
    ),
    (r"^var/log/|\.log$", "logs hold times: remove them in the RUN that writes them"),
    (r"^var/cache/ldconfig/", "it holds inode numbers: remove /var/cache/ldconfig in this RUN"),
    (r"^var/cache/|/\.cache/", "remove caches, or give the RUN a --mount=type=cache"),
    (r"^etc/g?shadow-?$", "days and salts of passwords: declare 'ARG SOURCE_DATE_EPOCH' before"),
    (r"(^|/)machine-id$", "machine ids are random: empty the file"),
    (r"^etc/ssh/ssh_host_", "host keys are random: make them when the container starts"),
    (r"^(var/)?tmp/|\.tmp$", "temporary files have random names: remove them in the same RUN"),
    (r"\.(gz|tgz)$", "gzip writes names and times: use 'gzip -n'"),
    (r"\.(zip|jar|whl|egg)$", "archives hold times: have the tool use SOURCE_DATE_EPOCH"),
    (r"\.tar$", "archives hold times and order: 'tar --sort=name --mtime=@$SOURCE_DATE_EPOCH'"),
    (r"\.a$", "static libraries hold times: use 'ar D'"),
    (r"(^|/)\.git/", "git's own files hold times: copy the sources without .git"),
    (r"(^|/)(\.npm|node_modules)/", "npm notes what it did: use 'npm ci' and remove ~/.npm"),
)
_TIME = re.compile(rb"(?:19|20)\d\d[-/]?[01]\d[-/]?[0-3]\d|[0-2]\d:[0-5]\d:[0-5]\d|\b1[5-9]\d{8}\b")


def hint_for(path: bytes, fields: Sequence[str], details: Sequence[FieldDifference]) -> str | None:
    """Return what often helps against a difference, None where nothing is known."""
    text = path.decode("utf-8", "replace")
    for pattern, hint in _BY_PATH:
        if re.search(pattern, text):
            return hint
    shown = " ".join(f"{each.first} {each.second}" for each in details if each.field == "content")
    if _TIME.search(shown.encode("utf-8", "replace")):
        return (
            "a time seems to be in the file: declare 'ARG SOURCE_DATE_EPOCH' before the RUN and "
            "have the tool use it"
        )
    if "mtime" in fields:
        return "the command sets times earlier than SOURCE_DATE_EPOCH that are not the same twice"
    if "presence" in fields:
        return "the command does not make the same files twice: random names, or a race in it"
    return None
