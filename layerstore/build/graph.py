"""The build graph: operations on root file systems, and what feeds them.

A vertex is one operation and its inputs; its result is a stack of layers, or for
:class:`ContextOp` the build context. Operations are plain values whose encoding is
part of the cache key, so everything that changes a result must be in them, and
nothing that does not: no secrets, no proxies, no paths of the host. Immutable.

Remote sources (:class:`HttpOp`, :class:`GitOp`) are in no key themselves: what copies from
one has the content that was fetched in its key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from layerstore.digest import DiffId  # noqa: TC001 -- msgspec reads the annotation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.platforms import Platform


class BaseOp(msgspec.Struct, frozen=True, tag="base"):
    """The layers of a stored image; none of them is ``FROM scratch``."""

    layers: tuple[DiffId, ...]


class ContextOp(msgspec.Struct, frozen=True, tag="context"):
    """A build context; the main one has no name."""

    name: str = ""


class HttpOp(msgspec.Struct, frozen=True, tag="http"):
    """A file from an HTTP server; the result is a layer with nothing else.

    Attributes:
        url: As written, a password included.
        name: The file's name; empty for what the server calls it.
        checksum: SHA-256 of the content in hex; empty when any will do.
    """

    url: str
    name: str
    checksum: str


class GitOp(msgspec.Struct, frozen=True, tag="git"):
    """Files of a git repository; the result is a layer with nothing else.

    Attributes:
        remote: URL or ``user@host:path``, a password included.
        ref: Branch, tag, other ref or commit; empty for the default branch.
        subdir: Whose content is meant; empty for everything.
        commit: What the ref must be or begin with; empty when anything will do.
        keep_git_dir: ``.git`` comes along.
        submodules: Submodules come along.
        own_keys: The user named it, no Dockerfile did: the user's own ssh keys may be used.
    """

    remote: str
    ref: str
    subdir: str
    commit: str
    keep_git_dir: bool
    submodules: bool
    own_keys: bool = False


class MkdirOp(msgspec.Struct, frozen=True, tag="mkdir"):
    """Make a directory and its parents (WORKDIR).

    Attributes:
        path: Absolute.
        user: Owner of what is created, as USER says; empty is root.
    """

    path: str
    user: str


class MergeOp(msgspec.Struct, frozen=True, tag="merge"):
    """The layers of several inputs in one stack; see :mod:`layerstore.build.merging`."""


class NewUser(msgspec.Struct, frozen=True):
    """A user to create.

    Attributes:
        uid: None for the next free one.
        gid: Of a group of the user's own; None for the uid, or the next free one.
        group: An existing group to be the primary one instead; empty for none.
        groups: Existing groups to be in.
        home: Absolute; made if missing.
    """

    name: str
    uid: int | None
    gid: int | None
    group: str
    groups: tuple[str, ...]
    home: str
    shell: str
    comment: str


class UsersOp(msgspec.Struct, frozen=True, tag="users"):
    """Create users, in order; see :mod:`layerstore.build.accounts`."""

    users: tuple[NewUser, ...]


class Document(msgspec.Struct, frozen=True):
    """A here-document: a file that stands in the Dockerfile itself."""

    name: str
    content: str


class CopyOp(msgspec.Struct, frozen=True, tag="copy"):
    """COPY or ADD. Input 0 is the root to copy into, the others are what to copy from.

    Attributes:
        sources: Patterns, as the Dockerfile has them after expansion.
        dest: Absolute; a trailing slash says that it is a directory.
        owner: ``user[:group]``; empty keeps the source's (root's, of a context).
        mode: ``--chmod``; empty keeps the source's.
        unpack: Archives are unpacked, unless they were fetched from a URL.
        parents: Source paths are recreated below the destination.
        link: The layer depends on nothing below it.
        origins: For each source the number of its input; empty when all are of input 1.
        unpack_remote: Archives that were fetched from a URL are unpacked.
    """

    sources: tuple[str, ...]
    documents: tuple[Document, ...]
    dest: str
    owner: str
    mode: str
    unpack: bool
    parents: bool
    link: bool
    exclude: tuple[str, ...]
    origins: tuple[int, ...] = ()
    unpack_remote: bool = False

    def origin(self, source: int) -> int:
        """Return the number of the input that a source is taken from."""
        return self.origins[source] if self.origins else 1


class MountSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One ``--mount`` of a RUN.

    Attributes:
        input: Number of the vertex's input that a bind or a cache shows, None for none.
        source: Path inside that input.
        target: Absolute path in the container; empty for a secret that is only a variable.
        id: Of a cache or secret.
        size: Bytes of a tmpfs, 0 for the kernel's default.
        mode: Permission bits, None for the type's default.
        env: Variable that gets a secret.
        content: Of a program that stands in the Dockerfile, with its name in ``source``.
        absent: An optional secret that the build was not given: what runs may do without.
    """

    type: str
    target: str
    input: int | None = None
    source: str = ""
    readonly: bool = True
    id: str = ""
    sharing: str = "shared"
    required: bool = False
    size: int = 0
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    owned: bool = False
    env: str = ""
    content: str = ""
    absent: bool = False


class RunOp(msgspec.Struct, frozen=True, tag="run", omit_defaults=True):
    """RUN: a process over input 0; mounts name further inputs.

    Attributes:
        env: ``NAME=value`` in the order that the process gets.
        network: False leaves it a loopback only.
        insecure: It runs with all of root's rights.
        extra_hosts: Names and addresses that its ``/etc/hosts`` has besides.
        one_id: It runs in a user namespace that has no user but root: owners cannot be set.
    """

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    network: bool
    mounts: tuple[MountSpec, ...]
    insecure: bool = False
    extra_hosts: tuple[tuple[str, str], ...] = ()
    one_id: bool = False


RemoteOp = HttpOp | GitOp
Op = BaseOp | ContextOp | RemoteOp | MergeOp | MkdirOp | UsersOp | CopyOp | RunOp


class Vertex:
    """One operation of a graph; compared by identity.

    Attributes:
        inputs: Each made before this one.
        span: The instruction's place, for messages.
        label: What people see: ``[builder 2/5] RUN make``.
        original: The instruction as written.
        platform: What programs a RUN runs, None for everything else. In no key: the
            layers below tell images apart.
        no_cache: It runs even if it is known; its result is remembered all the same.
    """

    __slots__ = ("inputs", "label", "no_cache", "op", "original", "platform", "span")

    def __init__(
        self,
        op: Op,
        inputs: tuple[Vertex, ...],
        span: SourceSpan | None,
        label: str = "",
        original: str = "",
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.span = span
        self.label = label
        self.original = original
        self.platform: Platform | None = None
        self.no_cache = False


def topological(*targets: Vertex) -> list[Vertex]:
    """Return everything the targets need, themselves included, each after its inputs."""
    order: list[Vertex] = []
    done: set[int] = set()
    for target in targets:
        if id(target) not in done:
            _append_needed(target, order, done)
    return order


def _append_needed(target: Vertex, order: list[Vertex], done: set[int]) -> None:
    stack: list[tuple[Vertex, Iterator[Vertex]]] = [(target, iter(target.inputs))]
    on_stack = {id(target)}
    while stack:
        vertex, inputs = stack[-1]
        for needed in inputs:
            if id(needed) not in done and id(needed) not in on_stack:
                on_stack.add(id(needed))
                stack.append((needed, iter(needed.inputs)))
                break
        else:
            stack.pop()
            done.add(id(vertex))
            order.append(vertex)
