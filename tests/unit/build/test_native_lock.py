"""Lock files: canonical, strict, and found by what was asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.errors import BuildStepError
from layerstore.build.graph import BaseOp, RunOp
from layerstore.build.ignore import IgnoreRules
from layerstore.build.native.lockfile import (
    Apt,
    AptPackage,
    Base,
    FileLocks,
    Lock,
    Npm,
    Pip,
    PipPackage,
    chain_text,
    decode,
    encode,
)
from layerstore.build.native.locking import ResolvingLocks
from layerstore.build.native.schema import schema
from layerstore.build.native.sources import StoreSources
from layerstore.errors import FormatError, UnsupportedVersionError
from layerstore.store.store import Store
from tests.support.native import FakeSources, image, layer, lowered
from tests.support.store import add_image

SHA = "0" * 64
DEB = AptPackage(
    name="curl", version="1:7", file="curl_1%3a7_amd64.deb", uri="http://x/curl.deb", size=5,
    sha256=SHA,
)  # fmt: skip
SPEC = """
base = "debian"
[packages]
apt = [["npm"], ["curl"]]
pip = ["flask"]
npm = ["express"]
"""
PIP_REPORT = {
    "version": "1",
    "install": [
        {
            "metadata": {"name": "Flask", "version": "3.0"},
            "download_info": {"url": "http://x", "archive_info": {"hashes": {"sha256": SHA}}},
        }
    ],
}
NPM_LOCK = {"lockfileVersion": 3, "packages": {"node_modules/express": {"version": "4.1.0"}}}


class Managers:
    """Answers resolving steps as the package managers would."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.apt = f"http://x/{{0}}.deb {{0}}_1_amd64.deb 10 {SHA}\n"
        self.pip: object = PIP_REPORT
        self.npm: object = NPM_LOCK
        self._op: RunOp | None = None

    def solve(self, vertex):
        self._op = vertex.op
        return vertex.inputs[0].op.layers if hasattr(vertex.inputs[0].op, "layers") else ()

    def read(self, layers, path):
        op = self._op
        script, words = op.args[2], op.args[4:]
        self.asked.append(" ".join(words))
        if "apt-get" in script:
            return "".join(self.apt.format(word) for word in words).encode()
        return json.dumps(self.pip if "--dry-run" in script else self.npm).encode()


@pytest.fixture
def managers() -> Managers:
    return Managers()


def resolved(managers: Managers, text: str = SPEC, **options: object) -> Lock:
    locks = ResolvingLocks(managers.solve, managers.read, "now")
    lowered(text, locks=locks, **options)
    return locks.lock()


def test_what_is_resolved_is_what_is_installed(managers):
    lock = resolved(managers)
    assert [each.packages for each in lock.apt] == [("npm",), ("curl",)]
    assert lock.pip[0].install == (PipPackage(name="flask", version="3.0", sha256=SHA),)
    locks = FileLocks(decode(encode(lock), "f"))
    made = lowered(SPEC, locks=locks)
    assert locks.missing == {}
    curl, pip, npm = [
        next(op for op in made.ops if isinstance(op, RunOp) and word in str(op))
        for word in ("curl_1_amd64.deb", "--require-hashes", "npm ci")
    ]
    assert curl.args[4:] == ("curl", "http://x/curl.deb", SHA, "curl_1_amd64.deb")
    assert pip.mounts[1].content == f"flask==3.0 --hash=sha256:{SHA}\n"
    assert json.loads(npm.mounts[2].content) == NPM_LOCK


def test_resolving_goes_over_what_was_just_resolved(managers):
    """The steps in front are the very ones that the next build has."""
    vertices = []
    locks = ResolvingLocks(
        lambda vertex: vertices.append(vertex) or managers.solve(vertex), managers.read, "now"
    )
    lowered(SPEC, locks=locks)
    made = lowered(SPEC, locks=FileLocks(locks.lock()))
    below_pip = next(each for each in vertices if "--dry-run" in str(each.op)).inputs[0].op
    assert below_pip in made.ops


def test_a_lock_file_answers_while_the_question_is_the_same(managers):
    lock = resolved(managers)

    def missing(text: str, sources: FakeSources | None = None) -> list[str]:
        locks = FileLocks(lock)
        lowered(text, locks=locks, sources=sources)
        return list(locks.missing)

    assert missing(SPEC + '[env]\nA = "1"\n[labels]\nb = "c"') == []
    assert missing(SPEC.replace('["npm"]', '["npm", "npm"]')) == []
    assert missing(SPEC.replace('"flask"', '"flask", "gunicorn"')) == [
        "pip flask gunicorn is not in the lock file"
    ]
    changed = missing(SPEC.replace('["curl"]', '["git"]'))
    assert changed[0] == "apt git is not in the lock file"
    assert len(changed) == 3  # pip and npm stand over it
    sources = FakeSources()
    sources.images["debian"] = image(9)
    assert missing(SPEC, sources)[0] == "the base debian has other layers than in the lock file"


def test_a_base_is_the_one_that_its_registry_gave(managers):
    digest = "sha256:" + "d" * 64
    sources = FakeSources()
    sources.digests["debian"] = digest
    lock = resolved(managers, sources=sources)
    assert lock.bases == (Base(name="debian", layers=str(sources_chain(1)), digest=digest),)
    sources.images["debian"] = image(9)  # the tag means another image now
    sources.images[f"debian@{digest}"] = image(1)
    locks = FileLocks(lock)
    made = lowered(SPEC, locks=locks, sources=sources)
    assert locks.missing == {}
    assert BaseOp((layer(1),)) in made.ops
    # What the registry gives under the digest is compared, too.
    sources.images[f"debian@{digest}"] = image(8)
    locks = FileLocks(lock)
    lowered(SPEC, locks=locks, sources=sources)
    assert "the base debian has other layers than in the lock file" in locks.missing
    del sources.images[f"debian@{digest}"]
    with pytest.raises(SpecError, match=f"no image 'debian@{digest}'"):
        lowered(SPEC, locks=FileLocks(lock), sources=sources)
    # Layers are what counts: whoever imported the same image needs no registry.
    sources.images["debian"] = image(1)
    locks = FileLocks(lock)
    lowered(SPEC, locks=locks, sources=sources)
    assert locks.missing == {}


def sources_chain(*layers: int) -> str:
    return chain_text(image(*layers).diff_ids)


def test_the_stores_digest_of_a_base(tmp_path):
    digests = [f"sha256:{letter * 64}" for letter in "cab"]
    put = add_image(tmp_path, "debian:latest", {b"f": b"1"})
    other = add_image(tmp_path, "x:1", {b"f": b"2"})
    with Store.open(tmp_path) as store:
        store.name_document(f"debian@{digests[0]}", put.image_id)
        store.name_document(f"debian@{digests[1]}", put.image_id)
        store.name_document(f"ubuntu@sha256:{'0' * 64}", put.image_id)
        sources = StoreSources(store, None, IgnoreRules(), now="", tell=lambda _: None)
        assert sources.registry_digest("debian") == digests[1]
        assert sources.registry_digest("x:1") == ""
        assert sources.has_base("debian", chain_text(put.layers))
        assert not sources.has_base("debian", chain_text(other.layers))
        assert not sources.has_base("nothing", chain_text(put.layers))


def test_lock_files_of_the_first_version_are_read():
    old = json.loads(encode(FULL))
    for base in old["bases"]:
        del base["digest"]
    old["version"] = 1
    assert encode(decode(json.dumps(old).encode(), "f")) == encode(FULL)
    old["bases"][0]["digest"] = "sha256:" + "0" * 64
    with pytest.raises(FormatError, match="no digests in version 1"):
        decode(json.dumps(old).encode(), "f")


def test_variants_share_answers(managers):
    text = 'base = "debian"\npackages.apt = ["curl"]\nrun = "{{v}}"\n[matrix]\nv = ["1", "2"]'
    assert len(resolved(managers, text).apt) == 1
    assert managers.asked == ["curl"]


def test_a_requirements_file_with_hashes_is_locked_already(managers):
    sources = FakeSources()
    sources.files["r.txt"] = f"flask==1 --hash=sha256:{SHA}\n"
    text = 'base = "debian"\n[packages.pip]\nrequirements = "r.txt"'
    assert resolved(managers, text, sources=sources).pip == ()
    sources.files["r.txt"] = "flask\n"
    assert len(resolved(managers, text, sources=sources).pip) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"apt": "nonsense\n"}, "apt's answer has the line 'nonsense'"),
        ({"pip": []}, "is no JSON object"),
        ({"pip": {"install": [{"metadata": {}}]}}, "pip's answer is strange"),
        (
            {
                "pip": {
                    "install": [
                        {"metadata": {"name": "a", "version": "1"}, "download_info": {"url": "g"}}
                    ]
                }
            },
            "a 1 has no digest: only packages from an index can be locked",
        ),
        ({"npm": 5}, "is no JSON object"),
    ],
)
def test_strange_answers_are_told_at_the_place_that_asked(managers, change, reason):
    for name, value in change.items():
        setattr(managers, name, value)
    with pytest.raises(BuildStepError) as caught:
        resolved(managers)
    assert reason in str(caught.value)
    assert str(caught.value).startswith("layerstore.toml:")


FULL = Lock(
    bases=(Base(name="b", layers="sha256:1"), Base(name="a", layers="sha256:2")),
    apt=(Apt(over="sha256:x", packages=("curl",), install=(DEB,)),),
    pip=(Pip(over="sha256:x", requirements="flask\n", install=()),),
    npm=(Npm(over="sha256:x", packages=("é@1",), lock={"b": 1, "a": [None, 1.5, True]}),),
)


def test_one_set_of_entries_has_one_text():
    data = encode(FULL)
    turned = msgspec.structs.replace(FULL, bases=FULL.bases[::-1])
    assert encode(turned) == data
    assert encode(decode(data, "f")) == data
    assert data.endswith(b"}\n")


def changed(**members: object) -> bytes:
    return json.dumps({**json.loads(encode(FULL)), **members}).encode()


def with_deb(**members: object) -> bytes:
    entry = json.loads(encode(FULL))["apt"][0]
    entry["install"][0].update(members)
    return changed(apt=[entry])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}x",
        b"[]",
        b'{"version": 1, "version": 1}',
        changed(version="1"),
        changed(version=0),
        changed(bases=[{"name": "a", "layers": "x", "digest": "sha256:../x"}]),
        changed(version=True),
        changed(unknown=1),
        changed(apt=[{}]),
        changed(apt=json.loads(encode(FULL))["apt"] * 2),
        changed(bases=[{"name": "a", "layers": "x"}, {"name": "a", "layers": "y"}]),
        with_deb(file="../../etc/x.deb"),
        with_deb(file="-o.deb"),
        with_deb(file="a b.deb"),
        with_deb(file="a.deb;id"),
        with_deb(uri="http://x/ -oDebug=1"),
        with_deb(uri="-oDebug=1"),
        with_deb(uri="http://x/\n"),
        with_deb(sha256="x"),
        with_deb(sha256=SHA + "\n"),
        changed(
            pip=[
                {
                    "over": "x", "requirements": "",
                    "install": [{"name": "a\n--index-url", "version": "1", "sha256": SHA}],
                }
            ]
        ),
        changed(
            pip=[
                {
                    "over": "x", "requirements": "",
                    "install": [{"name": "a", "version": "1 --pre", "sha256": SHA}],
                }
            ]
        ),
    ],
)  # fmt: skip
def test_damaged_lock_files_are_refused(data):
    with pytest.raises(FormatError) as caught:
        decode(data, "the.lock")
    assert "the.lock" in str(caught.value)


def test_newer_lock_files_are_named_as_such():
    with pytest.raises(UnsupportedVersionError, match="has version 3"):
        decode(changed(version=3), "f")


def test_the_schema_beside_the_reference_is_the_one_of_the_records():
    path = Path(__file__).parents[3] / "docs/reference/layerstore.schema.json"
    assert json.loads(path.read_text()) == json.loads(json.dumps(schema())), (
        "run: layerstore schema > docs/reference/layerstore.schema.json"
    )


def test_every_key_of_the_schema_is_described():
    made = schema()
    for name, definition in {"layerstore.toml": made, **made["$defs"]}.items():
        for key, member in definition["properties"].items():
            assert "description" in member, f"{name}: {key}"


def test_every_key_is_in_the_reference():
    page = (Path(__file__).parents[3] / "docs/reference/layerstore-toml.md").read_text()
    made = schema()
    keys = {key for each in (made, *made["$defs"].values()) for key in each["properties"]}
    prose = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"[a-z][a-z-]*", " ".join(re.findall(r"`([^`\n]+)`", prose))))
    assert keys - named == set()
