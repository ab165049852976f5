"""Native specs built into images, with real containers where something runs."""

from __future__ import annotations

import io
import json
import os
import subprocess

import pytest

from layerstore.build.api import build, build_all, resolve_lock
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.errors import BuildStepError
from layerstore.build.request import BuildRequest
from layerstore.errors import InputError, LimitExceededError
from layerstore.formats.tree import Entry, Kind
from layerstore.image.layers.layer_item import LayerItem
from tests.support.build import RecordingUi, add_image, box, builder, needs_runc, tree_of
from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar

__all__ = ["box", "builder"]


def request(builder, text: str | None = None, **options: object) -> BuildRequest:
    if text is not None:
        (builder.context / "layerstore.toml").write_text(text)
    return BuildRequest(context=builder.context, **options)  # type: ignore[arg-type]


def built(builder, text: str | None = None, **options: object):
    builder.ui = RecordingUi()
    return build(builder.store, request(builder, text, **options), builder.ui)


def with_files(store, name: str, files: dict[str, bytes], **config: object):
    items = [
        LayerItem(
            Entry(path=path.encode(), kind=Kind.FILE, mode=0o644, size=len(data)),
            lambda data=data: io.BytesIO(data),
        )
        for path, data in sorted(files.items())
    ]
    return add_image(store, name, items, **config)


# -- nothing runs


def test_files_and_users_without_any_tool(builder):
    with_files(builder.store, "base", {"etc/passwd": b"root:x:0:0::/:/\n", "etc/group": b""})
    builder.write({"app/a.py": "1", "app/b.txt": "2", "app/sub/c.py": "3"})
    result = built(
        builder,
        """
base = "base"
tags = ["made:1"]
workdir = "/srv"
user = "app"
[users]
app = { uid = 7 }
[files]
"code/" = { from = "app", exclude = ["*.txt"], owner = "app", mode = "u=rwX,go=" }
"/etc/motd" = { content = "hi\\n" }
""",
    )
    files = builder.files(result)
    assert files["etc/passwd"].content.endswith(b"app:x:7:7::/home/app:/usr/sbin/nologin\n")
    assert (files["home/app"].uid, files["srv"].uid) == (7, 7)
    assert (files["srv/code/sub/c.py"].mode, files["srv/code/a.py"].uid) == (0o600, 7)
    assert "srv/code/b.txt" not in files
    assert files["etc/motd"].content == b"hi\n"
    assert result.names == ("made:1",)
    config = builder.config(result)
    assert config.config.user == "app"
    assert [(step.created_by, step.empty_layer) for step in config.history[1:]] == [
        ("USERS app", False),
        ("WORKDIR /srv", False),
        ("FILES /etc/motd", False),
        ("FILES app to /srv/code/", False),
        ("USER app", True),
    ]
    assert {step.comment for step in config.history[1:]} == {"layerstore.toml.v1"}


def test_nothing_is_done_twice(builder):
    builder.write({"a": "1", "b": "2"})
    text = '[files]\n"/a" = "a"\n"/b" = "b"\n[labels]\nx = "1"'
    first = built(builder, text)
    again = built(builder, '[labels]\nx = "1"\n[files]\n"/b" = "b"\n"/a" = "a"')
    assert again.image_id == first.image_id
    assert again.cached == again.steps == 2
    builder.write({"b": "3"})
    assert built(builder).cached == 1


def test_a_matrix_is_one_build(builder):
    builder.write({"common": "1"})
    text = """
tags = ["app:{{v}}"]
[files]
"/a" = "common"
"/v" = { content = "{{v}}" }
[matrix]
v = ["1", "2", "3"]
"""
    builder.ui = RecordingUi()
    made = build_all(builder.store, request(builder, text), builder.ui)
    assert [(each.label, each.result.names) for each in made] == [
        ("v=1", ("app:1",)), ("v=2", ("app:2",)), ("v=3", ("app:3",)),
    ]  # fmt: skip
    assert made[0].result.steps == 4
    trees = [tree_of(builder.store, each.result.image) for each in made]
    assert [tree["v"].content for tree in trees] == [b"1", b"2", b"3"]
    with pytest.raises(InputError, match="describes 3 images, one was asked for"):
        built(builder)
    assert built(builder, variants=["v=2"]).cached == 2


def test_the_dockerfile_stays_the_default(builder):
    builder.write({"Dockerfile": 'FROM scratch\nCMD ["docker"]'})
    assert builder.config(built(builder, 'cmd = ["native"]')).config.cmd == ("docker",)
    spec = builder.context / "layerstore.toml"
    assert builder.config(built(builder, dockerfile=spec)).config.cmd == ("native",)
    with pytest.raises(InputError, match="is a Dockerfile: it has no variants"):
        built(builder, locked=True)


def test_includes_come_from_the_context_or_beside_the_spec(builder, tmp_path):
    builder.write(
        {"common/a.toml": 'cmd = ["a"]', "web/layerstore.toml": 'include = "../common/a.toml"'}
    )
    web = builder.context / "web/layerstore.toml"
    assert builder.config(built(builder, dockerfile=web)).config.cmd == ("a",)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.toml").write_text('include = "y.toml"')
    (elsewhere / "y.toml").write_text('cmd = ["y"]')
    assert builder.config(built(builder, dockerfile=elsewhere / "x.toml")).config.cmd == ("y",)
    (elsewhere / "x.toml").write_text('include = "../context/common/a.toml"')
    with pytest.raises(SpecError, match="lies outside of"):
        built(builder, dockerfile=elsewhere / "x.toml")


def test_files_that_name_packages_stay_in_the_context(builder, tmp_path):
    (tmp_path / "outside").write_text("flask\n")
    (builder.context / "link").symlink_to("../outside")
    (builder.context / "directory").mkdir()
    os.mkfifo(builder.context / "pipe")
    (builder.context / "big").write_bytes(b"#" * (1 << 20) + b"#")
    (builder.context / "binary").write_bytes(b"\xff")
    for name, reason in {
        "link": "there is no link", "../outside": "there is no ../outside",
        "directory": "is not a file", "pipe": "is not a file", "missing": "there is no missing",
        "binary": "is not UTF-8",
    }.items():  # fmt: skip
        with pytest.raises(SpecError, match=reason):
            built(builder, f'[packages.pip]\nrequirements = "{name}"')
    with pytest.raises(LimitExceededError, match="big is too large"):
        built(builder, '[packages.pip]\nrequirements = "big"')


# -- combined bases


def test_bases_that_bring_different_files(builder):
    with_files(builder.store, "one", {"a": b"1", "same": b"s"}, labels={"l": "1"})
    with_files(builder.store, "two", {"b": b"2", "same": b"s"}, volumes=("/v",))
    result = built(builder, 'base = ["one", "two"]\n[files]\n"/c" = { content = "3" }')
    files = builder.files(result)
    assert {path: files[path].content for path in "abc"} == {"a": b"1", "b": b"2", "c": b"3"}
    config = builder.config(result)
    assert len(config.diff_ids) == sum(not step.empty_layer for step in config.history) == 3
    assert config.config.volumes == ("/v",)
    assert built(builder).cached == 1


def test_bases_that_differ_are_refused_by_name(builder):
    with_files(builder.store, "one", {"a": b"1", "var/lib/dpkg/status": b"one"})
    with_files(builder.store, "two", {"a": b"2", "var/lib/dpkg/status": b"two"})
    with pytest.raises(SpecError) as caught:
        built(builder, 'base = ["one", "two"]')
    assert "layerstore.toml:1:1: cannot combine one, two" in str(caught.value)
    assert "/a, /var/lib/dpkg/status" in str(caught.value)
    assert "[packages]" in caught.value.hint


def test_what_bases_share_is_no_conflict(builder):
    with_files(builder.store, "low", {"shared": b"0"})
    one = built(builder, 'base = "low"\ntags = ["one"]\n[files]\n"/one" = { content = "1" }')
    built(builder, 'base = "low"\ntags = ["two"]\n[files]\n"/two" = { content = "2" }')
    result = built(builder, 'base = ["one", "two"]')
    assert {"shared", "one", "two"} <= set(builder.files(result))
    assert builder.config(result).diff_ids[:2] == builder.config(one).diff_ids


# -- lock files without packages


def test_a_base_is_locked(builder):
    with_files(builder.store, "base", {"a": b"1"})
    spec = request(builder, 'base = "base"')
    with pytest.raises(SpecError, match="there is no lock file"):
        built(builder, locked=True)
    lock = resolve_lock(builder.store, spec, RecordingUi())
    assert lock.path == builder.context / "layerstore.lock"
    lock.path.write_bytes(lock.data)
    built(builder, locked=True)
    assert builder.ui.notices == []
    with_files(builder.store, "base", {"a": b"2"})
    built(builder)
    assert "the base base has other layers than in the lock file" in builder.ui.notices[0]
    with pytest.raises(SpecError, match="has other layers than in the lock file"):
        built(builder, locked=True)


def test_a_dockerfile_has_nothing_to_lock(builder):
    builder.write({"Dockerfile": "FROM scratch"})
    with pytest.raises(InputError, match="cannot be locked"):
        resolve_lock(builder.store, request(builder), RecordingUi())


# -- the command line


def test_on_the_command_line(tmp_path):
    cli = Cli(tmp_path / "store")
    context = tmp_path / "context"
    context.mkdir()
    (context / "layerstore.toml").write_text(
        'tags = ["x:{{v}}"]\ncmd = ["{{v}}", "{{a}}"]\nargs.a = "d"\nmatrix.v = ["1", "2"]\n'
    )
    told = cli.ok("build", context, "--json", "--build-arg", "a=b").json()
    assert [(each["variant"], each["names"]) for each in told] == [
        ("v=1", ["x:1"]), ("v=2", ["x:2"]),
    ]  # fmt: skip
    assert cli.ok("inspect", "x:2").json()[0]["Config"]["Cmd"] == ["2", "b"]
    metadata, iidfile = tmp_path / "metadata", tmp_path / "iid"
    result = cli.ok(
        "build", context, "--variant", "v=2", "--metadata-file", metadata, "--iidfile", iidfile,
        "--build-arg", "nothing=1",
    )  # fmt: skip
    assert "the build argument nothing is declared by no [args]" in result.err
    assert list(json.loads(metadata.read_text())) == ["v=2"]
    assert iidfile.read_text() == result.out.strip()
    assert "would both be y:latest" in cli.fails(2, "build", context, "-t", "y")
    assert "choose a variant: --variant v=1" in cli.fails(
        2, "build", context, "-o", f"type=oci,dest={tmp_path / 'o.tar'}"
    )
    assert "written" in cli.ok("lock", context).err
    assert "is up to date" in cli.ok("lock", context).err
    cli.ok("lock", "--check", context)
    cli.ok("build", "--locked", context)
    (context / "layerstore.lock").write_text("{}")
    assert "out of date" in cli.fails(4, "lock", "--check", context)
    cli.ok("build", "--locked", "--update-lock", context)
    (context / "layerstore.toml").write_text("bse = 1")
    message = cli.fails(2, "build", context)
    assert f"{context}/layerstore.toml:1:1: the spec has no key 'bse'" in message
    assert "hint: did you mean base?" in message
    assert cli.ok("schema").json()["title"] == "layerstore.toml"


def test_checking_needs_no_image(tmp_path):
    cli = Cli(tmp_path / "store")
    context = tmp_path / "context"
    context.mkdir()
    (context / "low.toml").write_text('[env]\nTOKEN = "x"\n')
    spec = context / "layerstore.toml"
    spec.write_text('base = ["a", "b"]\ninclude = "low.toml"\nargs = { a = "1" }\n')
    checked = cli("build", "--check", context)
    assert checked.code == 1
    assert "Check complete, 2 warnings have been found!" in checked.out
    assert "WARNING: UnusedArgument" in checked.out
    assert f"{spec}:3" in checked.out
    assert f"{context}/low.toml:2:1: the variable TOKEN sounds like a secret" in checked.out
    assert not cli.store.exists()
    (context / "low.toml").write_text("")
    spec.write_text('base = { bootstrap = { suite = "bookworm" } }\nrun = "true"\n')
    assert cli.ok("build", "--check", context).out == "Check complete, no warnings found.\n"
    spec.write_text('base = "a"\nrunn = "true"\n')
    assert "did you mean run?" in cli.fails(2, "build", "--check", context)


# -- commands


@pytest.mark.parametrize("mark", [pytest.param("", marks=needs_runc)])
def test_commands_run_as_they_say(box, mark):
    box.write({"src/a": "context"})
    result = built(
        box,
        """
base = "box"
workdir = "/work"
env = { A = "1" }
users = { app = { uid = 1234 } }
run = [
  "echo $A $B $(pwd) $(id -u) > out",
  { command = "id -u > /tmp/who; cat /run/secrets/key > /tmp/copied", user = "app", \
secrets = [{ id = "key", mode = "0444" }] },
  { command = ["/bin/sh", "-c", "cat /src/a >> out"], bind = [{ from = "src", target = "/src" }] },
  { command = "echo x >> /cache/n; wc -l < /cache/n > n", cache = ["/cache"] },
]
[files]
"/from-stage" = { stage = "other", from = "/made" }
[stages.other]
base = "box"
run = "echo other > /made"
""",
        secrets={"key": b"secret"},
    )
    files = box.files(result)
    assert files["work/out"].content == b"1 /work 0\ncontext"
    assert files["tmp/who"].content == b"1234\n"
    assert files["tmp/copied"].content == b"secret"
    assert files["work/n"].content == b"1\n"
    assert files["from-stage"].content == b"other\n"
    assert "src" not in files
    assert built(box, secrets={"key": b"secret"}).cached == result.steps


@pytest.mark.parametrize("mark", [pytest.param("", marks=needs_runc)])
def test_a_failing_command_is_told_at_its_place(box, mark):
    with pytest.raises(BuildStepError) as caught:
        built(box, 'base = "box"\nrun = [\n  "true",\n  "exit 3",\n]')
    assert "layerstore.toml:4:3: 'RUN exit 3' ended with exit status 3" in str(caught.value)


@pytest.mark.parametrize("mark", [pytest.param("", marks=needs_runc)])
def test_packages_say_what_the_image_lacks(box, mark):
    for manager in ("apt", "pip", "npm"):
        with pytest.raises(BuildStepError):
            built(box, f'base = "box"\npackages.{manager} = ["x1"]')
        assert f"packages.{manager} needs" in box.ui.text.decode()


@pytest.mark.parametrize("mark", [pytest.param("", marks=[*needs_runc, pytest.mark.network])])
def test_a_locked_image_is_the_same_in_two_stores(tmp_path, mark):
    context = tmp_path / "context"
    context.mkdir()
    (context / "layerstore.toml").write_text(
        'base = "debian:bookworm"\ntags = ["made"]\nusers = { app = {} }\n'
        'packages.apt = [["nginx-light"]]\nrun = "nginx -v 2> /version"\n'
    )
    ids = []
    for number in range(2):
        cli = Cli(tmp_path / f"store-{number}")
        epoch = {"SOURCE_DATE_EPOCH": "1700000000"}
        cli.ok("import", debian_base_tar(), "-t", "debian:bookworm", **epoch)
        if not number:
            locked = cli("lock", context, timeout_s=280)
            if "Could not resolve" in locked.err:
                pytest.skip("no Debian mirror can be reached from a build")
            assert locked.code == 0, locked
        made = cli.ok("build", "--locked", context, **epoch)
        ids.append(made.out)
        other = cli.ok("build", "--locked", "--json", context, **epoch)
        assert other.json()["cached"] == other.json()["steps"] == 3
    assert ids[0] == ids[1]
    lock = json.loads((context / "layerstore.lock").read_text())
    names = [each["name"] for each in lock["apt"][0]["install"]]
    assert "nginx-light" in names
    view = tmp_path / "view"
    view.mkdir()
    cli.ok("mount", "made", view)
    try:
        states = (view / "var/lib/apt/extended_states").read_text()
        assert "Package: nginx-light" not in states
        assert not list((view / "var/log/apt").iterdir())
        assert (view / "version").read_text().startswith("nginx version")
    finally:
        subprocess.run(["umount", view], check=True)
        cli("umount", "--all", "--lazy")
