"""The command line end to end over a small root file system."""

import io
import json
import os
import re
import signal
import subprocess
import tarfile
import time

import pytest

from tests.support.cli import Cli

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
CREATED = "2023-11-14T22:13:20Z"
IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")


@pytest.fixture
def cli(tmp_path):
    return Cli(tmp_path / "store")


@pytest.fixture
def rootfs(tmp_path):
    root = tmp_path / "rootfs"
    (root / "etc").mkdir(parents=True)
    (root / "bin").mkdir()
    (root / "etc" / "motd").write_text("hello\n")
    (root / "bin" / "program").write_bytes(b"\x7fELF" + os.urandom(300_000))
    (root / "bin" / "link").symlink_to("program")
    os.link(root / "bin" / "program", root / "bin" / "hard")
    for path in [*root.rglob("*"), root]:
        os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)
    return root


@pytest.fixture
def rootfs_tar(rootfs, tmp_path):
    path = tmp_path / "rootfs.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(rootfs, ".")
    return path


def test_from_import_to_gc(cli, rootfs, rootfs_tar, tmp_path):
    imported = cli.ok("import", rootfs_tar, "-t", "web:1", **EPOCH)
    assert IMAGE_ID.fullmatch(imported.out.strip())
    assert "web:1: 300kB of files" in imported.err

    table = cli.ok("images").lines
    assert table[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert table[1].startswith(f"web          1     {imported.out[7:19]}   ")
    assert table[1].endswith("300kB")

    (told,) = cli.ok("inspect", "web:1").json()
    assert told["Id"] == imported.out.strip()
    assert (told["RepoTags"], told["Created"], told["Os"]) == (["web:1"], CREATED, "linux")

    (step,) = cli.ok("history", "web:1", "--json").json()
    assert step["created_by"] == "layerstore import rootfs.tar"
    assert step["size"] == told["Size"]

    cli.ok("tag", "web:1", "docker.io/library/web")
    assert cli.ok("images", "-q").lines == [imported.out[7:19]]
    (image,) = cli.ok("images", "--json").json()
    assert image["names"] == ["web:1", "web:latest"]

    exported = tmp_path / "exported.tar"
    cli.ok("export", "web", "-o", exported)
    with tarfile.open(exported) as archive:
        member = archive.getmember("etc/motd")
        assert archive.extractfile(member).read() == b"hello\n"
        assert archive.getmember("bin/hard").islnk() != archive.getmember("bin/program").islnk()

    layout = tmp_path / "layout"
    assert cli.ok("save", "web:1", "-o", layout).out == f"oci:{layout}:1\n"
    assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}

    assert cli.ok("rm", "web:1").out == "Untagged: web:1\n"
    assert cli.ok("check", "--read-data").out.startswith("ok, all bytes read: 1 image, 1 layer, ")
    assert cli.ok("rm", "web").lines == ["Untagged: web:latest", f"Deleted: {told['Id']}"]
    assert cli.ok("images", "--json").json() == []
    planned = cli.ok("gc", "--dry-run", "--json").json()
    done = cli.ok("gc", "--json").json()
    assert planned["freed_bytes"] == done["freed_bytes"] > 300_000
    assert cli.ok("gc", "--json").json()["freed_bytes"] == 0
    assert cli.ok("check").out.startswith("ok, structure only: 0 images, 0 layers, 0 packs")


def test_directory_stdin_and_file_agree(cli, rootfs, rootfs_tar):
    cli.ok("import", rootfs_tar, "-t", "file", **EPOCH)
    cli.ok("import", "-", "-t", "stdin", stdin=rootfs_tar.read_bytes(), **EPOCH)
    cli.ok("import", rootfs, "-t", "directory", **EPOCH)
    told = cli.ok("inspect", "file", "stdin", "directory").json()
    assert told[0]["RootFS"] == told[1]["RootFS"]
    assert told[0]["Size"] == told[2]["Size"]


def test_directory_import_is_reproducible(cli, rootfs):
    ids = {cli.ok("import", rootfs, "-q", **EPOCH).out for _ in range(2)}
    assert len(ids) == 1


def test_import_says_nothing_of_the_host(cli, rootfs, tmp_path):
    cli.ok("import", rootfs, "-t", "x:1")
    assert str(tmp_path) not in cli.ok("inspect", "x:1").out
    assert str(tmp_path) not in cli.ok("history", "x:1", "--no-trunc").out


def test_import_changes_and_message(cli, rootfs_tar):
    changes = ['CMD ["run", "it"]', "ENV A=1", "ENV B=$A/b", "USER www", "WORKDIR /srv"]
    changes += ["LABEL a.b=c", "EXPOSE 80", "VOLUME /data", 'ENTRYPOINT ["/init"]']
    changes += ["STOPSIGNAL SIGQUIT", "ONBUILD RUN true", "HEALTHCHECK CMD true"]
    options = [word for change in changes for word in ("-c", change)]
    cli.ok("import", rootfs_tar, "-t", "x:1", "-m", "made by hand", *options)
    (told,) = cli.ok("inspect", "x:1").json()
    config = told["Config"]
    assert config["Env"][-2:] == ["A=1", "B=1/b"]
    assert (config["Cmd"], config["Entrypoint"]) == (["run", "it"], ["/init"])
    assert (config["User"], config["WorkingDir"]) == ("www", "/srv")
    assert (config["Labels"], config["ExposedPorts"]) == ({"a.b": "c"}, {"80/tcp": {}})
    assert (config["Volumes"], config["OnBuild"]) == ({"/data": {}}, ["RUN true"])
    assert config["StopSignal"] == "SIGQUIT"
    assert config["Healthcheck"] == {"Test": ["CMD-SHELL", "true"]}
    assert told["Comment"] == "made by hand"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("RUN true", "RUN needs a build"),
        ("COPY a b", "COPY needs a build"),
        ("FROM x", "FROM"),
        ("NONSENSE", "NONSENSE"),
    ],
)
def test_changes_that_need_a_build_are_refused(cli, rootfs_tar, change, message):
    assert message in cli.fails(2, "import", rootfs_tar, "-t", "x:1", "-c", change)
    assert not cli.store.exists()


def test_compressed_tars_are_imported(cli, rootfs_tar, tmp_path):
    plain = rootfs_tar.read_bytes()
    for tool in ("gzip", "bzip2", "xz"):
        packed = subprocess.run([tool, "-c"], input=plain, capture_output=True, check=True).stdout
        cli.ok("import", "-", "-t", f"x:{tool}", stdin=packed, **EPOCH)
    told = cli.ok("inspect", "x:gzip", "x:bzip2", "x:xz").json()
    assert len({image["Id"] for image in told}) == 1


def test_what_is_imported_may_be_for_another_platform(cli, rootfs_tar):
    cli.ok("import", "--platform", "linux/arm/v7", rootfs_tar, "arm:1")
    asked = "{{.Os}} {{.Architecture}} {{.Variant}}"
    assert cli.ok("inspect", "-f", asked, "arm:1").out == "linux arm v7\n"
    for word in ("windows/amd64", "what/is/this/now"):
        cli.fails(2, "import", "--platform", word, rootfs_tar, "x:1")


def test_ids_and_prefixes_name_images(cli, rootfs_tar):
    image_id = cli.ok("import", rootfs_tar, "-t", "x:1").out.strip()
    for reference in (image_id, image_id[7:], image_id[7:19], "docker.io/library/x:1"):
        assert cli.ok("inspect", reference).json()[0]["Id"] == image_id


def test_the_status_tells_whether_there_is_an_image(cli, rootfs_tar):
    assert cli("image", "exists", "x:1") == (1, "", "")  # and no store
    cli.ok("import", rootfs_tar, "-t", "x:1")
    assert cli.ok("image", "exists", "x:1").out == ""
    assert cli("image", "exists", "x:2") == (1, "", "")


def test_rm_by_id_tells_a_few_of_many_names(cli, rootfs_tar):
    names = [word for number in range(10, 16) for word in ("-t", f"x:{number}")]
    image_id = cli.ok("import", rootfs_tar, *names).out.strip()
    assert "has 6 names: x:10, x:11, x:12 and 3 more\n" in cli.fails(4, "rm", image_id)


def test_rm_by_id_with_several_names_needs_force(cli, rootfs_tar):
    image_id = cli.ok("import", rootfs_tar, "-t", "x:1", "-t", "x:2").out.strip()
    assert "has 2 names: x:1, x:2" in cli.fails(4, "rm", image_id)
    assert "would" not in cli.ok("rm", "--dry-run", "x:1").err
    assert len(cli.ok("images").lines) == 3
    removed = cli.ok("rm", "--force", image_id).lines
    assert removed == ["Untagged: x:1", "Untagged: x:2", f"Deleted: {image_id}"]


def test_a_dry_run_counts_an_image_that_is_named_twice_once(cli, rootfs_tar):
    image_id = cli.ok("import", rootfs_tar, "-t", "x:1", "-t", "x:2", "-t", "y").out.strip()
    for twice in (["x:1", "x:1"], ["y", "y:latest"], ["x:1", "x:2", "y", image_id]):
        planned = cli("rm", "--dry-run", *twice)
        assert planned.code == 3
        would = ("would be untagged: ", "would be deleted: ")
        gone = [line for line in planned.out.splitlines() if line.startswith(would)]
        assert gone == list(dict.fromkeys(gone))
        assert sum(line.startswith(would[0]) for line in gone) == len(twice) - 1
        assert "named before it" in planned.err
    assert len(cli.ok("images").lines) == 4
    done = cli("rm", "x:1", "x:2", "y", image_id)
    told = [line.removeprefix("would be ").capitalize() for line in gone]
    assert (done.code, done.out.splitlines()) == (3, told)


def test_one_missing_image_does_not_stop_the_others(cli, rootfs_tar):
    cli.ok("import", rootfs_tar, "-t", "x:1")
    result = cli("rm", "missing:1", "x:1", "missing:2")
    assert result.code == 3
    assert "Untagged: x:1" in result.out
    assert result.err.count("layerstore: error: no image") == 2


def test_exporting_and_importing_again_is_the_same_tree(cli, rootfs):
    cli.ok("import", rootfs, "-t", "x:1")
    tar = cli.command("export", "x:1")
    content = subprocess.run(tar, env=cli.environment(), capture_output=True, check=True).stdout
    cli.ok("import", "-", "-t", "x:2", stdin=content)
    again = subprocess.run(
        cli.command("export", "x:2"), env=cli.environment(), capture_output=True, check=True
    ).stdout
    assert again == content


def test_a_failed_export_leaves_the_old_file(cli, rootfs_tar, tmp_path):
    cli.ok("import", rootfs_tar, "-t", "x:1")
    target = tmp_path / "out.tar"
    target.write_text("precious")
    pack = next((cli.store / "packs").rglob("*.pack"))
    damaged = bytearray(pack.read_bytes())
    for position in range(64, len(damaged) // 2, 97):
        damaged[position] ^= 0xFF
    pack.write_bytes(damaged)
    assert "hint: " in cli.fails(10, "export", "x:1", "-o", target)
    assert target.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.tar",
        "rootfs",
        "rootfs.tar",
        "store",
    ]
    assert "error: " in cli("check", "--read-data").out


def test_output_goes_to_devices_without_replacing_them(cli, rootfs_tar):
    cli.ok("import", rootfs_tar, "-t", "x:1")
    cli.ok("export", "x:1", "-o", "/dev/null")
    assert os.path.exists("/dev/null")
    assert not os.path.isfile("/dev/null")


def test_names_that_act_on_terminals_are_shown(cli, rootfs_tar):
    cli.ok("import", rootfs_tar, "-t", "x:1", "-m", "\x1b]0;owned\x07\nsecond line")
    shown = cli.ok("history", "x:1").out
    assert "\x1b" not in shown
    assert r"\x1b]0;owned\x07\nsecond line" in shown


def test_files_whose_names_are_no_text_are_read(cli, rootfs, rootfs_tar, tmp_path):
    bad = tmp_path / os.fsdecode(b"bad\xff")
    bad.mkdir()
    (bad / "rootfs.tar").write_bytes(rootfs_tar.read_bytes())
    (bad / "root\udcff").symlink_to(rootfs)
    cli.ok("import", "-q", bad / "rootfs.tar", "-t", "one")
    cli.ok("import", "-q", bad / "root\udcff" / ".", "-t", "two")
    (bad / "Dockerfile").write_text("FROM one\nCOPY rootfs.tar /\n")
    cli.ok("build", "-q", "-t", "three", bad)
    (bad / "only\udcff.tar").write_bytes(rootfs_tar.read_bytes())
    cli.ok("import", "-q", bad / "only\udcff.tar", "-t", "four")
    config = cli.ok("inspect", "four").out
    assert "only\\\\udcff.tar" in config


def test_reader_that_goes_away_is_no_error(cli, rootfs_tar):
    cli.ok("import", rootfs_tar, "-t", "x:1")
    process = subprocess.Popen(
        cli.command("export", "x:1"),
        env=cli.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_it_quietly(cli, rootfs_tar, signum, code):
    cli.ok("import", rootfs_tar, "-t", "x:1")
    process = subprocess.Popen(
        cli.command("import", "-", "-t", "y:1"),
        env=cli.interrupted_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write(rootfs_tar.read_bytes()[:20_000])
    process.stdin.flush()
    leases = cli.store / "locks"
    deadline = time.monotonic() + 60
    while not any(path.name.startswith("lease-") for path in leases.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, b"", b"")
    assert [image["names"] for image in cli.ok("images", "--json").json()] == [["x:1"]]
    assert cli.ok("check").out.startswith("ok")


def test_an_empty_archive_is_an_image_of_nothing(cli):
    stream = io.BytesIO()
    tarfile.open(fileobj=stream, mode="w").close()
    cli.ok("import", "-", "-t", "empty:1", stdin=stream.getvalue())
    assert cli.ok("inspect", "empty:1").json()[0]["Size"] == 0


def test_images_are_picked_as_docker_picks_them(cli, rootfs_tar):
    cli.ok("import", rootfs_tar, "-t", "debian:old", SOURCE_DATE_EPOCH="1600000000")
    cli.ok("import", rootfs_tar, "-t", "team/app:1", "-c", "LABEL tier=web", **EPOCH)
    cli.ok(
        "import", rootfs_tar, "-t", "nameless:1", "-c", "ENV a=b", SOURCE_DATE_EPOCH="1650000000"
    )
    nameless = cli.ok("images", "-q", "nameless:1").lines
    cli.ok("tag", "debian:old", "nameless:1")

    def picked(*words):
        return cli.ok("images", "--format", "{{.Repository}}:{{.Tag}}", *words).lines

    assert picked() == ["team/app:1", "<none>:<none>", "debian:old", "nameless:1"]
    assert picked("deb*") == ["debian:old"]
    assert picked("*") == ["debian:old", "nameless:1"]  # a star stops at slashes
    assert picked("team/*:1") == ["team/app:1"]
    assert picked("-f", "reference=team/a[p]p", "-f", "reference=d?bian") == [
        "team/app:1", "debian:old",
    ]  # fmt: skip
    assert cli.ok("images", "-q", "--filter", "dangling=true").lines == nameless
    assert picked("--filter", "dangling=false") == ["team/app:1", "debian:old", "nameless:1"]
    assert picked("--filter", "label=tier") == picked("--filter", "label=tier=web")
    assert picked("--filter", "label=tier") == ["team/app:1"]
    assert picked("--filter", "label=tier=db") == []
    assert picked("--filter", "before=team/app:1", "-f", "dangling=false") == picked("*")
    assert picked("--filter", "since=debian:old") == ["team/app:1", "<none>:<none>"]
    assert "no filter 'size=1'" in cli.fails(2, "images", "-f", "size=1")
    assert "dangling is true or false" in cli.fails(2, "images", "-f", "dangling=x")
    assert "no image 'x:latest'" in cli.fails(3, "images", "-f", "since=x")
    assert "there is no 'Nope'" in cli.fails(2, "images", "--format", "{{.Nope}}")


def test_templates_of_inspect_and_history(cli, rootfs_tar):
    image = cli.ok("import", rootfs_tar, "-t", "web:1", "-c", 'CMD ["a", "b"]', **EPOCH).out
    for words in (("inspect", "-f"), ("inspect", "--format"), ("image", "inspect", "-f")):
        assert cli.ok(*words, "{{.Id}}", "web:1").out == image
    assert cli.ok("inspect", "-f", "{{json .Config.Cmd}}", "web:1").out == '["a","b"]\n'
    labels = (
        "{{range $k, $v := .Config.Labels}}{{$k}}{{end}}|{{json .Config.Labels}}|{{.Config.User}}"
    )
    assert cli.ok("inspect", "-f", labels, "web:1").out == "|null|\n"  # as of docker, not an error
    assert "there is no 'Lables'" in cli.fails(2, "inspect", "-f", "{{.Config.Lables}}", "web:1")
    assert cli.ok("inspect", "--type", "image", "web:1").json()[0]["Id"] == image.strip()
    assert "no container 'web:1'" in cli.fails(3, "inspect", "--type", "container", "web:1")
    assert "did you mean web:1?" in cli.fails(3, "inspect", "web")
    (cli.store / "containers").mkdir()
    assert "no image and no container 'web'" in cli.fails(3, "inspect", "web")

    told = cli("inspect", "absent", "web:1", "-f", "{{.Created}}")
    assert (told.code, told.out) == (3, CREATED + "\n")  # one that is missing stops no other

    steps = cli.ok("history", "web:1", "--format", "{{.CreatedBy}}|{{.Size}}").lines
    assert steps[-1].endswith("|300kB")
    table = cli.ok("history", "-H", "web:1", "--format", r"table {{.ID}}\t{{.Size}}").lines
    assert table[0].split() == ["IMAGE", "SIZE"]


def test_names_that_may_have_been_meant(cli, rootfs_tar):
    cli.ok("import", rootfs_tar, "-t", "quay.io/team/web:1", "-t", "debian:bookworm")
    for said, meant in (
        ("debian", "debian:bookworm"),
        ("debain:bookworm", "debian:bookworm"),
        ("team/web:1", "quay.io/team/web:1"),
    ):
        assert f"did you mean {meant}?" in cli.fails(3, "history", said)
    assert "did you mean" not in cli.fails(3, "history", "other:2")


def test_what_is_no_archive_is_told_by_its_name(cli, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a tar\n" * 100)
    for words in (("import", text, "-t", "x"), ("load", "-i", text)):
        assert f"{text}: not a tar archive: " in cli.fails(10, *words)
    (tmp_path / "directory").mkdir()
    told = cli.fails(3, "load", "-i", tmp_path / "directory")
    assert "the OCI layout" in told
    assert "it has no index.json" in told


def test_output_in_a_locale_without_unicode(cli, rootfs_tar):
    cli.ok("import", rootfs_tar, "-t", "web:1")
    told = cli.ok("savings", "web:1", PYTHONIOENCODING="ascii").out
    assert "|####" in told
    assert "-----" in told
