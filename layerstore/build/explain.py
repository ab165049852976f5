"""Why a step must run: what differs between what goes into it now and what went in last time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.build.listing import changes
from layerstore.build.ui import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from layerstore.build.facts import Facts, InputFacts
    from layerstore.build.listing import Listed

FILES_MAX = 10
"""Changed files that are named one by one for each input."""

_ID_DIGITS = 12
_FIELDS = {
    "args": "the command",
    "cwd": "the working directory",
    "user": "the user",
    "network": "whether it has a network",
    "insecure": "--security",
    "extra_hosts": "a host of --add-host",
    "one_id": "whether files can have other owners than root",
    "sources": "what is copied",
    "documents": "a here-document",
    "dest": "the destination",
    "owner": "--chown",
    "mode": "--chmod",
    "unpack": "whether archives are unpacked",
    "parents": "--parents",
    "link": "--link",
    "exclude": "--exclude",
    "path": "the path",
}

NEVER = Reason("new", "", "it was never built here")
COLLECTED = Reason("collected", "", "it was built before, but gc has taken its record or its layer")
NO_CACHE = Reason("no-cache", "", "the build was asked not to use the cache")
LOST = Reason("unknown", "", "something changed that was not remembered of the last build")

_OTHER_RULES = Reason("rules", "", "this version of layerstore makes its keys in another way")


def reasons(before: Facts, now: Facts) -> list[Reason]:
    """Return what changed between two runs of a step, what lies deepest first."""
    found = list(_differences(before, now))
    return found or [LOST]


def _differences(before: Facts, now: Facts) -> Iterator[Reason]:
    if before.rules != now.rules:
        yield _OTHER_RULES
    yield from _instruction(before, now)
    yield from _named("variable", "the variable", before.variables, now.variables)
    yield from _mounts(before, now)
    if before.epoch != now.epoch:
        yield Reason(
            "epoch", "", f"SOURCE_DATE_EPOCH changed ({_or_none(before.epoch)} to "
            f"{_or_none(now.epoch)})",
        )  # fmt: skip
    for index in range(max(len(before.inputs), len(now.inputs))):
        old = before.inputs[index] if index < len(before.inputs) else None
        new = now.inputs[index] if index < len(now.inputs) else None
        yield from _input(index, old, new, before, now)


def _instruction(before: Facts, now: Facts) -> Iterator[Reason]:
    if before.op != now.op:
        yield Reason("instruction", "", "the instruction is another one")
        return
    if before.text != now.text:
        yield Reason("instruction", "", "the instruction's text changed")
        return
    if before.rules == now.rules and before.fields.keys() != now.fields.keys():
        yield _OTHER_RULES
    for name in sorted(before.fields.keys() & now.fields.keys()):
        if before.fields[name] != now.fields[name]:
            what = _FIELDS.get(name, name)
            yield Reason("option", name, f"{what} changed, though the instruction's text did not")


def _named(
    kind: str, what: str, before: Mapping[str, bytes], now: Mapping[str, bytes]
) -> Iterator[Reason]:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            how = "is new" if name not in before else "is gone" if name not in now else "changed"
            yield Reason(kind, name, f"{what} {name} {how}")


def _mounts(before: Facts, now: Facts) -> Iterator[Reason]:
    presences = set()
    for name in sorted(before.secrets.keys() & now.secrets.keys()):
        if before.secrets[name] != now.secrets[name]:
            kind, _, identity = name.partition(" ")
            presences.add(kind)
            how = "is given now" if now.secrets[name] else "is not given any more"
            yield Reason("secret", identity, f"the {kind} {identity} {how}")
    if before.text != now.text:
        return  # told already: mounts are written in the instruction
    for reason in _named("mount", "the mount", before.mounts, now.mounts):
        if reason.name.partition(" ")[0] not in presences:
            yield reason


def _input(
    index: int, old: InputFacts | None, new: InputFacts | None, before: Facts, now: Facts
) -> Iterator[Reason]:
    if old is None or new is None or (old.kind, old.name) != (new.kind, new.name):
        yield _other_input(index, old, new)
        return
    files_before, files_now = _listings(index, before), _listings(index, now)
    if files_before or files_now:
        yield from _files(new, files_before, files_now)
    elif old.identity != new.identity:
        yield _other_content(index, old, new)


def _other_input(index: int, old: InputFacts | None, new: InputFacts | None) -> Reason:
    kind = "base" if index == 0 else "stage"
    where = "it builds on" if index == 0 else "it takes files from"
    return Reason(
        kind, (new.name if new is not None else ""),
        f"{where} {_words(new)}, before on {_words(old)}" if index == 0
        else f"{where} {_words(new)}, before from {_words(old)}",
    )  # fmt: skip


def _other_content(index: int, old: InputFacts, new: InputFacts) -> Reason:
    if new.kind == "base":
        ids = f"{_short_id(old.identity)} to {_short_id(new.identity)}"
        return Reason("base", new.name, f"the image {new.name} changed ({ids})")
    if index == 0:
        return Reason("below", new.name, "the step before it made another layer")
    return Reason("stage", new.name, f"{_words(new)} came to other layers")


def _listings(index: int, facts: Facts) -> dict[str, tuple[Listed, ...]]:
    return {place: files for number, place, files in facts.listings if number == index}


def _files(
    source: InputFacts,
    before: Mapping[str, Sequence[Listed]],
    now: Mapping[str, Sequence[Listed]],
) -> Iterator[Reason]:
    prefix = f"{_words(source)}: /" if source.kind != "context" else ""
    count = 0
    for place in now:
        for change in changes(before.get(place, ()), now[place]):
            count += 1
            if count <= FILES_MAX:
                yield Reason("file", change.path, f"{prefix}{change.path} {change.text}")
    if count > FILES_MAX:
        yield Reason(
            "files", str(count - FILES_MAX), f"{count - FILES_MAX} more changes like these"
        )


def _words(source: InputFacts | None) -> str:
    if source is None:
        return "nothing"
    match source.kind:
        case "base":
            return f"the image {source.name}"
        case "context":
            return f"the build context {source.name}".rstrip()
        case "remote":
            return source.name
        case "step":
            return f"the stage {source.name}" if source.name else "another step"
        case _:
            return "nothing"


def _short_id(identity: str) -> str:
    return identity.partition(":")[2][:_ID_DIGITS] or identity[:_ID_DIGITS]


def _or_none(epoch: int | None) -> str:
    return "none" if epoch is None else str(epoch)
