"""From the records of a spec to the build graph.

A stage is made in one order, whatever the order of its keys: base, apt, pip and npm side by
side, users, working directory, npm's project, files by destination, commands, further steps.
What many images share comes first, and packages see nothing of a stage but its base, so equal
sets over equal bases are equal layers. Stages are lowered when something asks for them. Nothing
runs here; configs of base images and files that name packages are read.
"""

from __future__ import annotations

import hashlib
import shlex
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.build.accounts import NAME as USER_NAME
from layerstore.build.dockerfile.durations import parse_duration
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.hints import nearest
from layerstore.build.dockerfile.ports import expand_ports
from layerstore.build.dockerfile.signals import is_signal
from layerstore.build.dockerfile.syntax import CommandLine, Healthcheck, Notice
from layerstore.build.graph import (
    BaseOp,
    ContextOp,
    CopyOp,
    Document,
    MergeOp,
    MkdirOp,
    NewUser,
    Op,
    RunOp,
    UsersOp,
    Vertex,
)
from layerstore.build.lower import SCRATCH, scratch_config, stored_config
from layerstore.build.modes import parse_mode
from layerstore.build.native import installing
from layerstore.build.native.bases import combined
from layerstore.build.native.limits import MAX_BASES, MAX_STAGES, MAX_STEPS, limit_exceeded
from layerstore.build.native.lockfile import Wish, chain_text, lineage
from layerstore.build.native.mounting import Mounts
from layerstore.build.native.packages import apt_sets, npm_sets, pip_sets
from layerstore.build.native.spec import BaseSource, Command, FileSource, Npm, Pip
from layerstore.build.native.templates import expand_environment
from layerstore.build.platforms import normalized
from layerstore.build.stage import StageState
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.lower import Images, LowerOptions
    from layerstore.build.native.bases import Sources
    from layerstore.build.native.lockfile import Locks
    from layerstore.build.native.reader import Node
    from layerstore.build.native.spec import Health, Spec, StageSpec, Step
    from layerstore.formats.oci_config import ImageConfig

FINAL = ""
"""Name of the stage that is the image."""


class Graph:
    """Makes vertices, equal ones only once, so that variants have their common steps in common."""

    def __init__(self) -> None:
        self._known: dict[tuple[Op, tuple[int, ...]], Vertex] = {}
        self.context = self.vertex(ContextOp(), ())

    def vertex(
        self,
        op: Op,
        inputs: tuple[Vertex, ...],
        span: SourceSpan | None = None,
        label: str = "",
        original: str = "",
    ) -> Vertex:
        """Return the vertex of an operation over its inputs; the first one's label stays."""
        key = (op, tuple(map(id, inputs)))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Vertex(op, inputs, span, label, original)
        return known


class Lowered(NamedTuple):
    """A lowered spec.

    Attributes:
        state: The target stage at its end.
        notices: What is worth a word.
    """

    state: StageState
    notices: tuple[Notice, ...]


class _Made(NamedTuple):
    """A stage's end.

    Attributes:
        below: What package sets over it are over: see :func:`lockfile.lineage`.
    """

    state: StageState
    below: tuple[str, ...]


class Lowering:
    """Lowers one variant of a spec.

    Args:
        spec: The records.
        node: The values they were decoded from, for places.
        options: What the command line says.
        epoch: SOURCE_DATE_EPOCH.
        images: Finds base images.
        sources: Knows what is in them and in the build context.
        locks: Knows what package sets were resolved to.
        graph: Makes vertices.
    """

    def __init__(
        self,
        spec: Spec,
        node: Node,
        options: LowerOptions,
        epoch: int | None,
        images: Images,
        sources: Sources,
        locks: Locks,
        graph: Graph,
    ) -> None:
        self.spec = spec
        self.node = node
        self.options = options
        self.epoch = epoch
        self.images = images
        self.sources = sources
        self.locks = locks
        self.graph = graph
        self.notices: list[Notice] = []
        self._made: dict[str, _Made] = {}
        self._open: list[str] = []
        if len(spec.stages) > MAX_STAGES:
            raise limit_exceeded(node.span_of("stages"), "too many stages", MAX_STAGES)

    def run(self) -> Lowered:
        """Return the target stage.

        Raises:
            SpecError: The spec asks for something impossible; has the place.
        """
        target = self.options.target or FINAL
        made = self.stage(target, self.node.span_of("stages"))
        state = made.state
        if self.options.labels:
            labels = {**state.config.labels, **self.options.labels}
            state.config = msgspec.structs.replace(state.config, labels=labels)
        return Lowered(state, tuple(self.notices))

    def stage(self, name: str, span: SourceSpan) -> _Made:
        """Return a stage's end, lowering it when somebody asks for the first time."""
        known = self._made.get(name)
        if known is not None:
            return known
        if name != FINAL and name not in self.spec.stages:
            near = nearest(name, list(self.spec.stages))
            hint = f"did you mean {near}?" if near else None
            if hint is None and self.spec.stages:
                hint = "the stages are " + ", ".join(self.spec.stages)
            raise SpecError(f"there is no stage {name!r}", span, hint=hint)
        if name in self._open:
            cycle = " needs ".join([*self._open[self._open.index(name) :], name])
            raise SpecError(f"stages need each other: {cycle}", span)
        self._open.append(name)
        node = self.node if name == FINAL else _below(self.node, "stages", name)
        record = self.spec if name == FINAL else self.spec.stages[name]
        made = _StageLowering(self, name, record, node).run()
        if name == FINAL:
            _apply_config(made.state, self.spec, self.node)
        self._open.pop()
        self._made[name] = made
        return made

    def image(self, name: str, span: SourceSpan) -> tuple[Vertex, ImageConfig]:
        """Return an image of the store, or the empty root for ``scratch``."""
        config = self.image_config(name, span)
        layers = config.diff_ids
        return self.graph.vertex(BaseOp(layers), (), span, f"FROM {name}"), config

    def image_config(self, name: str, span: SourceSpan) -> ImageConfig:
        """Return the config of an image of the store."""
        if name == SCRATCH:
            return scratch_config(self.options.platform)
        config = stored_config(name, self.options, self.images, span)
        found = normalized(config.os, config.architecture, config.variant)
        if self.options.is_platform_given and not found.serves(self.options.platform):
            raise SpecError(
                f"{name} is an image for {found}, not for {self.options.platform}", span
            )
        return config

    def source(self, stage: str, image: str, span: SourceSpan) -> Vertex:
        """Return what ``stage`` or ``image`` names, the build context if neither does."""
        if stage and image:
            raise SpecError("copy from a stage or from an image, not from both", span)
        if stage:
            return self.stage(stage, span).state.vertex
        return self.image(image, span)[0] if image else self.graph.context


class _StageLowering:
    """One stage on its way into the graph."""

    def __init__(self, lowering: Lowering, name: str, spec: StageSpec, node: Node) -> None:
        self._lowering = lowering
        self._name = name
        self._spec = spec
        self._node = node
        self._below: tuple[str, ...] = ()

    def run(self) -> _Made:
        """Lower everything in its order."""
        state = self._begin()
        options = self._lowering.options
        site = installing.Site(
            state.config.env,
            options.network,
            options.extra_hosts,
            options.one_id,
            self._lowering.epoch,
        )
        self._apt(state, site)
        self._side_by_side(state, site)
        self._users(state)
        self._workdir(state)
        self._npm_project(state, site)
        self._env(state)
        if self._spec.shell:
            state.set_shell(self._spec.shell)
        if len(self._spec.steps) > MAX_STEPS:
            raise limit_exceeded(self._node.span_of("steps"), "too many steps", MAX_STEPS)
        self._step(state, self._spec, self._node)
        for index, step in enumerate(self._spec.steps):
            self._step(state, step, _below(self._node, "steps", index))
        return _Made(state, self._below)

    # -- what it begins with

    def _begin(self) -> StageState:
        base = self._spec.base
        span = self._node.span_of("base")
        if isinstance(base, BaseSource):
            given = [bool(base.image), bool(base.stage), base.bootstrap is not None]
            if sum(given) != 1:
                raise SpecError("base names one of image, stage and bootstrap", span)
            if base.stage:
                made = self._lowering.stage(base.stage, span)
                self._below = made.below
                return made.state.child()
            if base.bootstrap is not None:
                name = self._lowering.sources.bootstrap(base.bootstrap, span)
                return self._begin_with([name], span, told=f"bootstrap {base.bootstrap.suite}")
            return self._begin_with([base.image], span)
        names = [base] if isinstance(base, str) else list(base)
        if not names:
            raise SpecError("base is an empty list", span, hint='base = "scratch" is an empty root')
        if len(names) > MAX_BASES:
            raise limit_exceeded(span, "too many bases", MAX_BASES)
        return self._begin_with(names, span)

    def _begin_with(self, names: Sequence[str], span: SourceSpan, told: str = "") -> StageState:
        lowering = self._lowering
        found = [lowering.image(name, span) for name in names]
        below = []
        for name, (_, config) in zip(names, found, strict=True):
            chain = chain_text(config.diff_ids)
            below.append(f"base {chain}")
            if name != SCRATCH:
                lowering.locks.base(told or name, chain, span)
        self._below = tuple(below)
        vertex, config = found[0]
        if len(found) > 1:
            config = combined(names, [each for _, each in found], lowering.sources, span)
            inputs = tuple(each for each, _ in found)
            vertex = lowering.graph.vertex(MergeOp(), inputs, span, f"FROM {', '.join(names)}")
        state = StageState(vertex, config)
        if state.take_triggers():
            message = f"ONBUILD instructions of {', '.join(names)} are not carried out"
            lowering.notices.append(Notice(message, span))
        return state

    # -- packages

    def _apt(self, state: StageState, site: installing.Site) -> None:
        node = _maybe(self._node, "packages", "apt")
        for packages in apt_sets(self._spec.packages.apt, node):
            span = node.key_span if node else self._node.span
            resolve = installing.apt_resolve(site, packages)
            wish = self._wish("apt", packages, resolve, state.vertex, span)
            op = installing.apt_install(site, packages, self._lowering.locks.apt(wish))
            self._add(state, op, (state.vertex,), span, f"APT {' '.join(packages)}")
            self._below = (*self._below, f"apt {' '.join(packages)}")

    def _side_by_side(self, state: StageState, site: installing.Site) -> None:
        """Let pip and npm work over the same root, and lay what they add over each other."""
        start, below = state.vertex, self._below
        self._pip(state, site)
        after_pip, pip_below = state.vertex, self._below
        state.vertex, self._below = start, below
        self._npm(state, site)
        self._below = (*pip_below, *self._below[len(below) :])
        if start in (after_pip, state.vertex):
            state.vertex = after_pip if state.vertex is start else state.vertex
            return
        state.vertex = self._lowering.graph.vertex(MergeOp(), (after_pip, state.vertex))

    def _pip(self, state: StageState, site: installing.Site) -> None:
        pip = self._spec.packages.pip
        node = _maybe(self._node, "packages", "pip")
        if node is None:
            return
        if not isinstance(pip, Pip):
            pip = Pip(install=pip)
        lists = node if isinstance(node.value, list) else node.get("install")
        _check_absolute(pip.venv, "the virtual environment", node.span_of("venv"))
        texts = [
            ("".join(f"{each}\n" for each in packages), " ".join(packages))
            for packages in pip_sets(pip.install, lists)
        ]
        if pip.requirements:
            text = self._lowering.sources.read(pip.requirements, node.span_of("requirements"))
            texts.insert(0, (text, f"-r {pip.requirements}"))
        for text, told in texts:
            resolve = installing.pip_resolve(site, pip.venv, pip.python, text)
            wish = self._wish("pip", (text,), resolve, state.vertex, node.key_span)
            hashed = "--hash=" in text  # pip then insists on hashes by itself
            locked = None if hashed else self._lowering.locks.pip(wish)
            op = installing.pip_install(site, pip.venv, pip.python, text, locked)
            self._add(state, op, (state.vertex,), node.key_span, f"PIP {told}")
            self._below = (*self._below, f"pip {pip.venv} {pip.python} {_digest(text)}")
        if texts:
            self._prepend_path(state, f"{pip.venv}/bin")

    def _npm(self, state: StageState, site: installing.Site) -> None:
        npm = self._spec.packages.npm
        node = _maybe(self._node, "packages", "npm")
        if node is None:
            return
        if not isinstance(npm, Npm):
            npm = Npm(install=npm)
        lists = node if isinstance(node.value, list) else node.get("install")
        _check_absolute(npm.dest, "npm's destination", node.span_of("dest"))
        earlier: tuple[str, ...] = ()
        for packages in npm_sets(npm.install, lists):
            # One package.json for all sets so far: what it no longer names, npm would remove.
            every = (*earlier, *packages)
            manifest = installing.npm_manifest(every)
            resolve = installing.npm_resolve(site, npm.dest, manifest)
            wish = self._wish("npm", every, resolve, state.vertex, node.key_span)
            op = installing.npm_install(site, npm.dest, manifest, self._lowering.locks.npm(wish))
            self._add(state, op, (state.vertex,), node.key_span, f"NPM {' '.join(packages)}")
            earlier = every
            self._below = (*self._below, f"npm {npm.dest} {' '.join(packages)}")
        if earlier:
            self._prepend_path(state, f"{npm.dest}/node_modules/.bin")
            state.set_env([("NODE_PATH", f"{npm.dest}/node_modules")])

    def _npm_project(self, state: StageState, site: installing.Site) -> None:
        npm = self._spec.packages.npm
        node = _maybe(self._node, "packages", "npm")
        if node is None or not isinstance(npm, Npm) or not npm.project:
            return
        span = node.span_of("project")
        texts = [
            self._lowering.sources.read(f"{npm.project.rstrip('/') or '.'}/{name}", span)
            for name in ("package.json", "package-lock.json")
        ]
        dest = state.absolute(npm.project_dest or ".")
        if dest == "/":
            raise SpecError(
                "npm's project needs a place", span, hint="set workdir, or project-dest"
            )
        op = installing.npm_install(site, dest.rstrip("/"), *texts)
        self._add(state, op, (state.vertex,), span, f"NPM ci {npm.project}")

    def _wish(
        self,
        manager: str,
        packages: tuple[str, ...],
        resolve: RunOp,
        vertex: Vertex,
        span: SourceSpan,
    ) -> Wish:
        over = lineage([manager, *self._below])
        return Wish(over, packages, resolve, vertex, span)

    # -- users, directories, environment

    def _users(self, state: StageState) -> None:
        if not self._spec.users:
            return
        users = []
        for name, user in sorted(self._spec.users.items()):
            span = self._node.span_of("users", name)
            home = user.home or f"/home/{name}"
            for what, text in (("user", name), *(("group", each) for each in user.groups)):
                if not USER_NAME.fullmatch(text):
                    raise SpecError(
                        f"{text!r} is not the name of a {what}", span,
                        hint="lower case letters, digits, _ and -, at most 32",
                    )  # fmt: skip
            _check_absolute(home, "a home directory", span)
            if any(char in text for text in (home, user.shell, user.comment) for char in ":\n\r"):
                raise SpecError(f"the user {name!r} has a field with a colon or a line's end", span)
            if user.group and user.gid is not None:
                raise SpecError(f"the user {name!r} has a group and a gid: one says it", span)
            users.append(
                NewUser(
                    name, user.uid, user.gid, user.group, tuple(sorted(set(user.groups))),
                    home, user.shell, user.comment,
                )
            )  # fmt: skip
        names = " ".join(user.name for user in users)
        span = self._node.span_of("users")
        self._add(state, UsersOp(tuple(users)), (state.vertex,), span, f"USERS {names}")

    def _workdir(self, state: StageState) -> None:
        if not self._spec.workdir:
            return
        path = state.absolute(self._spec.workdir).rstrip("/") or "/"
        state.set_workdir(path)
        if path == "/":
            state.note(f"WORKDIR {path}")
            return
        owner = self._lowering.spec.user if self._name == FINAL else ""
        span = self._node.span_of("workdir")
        self._add(state, MkdirOp(path, owner), (state.vertex,), span, f"WORKDIR {path}")

    def _env(self, state: StageState) -> None:
        if not self._spec.env:
            return
        before = dict(state.env)
        node = _below(self._node, "env")
        pairs = []
        for name, value in sorted(self._spec.env.items()):
            span = node.span_of(name)
            _check_variable(name, span)
            pairs.append((name, expand_environment(value, before, span)))
        state.set_env(pairs)

    def _prepend_path(self, state: StageState, directory: str) -> None:
        rest = state.env.get("PATH", "")
        state.set_env([("PATH", f"{directory}:{rest}" if rest else directory)])

    # -- files and commands

    def _step(self, state: StageState, step: StageSpec | Step, node: Node) -> None:
        if len(step.files) > MAX_STEPS or (
            len(step.run) > MAX_STEPS and not isinstance(step.run, str)
        ):
            raise limit_exceeded(node.key_span, "too many files or commands", MAX_STEPS)
        for dest, source in sorted(step.files.items()):
            record = FileSource(from_=source) if isinstance(source, str) else source
            self._file(state, dest, record, _below(node, "files", dest))
        commands = [step.run] if isinstance(step.run, str) else step.run
        for index, command in enumerate(commands):
            if not command:
                raise SpecError("a command is empty", node.span_of("run", index))
            record_ = Command(command=command) if isinstance(command, str) else command
            place = node.span_of("run", index)
            self._command(state, record_, place)

    def _file(self, state: StageState, dest: str, source: FileSource, node: Node) -> None:
        span = node.key_span
        patterns = (source.from_,) if isinstance(source.from_, str) else source.from_
        if (source.content is None) == (not patterns):
            raise SpecError(
                f"{dest} needs one of from and content", span,
                hint='"/srv/app" = "app", or "/etc/motd" = { content = "hello" }',
            )  # fmt: skip
        if not dest or any(not pattern for pattern in patterns):
            raise SpecError("a path is empty", span)
        if source.mode:
            _check_mode(source.mode, node.span_of("mode"))
        documents: tuple[Document, ...] = ()
        inputs: tuple[Vertex, ...] = (state.vertex,)
        if source.content is not None:
            if source.stage or source.image or source.exclude or source.unpack:
                raise SpecError("content is the file itself: from nowhere, and whole", span)
            if dest.endswith("/"):
                raise SpecError(f"{dest} is a directory, content is a file", span)
            documents = (Document(dest.rpartition("/")[2], source.content),)
        else:
            inputs = (state.vertex, self._lowering.source(source.stage, source.image, span))
        op = CopyOp(
            sources=tuple(patterns),
            documents=documents,
            dest=state.absolute(dest),
            owner=source.owner,
            mode=source.mode,
            unpack=source.unpack,
            parents=False,
            link=source.link,
            exclude=source.exclude,
        )
        origin = source.stage or source.image
        words = [*patterns, *(["of", origin] if origin else []), *(["to"] if patterns else [])]
        told = " ".join(["FILES", *words, op.dest])
        self._add(state, op, inputs, span, told)

    def _command(self, state: StageState, command: Command, span: SourceSpan) -> None:
        args = _arguments(state, command.command, span)
        for name in command.env:
            _check_variable(name, span)
        env = {**state.env, **command.env}
        mounts = Mounts(self._lowering, state, span)
        op = RunOp(
            args=args,
            env=tuple(f"{name}={value}" for name, value in env.items()),
            cwd=state.absolute(command.workdir or ".").rstrip("/") or "/",
            user=command.user,
            network=self._lowering.options.network and command.network != "none",
            mounts=mounts.lower(command),
            extra_hosts=self._lowering.options.extra_hosts,
            one_id=self._lowering.options.one_id,
        )
        told = command.command if isinstance(command.command, str) else shlex.join(command.command)
        self._add(state, op, (state.vertex, *mounts.inputs), span, f"RUN {told}")

    def _add(
        self,
        state: StageState,
        op: Op,
        inputs: tuple[Vertex, ...],
        span: SourceSpan,
        told: str,
    ) -> None:
        label = f"[{self._name or 'image'}] {' '.join(told.split())}"
        state.add_layer(self._lowering.graph.vertex(op, inputs, span, label, told), told)


def _apply_config(state: StageState, spec: Spec, node: Node) -> None:
    """Set what containers of the image start with."""
    if spec.user:
        state.set_user(spec.user)
    if spec.entrypoint is not None:
        state.set_entrypoint(_arguments(state, spec.entrypoint, node.span_of("entrypoint")))
    if spec.cmd is not None:
        state.set_cmd(_arguments(state, spec.cmd, node.span_of("cmd")))
    if spec.ports:
        state.expose(expand_ports(map(str, spec.ports), node.span_of("ports")))
    if spec.volumes:
        for index, path in enumerate(spec.volumes):
            _check_absolute(path, "a volume", node.span_of("volumes", index))
        state.add_volumes(spec.volumes)
    if spec.labels:
        state.set_labels(sorted(spec.labels.items()))
    if spec.healthcheck is not None:
        _set_healthcheck(state, spec.healthcheck, node)
    if spec.stop_signal:
        if not is_signal(spec.stop_signal):
            raise SpecError(f"{spec.stop_signal!r} is not a signal", node.span_of("stop-signal"))
        state.set_stop_signal(spec.stop_signal)
    if spec.author:
        state.author = spec.author


def _set_healthcheck(state: StageState, health: str | Health, node: Node) -> None:
    span = node.span_of("healthcheck")
    if isinstance(health, str):
        state.set_healthcheck(Healthcheck(span=span, original="HEALTHCHECK NONE", command=None))
        return
    command = health.command
    if not command:
        raise SpecError("the command of the healthcheck is empty", span)
    words = None if isinstance(command, str) else command
    state.set_healthcheck(
        Healthcheck(
            span=span,
            original="HEALTHCHECK",
            command=CommandLine(command if isinstance(command, str) else None, words),
            interval_ns=_duration(health.interval, "interval", node),
            timeout_ns=_duration(health.timeout, "timeout", node),
            start_period_ns=_duration(health.start_period, "start-period", node),
            start_interval_ns=_duration(health.start_interval, "start-interval", node),
            retries=health.retries,
        )
    )


def _duration(text: str, key: str, node: Node) -> int:
    if not text:
        return 0
    value = parse_duration(text)
    if value is None or value < 0 or 0 < value < 1_000_000:
        raise SpecError(
            f"{text!r} is not a duration of at least 1ms", node.span_of("healthcheck", key),
            hint="write 30s, 1m30s or 500ms",
        )  # fmt: skip
    return value


def _arguments(
    state: StageState, command: str | tuple[str, ...], span: SourceSpan
) -> tuple[str, ...]:
    if isinstance(command, str):
        if not command.strip():
            raise SpecError("a command is empty", span)
        return state.with_shell(command)
    return command


def _check_variable(name: str, span: SourceSpan) -> None:
    if not name or "=" in name or not name.isprintable():
        raise SpecError(f"{name!r} cannot be the name of a variable", span)


def _check_mode(text: str, span: SourceSpan) -> None:
    try:
        parse_mode(text)
    except InputError as err:
        raise SpecError(err.message, span, hint=err.hint) from err


def _check_absolute(path: str, what: str, span: SourceSpan) -> None:
    parts = path.split("/")
    if not path.startswith("/") or path.strip("/") in ("", ".") or ".." in parts:
        raise SpecError(f"{path!r} cannot be {what}: expected an absolute path below /", span)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _below(node: Node, *path: str | int) -> Node:
    """Return the value at ``path``, which is there."""
    found = _maybe(node, *path)
    assert found is not None, path
    return found


def _maybe(node: Node, *path: str | int) -> Node | None:
    for step in path:
        value = node.value
        below: Node | None = None
        if isinstance(value, dict) and isinstance(step, str):
            below = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            below = value[step]
        if below is None:
            return None
        node = below
    return node
