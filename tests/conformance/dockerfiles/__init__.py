"""Small builds in all the ways Dockerfiles are written, and what must come of them.

The facts in ``tests/golden/dockerfiles.jsonl`` are those of this builder, and those of docker's
but for `DIFFERS`. After a change that is meant: ``python -m tests.conformance.dockerfiles``
writes them anew, and git shows what became of which build.
"""

from pathlib import Path

from tests.conformance.dockerfiles import config, copying, further, running, syntax, words
from tests.support.build_cases import Case

CASES: dict[str, Case] = {
    case.name: case
    for module in (words, syntax, config, copying, running, further)
    for case in module.CASES
}

FACTS = Path(__file__).parents[2] / "golden" / "dockerfiles.jsonl"

DIFFERS = {
    "env-name-that-expands-to-nothing": "a mistake",
    "stopsignal-too-big": "no such signal",
    "latin1": "not UTF-8",
    "nul-byte": "no runtime takes it",
    "target-number": "BuildKit took numbers until 2025",
    "add-tar-whiteout": "a name that layers cannot hold",
    "copy-whiteout-name": "a name that layers cannot hold",
    "run-whiteout-like": "a name that layers cannot hold",
    "copy-device": "devices are not copied out of contexts",
    "copy-pipe": "pipes are not copied out of contexts",
    "copy-capability": "BuildKit loses it",
    "copy-chmod-variable": "parents stay 0755",
    "copy-chmod-dir-deep": "parents stay 0755",
    "copy-chmod-wildcard-dirs": "parents stay 0755",
    "copy-chmod-dir-symbolic": "symbolic modes are for the destination as octal ones are",
    "link-chown": "parents stay 0755",
    "copy-chown-unknown": "an unknown owner is an error, as in docker's old builder",
    "copy-chown-unknown-group": "an unknown owner is an error, as in docker's old builder",
    "copy-chown-user-group-form": "as chown(1) has it",
    "copy-dir-over-link-below": "decision 148",
    "copy-symlink-parent": "docker's old builder copies it",
    "ignore-escaped": "BuildKit reads a form feed",
    "exclude-slash": "a leading slash says nothing, as in .dockerignore",
    "exclude-variable": "BuildKit does not expand it, which is reported as a fault",
    "onbuild-unknown": "triggers are checked where they stand",
    "workdir-slashes": "cleaned",
    "run-hard-link-to-base": "BuildKit makes a copy",
}
"""Builds that docker makes otherwise, and why: docs/decisions/0269."""
