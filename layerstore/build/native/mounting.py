"""The mounts of a command in a native spec."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.graph import MountSpec
from layerstore.build.native.limits import MAX_MOUNTS, limit_exceeded
from layerstore.build.native.spec import CacheMount, SecretMount

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.graph import Vertex
    from layerstore.build.native.lowering import Lowering
    from layerstore.build.native.spec import BindMount, Command
    from layerstore.build.stage import StageState

_FORBIDDEN_TARGETS = ("/", "/proc", "/sys", "/dev")
_SECRETS = "/run/secrets"
_ID_MAX_CHARACTERS = 4096
_MODE = re.compile(r"[0-7]{1,5}")
_OWNER = re.compile(r"([0-9]{1,10})(?::([0-9]{1,10}))?")
_LAST_ID = 2**32 - 2


class Mounts:
    """Lowers the mounts of one command and gathers their inputs.

    Attributes:
        inputs: What bind mounts show, after the root.
    """

    def __init__(self, lowering: Lowering, state: StageState, span: SourceSpan) -> None:
        self._lowering = lowering
        self._state = state
        self._span = span
        self.inputs: list[Vertex] = []

    def lower(self, command: Command) -> tuple[MountSpec, ...]:
        """Return all mounts of a command, in an order of our own.

        Raises:
            SpecError: One asks for something impossible.
            LimitExceededError: There are more than ``MAX_MOUNTS``.
        """
        wanted = (command.cache, command.secrets, command.bind, command.tmpfs)
        if sum(map(len, wanted)) > MAX_MOUNTS:
            raise limit_exceeded(self._span, "a command has too many mounts", MAX_MOUNTS)
        specs = [self._cache(each) for each in command.cache]
        specs += [self._secret(each) for each in command.secrets]
        specs += [self._bind(each) for each in command.bind]
        specs += [
            MountSpec(type="tmpfs", target=self._target(each), readonly=False)
            for each in command.tmpfs
        ]
        targets = [each.target for each in specs if each.target]
        for target in targets:
            if targets.count(target) > 1:
                raise SpecError(f"two mounts have the target {target}", self._span)
        return tuple(sorted(specs, key=lambda each: (each.target, each.type, each.id)))

    def _cache(self, mount: str | CacheMount) -> MountSpec:
        if isinstance(mount, str):
            mount = CacheMount(target=mount)
        target = self._target(mount.target)
        uid, gid = self._owner(mount.owner)
        return MountSpec(
            type="cache",
            target=target,
            readonly=False,
            id=self._id(mount.id or target),
            sharing=mount.sharing,
            mode=self._mode(mount.mode),
            uid=uid,
            gid=gid,
            owned=bool(mount.owner or mount.mode),
        )

    def _secret(self, mount: str | SecretMount) -> MountSpec:
        if isinstance(mount, str):
            mount = SecretMount(id=mount)
        identity = self._id(mount.id)
        target = mount.target
        if not target and not mount.env:
            target = f"{_SECRETS}/{posixpath.basename(identity)}"
        mode = self._mode(mount.mode)
        uid, gid = self._owner(mount.owner)
        return MountSpec(
            type="secret",
            target=self._target(target) if target else "",
            id=identity,
            required=mount.required,
            mode=0o400 if mode is None else mode,
            uid=uid,
            gid=gid,
            env=mount.env,
            absent=not mount.required and identity not in self._lowering.options.secrets,
        )

    def _bind(self, mount: BindMount) -> MountSpec:
        self.inputs.append(self._lowering.source(mount.stage, mount.image, self._span))
        return MountSpec(
            type="bind",
            target=self._target(mount.target),
            input=len(self.inputs),
            source=mount.from_,
            readonly=not mount.writable,
        )

    def _target(self, path: str) -> str:
        if not path:
            raise SpecError("a mount needs a target", self._span)
        clean = self._state.absolute(path).rstrip("/") or "/"
        if clean in _FORBIDDEN_TARGETS:
            raise SpecError(f"nothing can be mounted on {clean}", self._span)
        return clean

    def _id(self, text: str) -> str:
        if not text or len(text) > _ID_MAX_CHARACTERS:
            raise SpecError("the id of a mount is empty or too long", self._span)
        return text

    def _mode(self, text: str) -> int | None:
        if not text:
            return None
        if not _MODE.fullmatch(text) or int(text, 8) > 0o7777:
            raise SpecError(f"{text!r} is not an octal mode", self._span, hint='write "0600"')
        return int(text, 8)

    def _owner(self, text: str) -> tuple[int, int]:
        if not text:
            return 0, 0
        found = _OWNER.fullmatch(text)
        if found is None or int(found[1]) > _LAST_ID or int(found[2] or "0") > _LAST_ID:
            raise SpecError(
                f"{text!r} is not an owner of a mount", self._span, hint='numbers: "1000:1000"'
            )
        return int(found[1]), int(found[2] or found[1])
