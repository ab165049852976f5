"""What an image is for, what its bases must be, and what runs here."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from layerstore.build import foreign
from layerstore.build.base_images import Pull
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.errors import BuildStepError
from layerstore.build.foreign import require_runnable, trial_program
from layerstore.build.platforms import Platform, native_platform, normalized, platform_of
from layerstore.cli.build.bases import spelled_out, with_bases
from layerstore.errors import BuildError, InputError, RegistryError
from layerstore.formats.oci_config import History, ImageConfig
from layerstore.image.images import create_image
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layers.layer_writer import write_layer
from tests.support.build import builder  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path

    from layerstore.store.catalog.rows import ImageRecord
    from tests.support.build import Builder

HOST = Platform("linux", "amd64")
MIPS = Platform("linux", "mips64")
"""Nothing here runs its programs: there is no trial for it."""


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", ("linux", "amd64", "")),
        ("linux/amd64/v1", ("linux", "amd64", "")),
        ("Linux/x86_64/v3", ("linux", "amd64", "v3")),
        ("linux/arm64/v8", ("linux", "arm64", "")),
        ("linux/aarch64", ("linux", "arm64", "")),
        ("linux/armhf", ("linux", "arm", "v7")),
        ("arm64", ("linux", "arm64", "")),
        ("armel", ("linux", "arm", "v6")),
        ("linux", ("linux", "amd64", "")),
        ("windows", ("windows", "amd64", "")),
        ("local", ("linux", "amd64", "")),
    ],
)
def test_words_for_platforms(text, platform):
    assert platform_of(text, HOST) == platform


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "frob", "linux/é"])
def test_what_is_no_platform(text):
    with pytest.raises(InputError, match="is not a platform"):
        platform_of(text, HOST)


def test_lower_variants_serve():
    v6, v7 = normalized("linux", "arm", "v6"), normalized("linux", "armhf")
    assert v6.serves(v7)
    assert not v7.serves(v6)
    assert Platform("linux", "arm").serves(v6)
    assert not HOST.serves(v6)


def test_options_that_may_stand_alone():
    assert spelled_out(["build", "--pull", "."]) == ["build", "--pull=always", "."]
    assert spelled_out(["build", "--pull", "never", "."]) == ["build", "--pull=never", "."]
    assert spelled_out(["build", "--pull=false", "--", "--pull"]) == [
        "build", "--pull=false", "--", "--pull",
    ]  # fmt: skip


def test_programs_of_this_host_run_and_others_are_tried(tmp_path: Path) -> None:
    require_runnable(native_platform())
    for platform in (MIPS, Platform("windows", "amd64")):
        with pytest.raises(BuildError, match=f"cannot run programs of {platform}"):
            require_runnable(platform)
    architecture = native_platform().architecture
    if architecture in foreign._MACHINES:
        program = tmp_path / "trial"
        program.write_bytes(trial_program(architecture))
        program.chmod(0o700)
        assert subprocess.run([program], check=False).returncode == 0


def add_foreign(made: Builder, name: str, platform: Platform) -> ImageRecord:
    with made.store.begin("test") as session:
        layer = write_layer(session, made.store, [_file()])
        return create_image(
            session,
            ImageConfig(architecture=platform.architecture, variant=platform.variant),
            [layer.diff_id],
            [History(created_by="base")],
            names=[name],
            created="2020-01-01T00:00:00Z",
        )


def _file() -> LayerItem:
    from layerstore.formats.tree import Entry, Kind

    return LayerItem(Entry(path=b"d", kind=Kind.DIR, mode=0o755))


def test_an_image_for_another_platform(builder: Builder) -> None:  # noqa: F811
    add_foreign(builder, "foreign", MIPS)
    builder.write({"f": "x"})
    made = builder.build(
        "FROM foreign\nARG TARGETPLATFORM\nARG BUILDPLATFORM\nCOPY f /\n"
        "ENV T=$TARGETPLATFORM B=$BUILDPLATFORM\n",
        platform=MIPS,
    )
    config = builder.config(made)
    assert config.architecture == "mips64"
    assert f"B={native_platform()}" in config.config.env
    assert "T=linux/mips64" in config.config.env
    assert builder.config(builder.build("FROM foreign\nCOPY f /\n")).architecture == "mips64"
    scratch = builder.build("FROM --platform=linux/arm/v7 scratch\nCOPY f /\n")
    assert (builder.config(scratch).architecture, builder.config(scratch).variant) == ("arm", "v7")
    scratch = builder.build("FROM scratch\nCOPY f /\n", platform=MIPS)
    assert builder.config(scratch).architecture == "mips64"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("FROM foreign\n", {"platform": HOST}, "1:1: foreign is an image for linux/mips64"),
        ("FROM --platform=arm64 foreign\n", {}, "1:6: foreign is an image for linux/mips64"),
        ("FROM --platform=frob foreign\n", {}, "'frob' is not a platform"),
        ("FROM foreign\n", {"pulls": Pull.ALWAYS}, "--pull wants 'foreign' from its registry"),
    ],
)
def test_bases_that_do_not_serve(builder: Builder, text, options, message) -> None:  # noqa: F811
    add_foreign(builder, "foreign", MIPS)
    with pytest.raises(SpecError, match=message):
        builder.build(text, **options)


def test_pulling_what_needs_no_registry(builder: Builder) -> None:  # noqa: F811
    builder.write({"f": "x"})
    builder.build("FROM scratch AS a\nCOPY f /\nFROM a\nCOPY --from=a f /g\n", pulls=Pull.ALWAYS)


def test_a_command_that_cannot_run_here(builder: Builder) -> None:  # noqa: F811
    add_foreign(builder, "foreign", MIPS)
    with pytest.raises(BuildStepError, match="2:1: this host cannot run programs of linux/mips64"):
        builder.build("FROM foreign\nRUN true\n")


def test_words_of_the_command_line(builder: Builder) -> None:  # noqa: F811
    from layerstore.build.request import BuildRequest

    request = BuildRequest(context=builder.context)
    assert with_bases(request, [], "missing") == request
    assert with_bases(request, ["linux/arm64,arm64"], "always").platform == ("linux", "arm64", "")
    assert with_bases(request, [], "true").pulls is Pull.ALWAYS
    assert with_bases(request, [], "newer").pulls is Pull.NEWER
    several = with_bases(request, ["linux/arm64", "linux/amd64,arm64"], "missing")
    assert [str(each) for each in several.platforms] == ["linux/arm64", "linux/amd64"]
    with pytest.raises(InputError, match="when to pull"):
        with_bases(request, [], "sometimes")


class Pulls:
    """A registry that has images under two names for any platform."""

    def __init__(self, made: Builder) -> None:
        self._builder = made
        self.asked: list[tuple[str, str]] = []

    def __call__(self, store, reference: str, platform) -> object:
        self.asked.append((reference, str(platform)))
        if reference not in ("remote", "foreign"):
            raise RegistryError(f"{reference} is unknown there")
        return add_foreign(self._builder, f"pulled-{platform.architecture}", platform)


@pytest.mark.parametrize(
    ("policy", "text", "asked"),
    [
        (Pull.MISSING, "FROM stored\n", []),
        (Pull.MISSING, "FROM remote\n", [("remote", str(HOST))]),
        (Pull.MISSING, "FROM remote\nFROM remote\n", [("remote", str(HOST))]),
        (Pull.MISSING, "FROM --platform=linux/arm/v7 foreign\n", [("foreign", "linux/arm/v7")]),
        (Pull.ALWAYS, "FROM foreign\n", [("foreign", str(HOST))]),
        (Pull.NEWER, "FROM stored\n", [("stored", str(HOST))]),
        (Pull.NEVER, "FROM stored\n", []),
    ],
)  # fmt: skip
def test_when_bases_are_pulled(builder: Builder, policy, text, asked) -> None:  # noqa: F811
    add_foreign(builder, "stored", HOST)
    add_foreign(builder, "foreign", MIPS)
    pulls = Pulls(builder)
    builder.build(text, pulls=policy, puller=pulls)
    assert pulls.asked == asked


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Pull.MISSING, "1:1: there is no image 'absent' in the store, and it cannot be pulled: "),
        (Pull.ALWAYS, "1:1: --pull wants 'absent' from its registry, and it cannot be pulled: "),
        (Pull.NEVER, "1:1: there is no image 'absent' in the store$"),
    ],
)
def test_bases_that_nobody_has(builder: Builder, policy, message) -> None:  # noqa: F811
    with pytest.raises(SpecError, match=message):
        builder.build("FROM absent\n", pulls=policy, puller=Pulls(builder))


def test_why_one_for_another_platform_did_not_come(builder: Builder) -> None:  # noqa: F811
    add_foreign(builder, "absent", MIPS)
    message = "1:1: absent is an image for linux/mips64, not for linux/amd64, and it cannot be pull"
    for policy in (Pull.MISSING, Pull.NEWER):
        with pytest.raises(SpecError, match=message):
            builder.build("FROM absent\n", pulls=policy, puller=Pulls(builder), platform=HOST)
    builder.build("FROM absent\n", pulls=Pull.NEWER, puller=Pulls(builder))  # of any platform
