"""One build for several platforms: one graph, an image for each, one index."""

from __future__ import annotations

import io
import json
import tarfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from layerstore.build.api import build_all, plan_build
from layerstore.build.attest import Attestations
from layerstore.build.outputs import Output, OutputKind
from layerstore.build.platforms import Platform
from layerstore.build.request import BuildRequest
from layerstore.cli.build.told import leave_files
from layerstore.errors import InputError
from layerstore.image.exchange.attestations import PROVENANCE_TYPE
from layerstore.image.exchange.indexes import find_index
from tests.support.build import RecordingUi, builder, tree_of  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from layerstore.build.request import BuiltVariant
    from tests.support.build import Builder

BOTH = (Platform("linux", "amd64"), Platform("linux", "arm64"))
DOCKERFILE = """\
FROM scratch AS common
COPY shared /
FROM scratch
ARG TARGETARCH
COPY --from=common /shared /
COPY bin/$TARGETARCH /program
"""


@pytest.fixture
def project(builder: Builder) -> Builder:  # noqa: F811
    builder.write({"shared": "s", "bin/amd64": "x86", "bin/arm64": "arm"})
    return builder


def requested(project: Builder, *outputs: Output, **options: object) -> BuildRequest:
    return BuildRequest(
        context=project.context,
        dockerfile=project.directory / "Dockerfile",
        dockerfile_text=DOCKERFILE.encode(),
        outputs=outputs or (Output(kind=OutputKind.IMAGE),),
        platforms=options.pop("platforms", BOTH),
        **options,  # type: ignore[arg-type]
    )


def built(project: Builder, *outputs: Output, **options: object) -> list[BuiltVariant]:
    project.ui = RecordingUi()
    return build_all(project.store, requested(project, *outputs, **options), project.ui)


def layout(directory: Path) -> Output:
    return Output(kind=OutputKind.OCI, directory=directory)


def blob(directory: Path, digest: str) -> dict:
    return json.loads((directory / "blobs/sha256" / digest.partition(":")[2]).read_text())


def test_an_index_of_an_image_for_each(project: Builder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = built(project, layout(out), tags=("app:1",))
    assert [each.label for each in made] == ["linux/amd64", "linux/arm64"]
    (entry,) = json.loads((out / "index.json").read_text())["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == "docker.io/library/app:1"
    assert {each.result.descriptor.digest for each in made} == {entry["digest"]}
    index = blob(out, entry["digest"])
    assert [each["platform"]["architecture"] for each in index["manifests"]] == ["amd64", "arm64"]
    for each, variant in zip(index["manifests"], made, strict=True):
        config = blob(out, blob(out, each["digest"])["config"]["digest"])
        assert config["architecture"] == each["platform"]["architecture"]
        assert not variant.result.is_stored
    assert project.store.images() == []


def test_what_all_have_in_common_runs_once(project: Builder, tmp_path: Path) -> None:
    first, second = built(project, layout(tmp_path / "out"))
    assert project.ui.ran == [
        "COPY shared /", "COPY --from=common /shared /", "COPY bin/$TARGETARCH /program",
        "COPY bin/$TARGETARCH /program",
    ]  # fmt: skip
    assert project.ui.cached == ["COPY shared /", "COPY --from=common /shared /"]
    labels = {step.label for step in (*first.result.made, *second.result.made)}
    assert "[linux/amd64 common 2/2] COPY shared /" in labels
    assert "[linux/arm64 stage-1 3/3] COPY bin/$TARGETARCH /program" in labels


def test_attestations_stand_behind_the_images(project: Builder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wanted = Attestations(provenance="max")
    made = built(project, layout(out), tags=("app:1",), attestations=wanted)
    (entry,) = json.loads((out / "index.json").read_text())["manifests"]
    *images, first, second = blob(out, entry["digest"])["manifests"]
    for image, attested in zip(images, (first, second), strict=True):
        assert attested["annotations"]["vnd.docker.reference.digest"] == image["digest"]
    for each, platform in zip(made, ("linux/amd64", "linux/arm64"), strict=True):
        predicate = json.loads(each.result.predicates[PROVENANCE_TYPE])
        args = predicate["buildDefinition"]["externalParameters"]["request"]["args"]
        assert args["platform"] == platform


def test_files_of_one_platform_lie_in_a_folder_when_that_is_asked_for(
    project: Builder, tmp_path: Path
) -> None:
    outs = [
        Output(kind=OutputKind.LOCAL, directory=tmp_path / str(splits), splits=splits)
        for splits in (True, False, None)
    ]
    built(project, *outs, platforms=BOTH[1:])
    assert (tmp_path / "True/linux_arm64/program").read_bytes() == b"arm"
    assert (tmp_path / "False/program").read_bytes() == b"arm"
    assert (tmp_path / "None/program").read_bytes() == b"arm"


def test_a_metadata_file_has_the_index_where_buildx_has_it(
    project: Builder, tmp_path: Path
) -> None:
    made = built(project, layout(tmp_path / "out"), tags=("app:1",))
    leave_files(made, None, tmp_path / "metadata.json")
    told = json.loads((tmp_path / "metadata.json").read_text())
    digest = made[0].result.descriptor.digest
    assert told["containerimage.digest"] == told["containerimage.descriptor"]["digest"] == digest
    assert told["image.name"] == "docker.io/library/app:1"
    assert "containerimage.config.digest" not in told
    for each in made:
        assert told[each.label]["containerimage.config.digest"] == each.result.image_id


def test_files_lie_in_a_folder_for_each(project: Builder, tmp_path: Path) -> None:
    written = io.BytesIO()

    @contextmanager
    def stream() -> Iterator[io.BytesIO]:
        yield written

    out = tmp_path / "out"
    built(
        project,
        Output(kind=OutputKind.LOCAL, directory=out),
        Output(kind=OutputKind.TAR, stream=stream),
    )
    expected = {
        "linux_amd64/program": b"x86", "linux_amd64/shared": b"s",
        "linux_arm64/program": b"arm", "linux_arm64/shared": b"s",
    }  # fmt: skip
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == expected
    written.seek(0)
    with tarfile.open(fileobj=written) as archive:
        files = [member for member in archive if member.isfile()]
        assert {m.name: archive.extractfile(m).read() for m in files} == expected


def test_in_the_store_a_name_is_for_all_or_for_one(project: Builder, tmp_path: Path) -> None:
    first, second = built(
        project, layout(tmp_path / "out"), Output(kind=OutputKind.IMAGE), tags=("app:1",)
    )
    index = find_index(project.store, "app:1")
    assert index is not None
    images = [first.result.image, second.result.image]
    assert [each.image_id for each in index.images.values()] == [each.image_id for each in images]
    assert {each.result.descriptor.digest for each in (first, second)} == {index.document.digest}
    built(project, tags=("app:1-{{TARGETARCH}}",))
    for name, content in (("app:1-amd64", b"x86"), ("app:1-arm64", b"arm")):
        assert find_index(project.store, name) is None
        files = tree_of(project.store, project.store.resolve(name))
        assert files["program"].content == content


@pytest.mark.parametrize(
    ("outputs", "options", "message"),
    [
        ((Output(kind=OutputKind.DOCKER),), {}, "docker load takes an image for one platform"),
        ((Output(kind=OutputKind.LOCAL, splits=False),), {}, "cannot lie in one place"),
        ((), {"tags": ("app:{{ARCH}}",)}, "the name app:{{ARCH}}: nothing defines"),
    ],
)
def test_what_has_no_room_for_several(
    project: Builder, outputs: tuple[Output, ...], options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        built(project, *outputs, **options)


def test_commands_that_are_for_one_image_say_so(project: Builder) -> None:
    with pytest.raises(InputError, match="for 2 platforms, one was asked for"):
        build_all(project.store, requested(project), RecordingUi(), at_most=1)
    plan = plan_build(project.store, requested(project))
    assert len([each for each in plan if each.number]) == 6
