"""The typed syntax tree of a Dockerfile: what was written, where, and nothing else.

Every text that variables may appear in is kept exactly as written, quotes and
escapes included: what a word means depends on the environment at its place in
the build, so `layerstore.build.dockerfile.expand` interprets it there.
`EXPANDED_FIELDS` of each class names those fields.

Pure data: immutable, hashable, safe to share between threads.

Reference: docs/reference/dockerfile.md.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal, TypeAlias

import msgspec

_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)

MountType: TypeAlias = Literal["bind", "cache", "tmpfs", "secret", "ssh"]
Sharing: TypeAlias = Literal["shared", "private", "locked"]
Network: TypeAlias = Literal["default", "none", "host"]
Security: TypeAlias = Literal["sandbox", "insecure"]


class SourceSpan(msgspec.Struct, frozen=True, eq=False):
    """A place in a file.

    Lines and columns count from 1; a column counts characters, not bytes.
    ``text`` is the physical line the span starts on, for excerpts in messages;
    it takes no part in comparisons.
    """

    file: str
    line: int
    column: int
    end_line: int
    text: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SourceSpan) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)

    @property
    def _place(self) -> tuple[str, int, int, int]:
        return self.file, self.line, self.column, self.end_line

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Directive(msgspec.Struct, frozen=True):
    """A parser directive (``# escape=...``) from the top of the file."""

    name: str
    value: str
    span: SourceSpan


class Notice(msgspec.Struct, frozen=True):
    """Something accepted but worth a word to the user.

    ``rule`` names the build check that says it; empty when none does.
    """

    message: str
    span: SourceSpan
    rule: str = ""

    def __str__(self) -> str:
        return f"{self.span}: {self.message}"


class Flag(msgspec.Struct, frozen=True):
    """One ``--name`` or ``--name=value`` as written, quotes removed."""

    name: str
    value: str | None
    span: SourceSpan


class Heredoc(msgspec.Struct, frozen=True):
    r"""A here-document.

    Attributes:
        name: The delimiter without its quotes; also the file name in COPY and ADD.
        content: The lines between, each with its own line ending, tabs included.
        expand: No part of the delimiter was quoted, so variables are expanded.
        chomp: Written as ``<<-``: leading tabs do not count.
        descriptor: The file descriptor in front of ``<<``, 0 when there is none.
    """

    name: str
    content: str
    expand: bool
    chomp: bool
    descriptor: int = 0

    def text(self) -> str:
        """Return the content, without leading tabs if the form was ``<<-``."""
        if not self.chomp:
            return self.content
        return _LEADING_TABS.sub("", self.content)


class CommandLine(msgspec.Struct, frozen=True):
    """A command in shell form (``shell``) or exec form (``argv``): exactly one is not None."""

    shell: str | None
    argv: tuple[str, ...] | None
    heredocs: tuple[Heredoc, ...] = ()


class Script(msgspec.Struct, frozen=True):
    """What the shell gets for a RUN with here-documents.

    ``text`` goes to the shell as its script, unless ``file_name`` is set: then the
    text begins with ``#!`` and is a program to be made a file and executed.
    """

    text: str
    file_name: str | None = None


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """What all instructions share.

    Attributes:
        span: From the instruction's first character to its last line, heredocs included.
        original: The logical line: continuations joined, comments gone, heredocs not
            included. What docker writes to the history.
        flags: In the order written, with their own spans.
    """

    KEYWORD: ClassVar[str] = ""
    EXPANDED_FIELDS: ClassVar[tuple[str, ...]] = ()

    span: SourceSpan
    original: str
    flags: tuple[Flag, ...] = ()

    def flag_span(self, name: str) -> SourceSpan:
        """Return where the flag ``name`` (without dashes) stands, or the instruction's span."""
        return next((flag.span for flag in self.flags if flag.name == name), self.span)


class Pair(msgspec.Struct, frozen=True):
    """``key=value`` of ENV or LABEL, both unexpanded.

    ``legacy`` says that it was written ``ENV key value``.
    """

    key: str
    value: str
    legacy: bool = False


class ArgDefinition(msgspec.Struct, frozen=True):
    """``name`` or ``name=default`` of ARG; the default is unexpanded."""

    name: str
    default: str | None


class From(Instruction, frozen=True, kw_only=True):
    """``FROM [--platform=P] base [AS name]``; base and platform are unexpanded."""

    KEYWORD: ClassVar[str] = "FROM"
    EXPANDED_FIELDS: ClassVar[tuple[str, ...]] = ("base", "platform")

    base: str
    name: str | None = None
    platform: str | None = None


class Arg(Instruction, frozen=True, kw_only=True):
    """``ARG name[=default] ...``."""

    KEYWORD: ClassVar[str] = "ARG"
    EXPANDED_FIELDS: ClassVar[tuple[str, ...]] = ("args",)

    args: tuple[ArgDefinition, ...]


class Env(Instruction, frozen=True, kw_only=True):
    """``ENV key=value ...`` or ``ENV key value``."""

    KEYWORD: ClassVar[str] = "ENV"
    EXPANDED_FIELDS: ClassVar[tuple[str, ...]] = ("pairs",)

    pairs: tuple[Pair, ...]


class Label(Instruction, frozen=True, kw_only=True):
    """``LABEL key=value ...`` or ``LABEL key value``."""

    KEYWORD: ClassVar[str] = "LABEL"
    EXPANDED_FIELDS: ClassVar[tuple[str, ...]] = ("pairs",)

    pairs: tuple[Pair, ...]


class RunMount(msgspec.Struct, frozen=True, kw_only=True):
    """One ``--mount`` of RUN.

    When ``resolved`` is False some field holds a variable: only ``raw`` and
    ``span`` mean anything until `layerstore.build.dockerfile.mounts.parse_mount`
    reads ``raw`` again with the environment (`expand_instruction` does that).

    Attributes:
        readonly: As it applies: written, or the default of the type (bind, secret,
            ssh: read-only; cache, tmpfs: not).
        id: Of a cache, secret or ssh mount; None when not written.
        size: Bytes, of a tmpfs mount.
        mode: Permission bits, written in octal.
        env: Variable that gets the secret's value.
    """

    raw: str
    span: SourceSpan
    resolved: bool = True
    type: MountType = "bind"
    target: str | None = None
    source: str | None = None
    from_: str | None = None
    readonly: bool = True
    id: str | None = None
    sharing: Sharing | None = None
    required: bool = False
    size: int | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    env: str | None = None


class Run(Instruction, frozen=True, kw_only=True):
    """``RUN`` in shell, exec or heredoc form. The command itself is not expanded."""

    KEYWORD: ClassVar[str] = "RUN"
    EXPANDED_FIELDS: ClassVar[tuple[str, ...]] = ("mounts",)

    command: CommandLine
    mounts: tuple[RunMount, ...] = ()
    network: Network = "default"
    security: Security = "sandbox"
    devices: tuple[str, ...] = ()
    sole_heredoc: bool = False

    def script(self) -> Script | None:
        """Return the script of a shell or heredoc form, None for the exec form.

        A command that is nothing but one heredoc is its content, as a program if it
        begins with ``#!``; other heredocs are left to the shell, which gets them
        back behind the command line.
        """
        command = self.command
        if command.shell is None:
            return None
        if not command.heredocs:
            return Script(command.shell)
        if self.sole_heredoc:
            first = command.heredocs[0]
            is_program = first.content.startswith("#!")
            return Script(first.text(), first.name if is_program else None)
        parts = [command.shell]
        parts += [f"\n{document.content}{document.name}" for document in command.heredocs]
        return Script("".join(parts))


class Copy(Instruction, frozen=True, kw_only=True):
    """``COPY [flags] source... dest``.

    Attributes:
        sources: Paths and patterns, unexpanded; heredocs are not among them.
        heredocs: Sources given as here-documents; `Heredoc.name` is the file name.
        from_: A stage's name or number, an image, or a named context; never has variables.
        chown: ``user[:group]``, names or numbers, unexpanded.
        chmod: Octal or symbolic, unexpanded.
        exclude: Patterns of ``--exclude``, unexpanded, in order.
    """

    KEYWORD: ClassVar[str] = "COPY"
    EXPANDED_FIELDS: ClassVar[tuple[str, ...]] = (
        "sources",
        "dest",
        "chown",
        "chmod",
        "exclude",
        "heredocs",
    )

    sources: tuple[str, ...]
    dest: str
    heredocs: tuple[Heredoc, ...] = ()
    from_: str | None = None
    chown: str | None = None
    chmod: str | None = None
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


class Add(Instruction, frozen=True, kw_only=True):
    """``ADD [flags] source... dest``; fields as in `Copy`.

    Attributes:
        checksum: ``sha256:...`` of a remote file or a commit, unexpanded.
        unpack: None when not written: local archives yes, remote files no.
        keep_git_dir: Keep ``.git`` of a git source.
    """

    KEYWORD: ClassVar[str] = "ADD"
    EXPANDED_FIELDS: ClassVar[tuple[str, ...]] = (
        "sources",
        "dest",
        "chown",
        "chmod",
        "exclude",
        "heredocs",
        "checksum",
    )

    sources: tuple[str, ...]
    dest: str
    heredocs: tuple[Heredoc, ...] = ()
    chown: str | None = None
    chmod: str | None = None
    link: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str | None = None
    unpack: bool | None = None
    keep_git_dir: bool = False


class Workdir(Instruction, frozen=True, kw_only=True):
    """``WORKDIR path``."""

    KEYWORD: ClassVar[str] = "WORKDIR"
    EXPANDED_FIELDS: ClassVar[tuple[str, ...]] = ("path",)

    path: str


class User(Instruction, frozen=True, kw_only=True):
    """``USER user[:group]``."""

    KEYWORD: ClassVar[str] = "USER"
    EXPANDED_FIELDS: ClassVar[tuple[str, ...]] = ("user",)

    user: str


class Expose(Instruction, frozen=True, kw_only=True):
    """``EXPOSE port[-port][/protocol] ...``, unexpanded.

    One word may expand to several: `layerstore.build.dockerfile.ports.expand_ports`
    turns the words into ``("80/tcp", ...)``.
    """

    KEYWORD: ClassVar[str] = "EXPOSE"
    EXPANDED_FIELDS: ClassVar[tuple[str, ...]] = ("ports",)

    ports: tuple[str, ...]


class Volume(Instruction, frozen=True, kw_only=True):
    """``VOLUME path ...`` or the JSON form."""

    KEYWORD: ClassVar[str] = "VOLUME"
    EXPANDED_FIELDS: ClassVar[tuple[str, ...]] = ("paths",)

    paths: tuple[str, ...]


class Cmd(Instruction, frozen=True, kw_only=True):
    """``CMD``: not expanded."""

    KEYWORD: ClassVar[str] = "CMD"

    command: CommandLine


class Entrypoint(Instruction, frozen=True, kw_only=True):
    """``ENTRYPOINT``: not expanded."""

    KEYWORD: ClassVar[str] = "ENTRYPOINT"

    command: CommandLine


class Shell(Instruction, frozen=True, kw_only=True):
    """``SHELL ["program", "argument"...]``."""

    KEYWORD: ClassVar[str] = "SHELL"

    argv: tuple[str, ...]


class StopSignal(Instruction, frozen=True, kw_only=True):
    """``STOPSIGNAL name-or-number``."""

    KEYWORD: ClassVar[str] = "STOPSIGNAL"
    EXPANDED_FIELDS: ClassVar[tuple[str, ...]] = ("signal",)

    signal: str


class Healthcheck(Instruction, frozen=True, kw_only=True):
    """``HEALTHCHECK``; ``command`` is None for ``HEALTHCHECK NONE``.

    Times are nanoseconds as in the image config; 0 means not set, as do 0 retries.
    """

    KEYWORD: ClassVar[str] = "HEALTHCHECK"

    command: CommandLine | None
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


class Onbuild(Instruction, frozen=True, kw_only=True):
    """``ONBUILD instruction``.

    Attributes:
        trigger: What the image config's ``OnBuild`` list gets: the text as written,
            heredocs behind it.
        instruction: The same, parsed.
    """

    KEYWORD: ClassVar[str] = "ONBUILD"

    trigger: str
    instruction: StageInstruction


class Maintainer(Instruction, frozen=True, kw_only=True):
    """``MAINTAINER name`` (deprecated): sets the image's author."""

    KEYWORD: ClassVar[str] = "MAINTAINER"

    name: str


StageInstruction: TypeAlias = (
    Arg
    | Env
    | Label
    | Run
    | Copy
    | Add
    | Workdir
    | User
    | Expose
    | Volume
    | Cmd
    | Entrypoint
    | Shell
    | StopSignal
    | Healthcheck
    | Onbuild
    | Maintainer
)


class Stage(msgspec.Struct, frozen=True):
    """A FROM and what follows it.

    Attributes:
        index: From 0.
        name: Lower case, or None.
        base: Unexpanded: ``scratch``, an earlier stage's name, or an image.
        platform: The value of ``--platform``, unexpanded, or None.
    """

    index: int
    name: str | None
    base: str
    platform: str | None
    instructions: tuple[StageInstruction, ...]
    span: SourceSpan
    from_: From


class Dockerfile(msgspec.Struct, frozen=True):
    r"""A whole Dockerfile.

    Attributes:
        escape: ``\`` or the backtick.
        directives: Parser directives in order.
        global_args: ARG instructions before the first FROM.
        stages: At least one.
        notices: What was accepted with a remark.
    """

    escape: str
    directives: tuple[Directive, ...]
    global_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    notices: tuple[Notice, ...] = ()

    def stage_named(self, name: str) -> Stage | None:
        """Return the last stage of that name (in any case), or of that number, else None."""
        wanted = name.lower()
        for stage in reversed(self.stages):
            if stage.name == wanted:
                return stage
        if name.isascii() and name.isdigit() and int(name[:9]) < len(self.stages):
            return self.stages[int(name[:9])]
        return None
