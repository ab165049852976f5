"""The records of a native spec: every key that ``layerstore.toml`` knows, once.

Decoding, the JSON schema for editors and the reference's tables all come from these classes;
keys are written with dashes. Values are as written, with ``{{...}}`` expanded. Immutable.

Reference: docs/reference/layerstore-toml.md.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

_Id = Annotated[int, Meta(ge=0, le=2**32 - 2)]
_Words = tuple[str, ...]
_Command = str | _Words
_Sets = tuple[str | _Words, ...]


def _key(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


class Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=_key):
    """What all tables share."""


class Bootstrap(Record, frozen=True, kw_only=True):
    """A Debian root file system made from packages by mmdebstrap, on first use.

    Attributes:
        suite: ``bookworm``, ``trixie``, ...
        packages: On top of the variant's.
        variant: mmdebstrap's package set.
        mirror: Where packages come from; empty for the default.
        components: Of the archive.
    """

    suite: str
    packages: _Words = ()
    variant: str = "minbase"
    mirror: str = ""
    components: _Words = ("main",)


class BaseSource(Record, frozen=True, kw_only=True):
    """What a stage begins with: exactly one of the keys.

    Attributes:
        image: An image of the store, or scratch.
        stage: Another stage of the spec.
        bootstrap: A new Debian root file system.
    """

    image: str = ""
    stage: str = ""
    bootstrap: Bootstrap | None = None


class Pip(Record, frozen=True, kw_only=True):
    """Python packages, in a virtual environment.

    Attributes:
        install: Requirements as pip reads them, or several lists that become a layer each.
        requirements: A requirements file of the build context, installed before the lists.
        venv: Where the environment lies.
        python: The interpreter that makes it.
    """

    install: _Sets = ()
    requirements: str = ""
    venv: str = "/opt/venv"
    python: str = "python3"


class Npm(Record, frozen=True, kw_only=True):
    """Node packages.

    Attributes:
        install: Packages as npm install reads them, or several lists that become a layer each.
        dest: Where node_modules of those lists lies.
        project: A directory of the build context with package.json and package-lock.json.
        project-dest: Where they are installed; the working directory by default.
    """

    install: _Sets = ()
    dest: str = "/opt/npm"
    project: str = ""
    project_dest: str = ""


class Packages(Record, frozen=True, kw_only=True):
    """What the package managers of the image install, a layer for each list.

    Attributes:
        apt: Debian packages, or several lists of them that become a layer each.
        pip: Python packages.
        npm: Node packages.
    """

    apt: _Sets = ()
    pip: _Sets | Pip = ()
    npm: _Sets | Npm = ()


class UserSpec(Record, frozen=True, kw_only=True):
    """A user to create; the same spec gives the same files, whatever tools the image has.

    Attributes:
        uid: The next free one from 1000 on by default.
        gid: Of the user's own group; the uid if that is free.
        group: Primary group by name, instead of one of the user's own.
        groups: More groups, which must exist.
        home: Home directory, made if missing; empty for /home/NAME.
        shell: Login shell.
        comment: The GECOS field.
    """

    uid: _Id | None = None
    gid: _Id | None = None
    group: str = ""
    groups: _Words = ()
    home: str = ""
    shell: str = "/usr/sbin/nologin"
    comment: str = ""


class FileSource(Record, frozen=True, kw_only=True):
    """What comes to a place in the image: files copied, or content written here.

    Attributes:
        from: Paths or patterns in the build context, the stage or the image.
        stage: Copy from this stage.
        image: Copy from this image.
        content: The file itself.
        owner: ``user[:group]``, names or numbers.
        mode: Octal in quotes, or symbolic as chmod reads it.
        exclude: Patterns of what is left out.
        unpack: Unpack local archives.
        link: The layer depends on nothing below it.
    """

    from_: str | _Words = ()
    stage: str = ""
    image: str = ""
    content: str | None = None
    owner: str = ""
    mode: str = ""
    exclude: _Words = ()
    unpack: bool = False
    link: bool = False


class CacheMount(Record, frozen=True, kw_only=True):
    """A directory that lasts between builds and is in no layer.

    Attributes:
        target: Where the step sees it.
        id: Caches with one id are one directory; the target by default.
        sharing: What happens when two steps want it at once.
        owner: Numbers ``uid[:gid]`` of the directory.
        mode: Octal, in quotes.
    """

    target: str
    id: str = ""
    sharing: Literal["shared", "private", "locked"] = "shared"
    owner: str = ""
    mode: str = ""


class SecretMount(Record, frozen=True, kw_only=True):
    """A value that a step may read and no layer holds.

    Attributes:
        id: As --secret names it.
        target: File; /run/secrets/ID by default.
        env: Variable that holds it, instead of a file or besides.
        required: The build fails without it.
        mode: Of the file: octal, in quotes.
        owner: Numbers ``uid[:gid]`` of the file.
    """

    id: str
    target: str = ""
    env: str = ""
    required: bool = True
    mode: str = ""
    owner: str = ""


class BindMount(Record, frozen=True, kw_only=True):
    """Files that a step sees without a layer holding them.

    Attributes:
        target: Where.
        from: Path in the build context, the stage or the image.
        stage: From this stage.
        image: From this image.
        writable: Writes are allowed, and vanish.
    """

    target: str
    from_: str = "/"
    stage: str = ""
    image: str = ""
    writable: bool = False


class Command(Record, frozen=True, kw_only=True):
    """A command that runs in the image and leaves a layer.

    Attributes:
        command: A string for the shell, or a list of a program and its arguments.
        env: More variables, for this command alone.
        user: Who runs it; root by default.
        workdir: Where; the stage's working directory by default.
        network: none for a loopback only.
        cache: Directories that last between builds.
        secrets: Ids of secrets, found below /run/secrets.
        bind: Files from elsewhere.
        tmpfs: Directories in memory.
    """

    command: _Command
    env: dict[str, str] = {}
    user: str = ""
    workdir: str = ""
    network: Literal["default", "none"] = "default"
    cache: tuple[str | CacheMount, ...] = ()
    secrets: tuple[str | SecretMount, ...] = ()
    bind: tuple[BindMount, ...] = ()
    tmpfs: _Words = ()


class Step(Record, frozen=True, kw_only=True):
    """Files, then commands, after everything that stands outside of ``steps``.

    Attributes:
        files: As the stage's own.
        run: As the stage's own.
    """

    files: dict[str, str | FileSource] = {}
    run: str | tuple[str | Command, ...] = ()


class Health(Record, frozen=True, kw_only=True):
    """How a container's health is asked.

    Attributes:
        command: A string for the shell, or a list.
        interval: Between checks: 30s, 1m30s.
        timeout: Of one check.
        start-period: Failures do not count before.
        start-interval: Between checks until then.
        retries: Failures in a row that make it unhealthy.
    """

    command: _Command
    interval: str = ""
    timeout: str = ""
    start_period: str = ""
    start_interval: str = ""
    retries: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


class StageSpec(Record, frozen=True, kw_only=True):
    """One stage: what its file system holds, in the order of these keys.

    Attributes:
        base: An image, several images combined, or a table that names a stage or a bootstrap.
        packages: What the package managers install.
        users: Users to create, by name.
        env: Environment of commands and containers; {{env.NAME}} is the value so far.
        workdir: Where commands and containers start; made if missing.
        shell: What runs commands that are strings.
        files: By destination: a path in the build context, or a table.
        run: Commands in order.
        steps: More files and commands, in the order of the list.
    """

    base: str | _Words | BaseSource = "scratch"
    packages: Packages = Packages()
    users: dict[str, UserSpec] = {}
    env: dict[str, str] = {}
    workdir: str = ""
    shell: _Words = ()
    files: dict[str, str | FileSource] = {}
    run: str | tuple[str | Command, ...] = ()
    steps: tuple[Step, ...] = ()


class Spec(StageSpec, frozen=True, kw_only=True):
    """An image: its last stage, and what its containers start with.

    Attributes:
        include: Files whose content stands in front of this one's.
        args: Values that --build-arg replaces, used as {{name}}.
        matrix: Lists of values; an image is built for each combination.
        tags: Names of the image.
        stages: Other stages, to copy from or to begin with, by name.
        user: Who the container runs as.
        entrypoint: The program.
        cmd: Its default arguments, or the program.
        ports: Documented ports: 80, "53/udp".
        volumes: Mount points.
        labels: Labels of the image.
        healthcheck: How health is asked; "none" for an inherited check to be off.
        stop-signal: What stops the container.
        author: Of the image.
    """

    include: str | _Words = ()
    args: dict[str, str] = {}
    matrix: dict[str, tuple[str | dict[str, str], ...]] = {}
    tags: _Words = ()
    stages: dict[str, StageSpec] = {}
    user: str = ""
    entrypoint: _Command | None = None
    cmd: _Command | None = None
    ports: tuple[str | int, ...] = ()
    volumes: _Words = ()
    labels: dict[str, str] = {}
    healthcheck: Literal["none"] | Health | None = None
    stop_signal: str = ""
    author: str = ""
