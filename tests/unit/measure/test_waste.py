"""What is needless in images: each rule, who pays for it, and that nothing is counted twice."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore.errors import InputError
from layerstore.formats.pack import ItemKind
from layerstore.measure import waste_scan
from layerstore.measure.gate import Verdict, judge, parse_limit
from layerstore.measure.junit import junit_xml
from layerstore.measure.steps import instruction_of
from layerstore.measure.waste import take_waste
from layerstore.measure.waste_rules import CAUSES, Rule, cause_of, is_build_tool
from layerstore.store.records import CacheRecord
from layerstore.store.store import Store
from tests.support.cli import Cli
from tests.support.insight import File, Layer, image_of, put_tree
from tests.support.measure import noise

LISTS = b"var/lib/apt/lists/main"


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as store:
        yield store


def findings(store, *images):
    (found,) = take_waste(store, images).images
    return {(each.rule, each.cause, each.step.number): each for each in found.findings}


def test_what_a_later_step_removes_is_paid_for(store):
    image = image_of(
        store,
        "a",
        Layer({b"bin/sh": noise("sh", 9000)}, step="base"),
        Layer({LISTS: noise("lists", 50_000), b"x": noise("x", 6000)}, step="RUN apt-get update"),
        Layer({}, whiteouts=(b"var/lib/apt/lists", b"x"), step="RUN rm"),
    )
    found = findings(store, image)
    lists, rest = found[Rule.DELETED, "apt-lists", 2], found[Rule.DELETED, "files", 2]
    assert (lists.size, lists.files, lists.by.number) == (50_000, 1, 3)
    assert 25_000 <= lists.stored < 50_000  # half of it compresses
    assert "rm -rf /var/lib/apt/lists" in lists.fix
    assert rest.size == 6000
    assert len(found) == 2


def test_content_that_somebody_else_needs_costs_nothing_here(store):
    lists = noise("lists", 50_000)
    layers = (
        Layer({LISTS: lists}, step="RUN apt-get update"),
        Layer({}, whiteouts=(LISTS,), step="RUN rm"),
    )
    image = image_of(store, "a", *layers)
    assert findings(store, image)[Rule.DELETED, "apt-lists", 1].stored > 0
    other = image_of(store, "b", Layer({b"copy": lists}))
    found = findings(store, image)[Rule.DELETED, "apt-lists", 1]
    assert (found.size, found.stored) == (50_000, 0)
    waste = take_waste(store, [image, other])
    assert waste.causes[0].size == 50_000
    assert waste.causes[0].stored == 0


def test_content_that_a_remembered_step_needs_costs_nothing_here(store):
    lists = noise("lists", 50_000)
    image = image_of(store, "a", Layer({LISTS: lists}), Layer({}, whiteouts=(LISTS,)))
    with store.begin("test") as session:
        layer = put_tree(session, Layer({b"copy": lists}))
        session.cache_put(CacheRecord("step", layer, b"", 1.0))
    found = findings(store, image)[Rule.DELETED, "apt-lists", 1]
    assert (found.size, found.stored) == (50_000, 0)


def test_a_base_that_shows_the_file_needs_it(store):
    base = Layer({b"etc/conf": noise("conf", 50_000)})
    image = image_of(store, "a", base, Layer({}, whiteouts=(b"etc/conf",)))
    assert findings(store, image)[Rule.DELETED, "files", 1].stored > 0
    image_of(store, "base", base)
    found = findings(store, image)[Rule.DELETED, "files", 1]
    assert (found.size, found.stored) == (50_000, 0)


def test_what_is_written_anew(store):
    image = image_of(
        store,
        "a",
        Layer({b"a": noise("a", 5000), b"d/e": noise("e", 4000), b"f": noise("f", 3000)}),
        Layer({b"a": noise("A", 7000), b"d/new": b"x"}, opaques=(b"d",)),
        Layer({b"f/x": b"now a directory"}, whiteouts=(b"f",)),
    )
    found = findings(store, image)
    assert found[Rule.OVERWRITTEN, "files", 1].size == 5000
    (report,) = take_waste(store, [image]).images
    deleted = {each.by.number: each.size for each in report.findings if each.rule is Rule.DELETED}
    assert deleted == {2: 4000, 3: 3000}
    assert report.size() == 12_000


def test_what_a_base_has_is_told_as_nothing_to_edit(store):
    image = image_of(
        store,
        "a",
        Layer(
            {b"doc": noise("doc", 9000), b"var/log/x": noise("log", 8000)},
            step="layerstore import debian.tar",
        ),
        Layer({}, whiteouts=(b"doc",), step="RUN rm doc"),
    )
    found = findings(store, image)
    assert "--squash-all" in found[Rule.DELETED, "files", 1].fix
    assert found[Rule.CACHES, "logs", 1].fix.startswith("in what makes the base: ")


def test_a_file_that_is_written_whole_again_still_has_its_duplicates(store):
    content = noise("a", 9000)
    image = image_of(
        store,
        "a",
        Layer({b"opt/a": content}),
        Layer({b"opt/b": content}),
        Layer({b"opt/a": File(content, mtime_ns=5)}, step="RUN touch"),
    )
    found = findings(store, image)
    assert found[Rule.REPEATED, "files", 3].size == 9000
    assert found[Rule.DUPLICATES, "files", 2].paths[0].path == b"opt/b"


def test_a_change_of_rights_doubles_the_file_for_docker_and_costs_nothing_here(store):
    content = noise("app", 40_000)
    image = image_of(
        store,
        "a",
        Layer({b"srv/app": content}, step="COPY app /srv/app"),
        Layer({b"srv/app": File(content, mode=0o755, uid=7)}, step="RUN chmod"),
        Layer({b"srv/app": File(content, mode=0o755, uid=7, mtime_ns=5)}, step="COPY again"),
    )
    found = findings(store, image)
    rights = found[Rule.ATTRIBUTES, "files", 2]
    assert (rights.size, rights.stored, rights.by.number) == (40_000, 0, 1)
    assert "instead of a RUN chown" in rights.fix
    assert found[Rule.REPEATED, "files", 3].size == 40_000
    assert found[Rule.REPEATED, "files", 3].fix.startswith("copy it once")
    assert take_waste(store, [image]).images[0].size() == 80_000


def test_a_copy_that_is_deleted_in_the_end_is_all_needless(store):
    content = noise("app", 40_000)
    image = image_of(
        store,
        "a",
        Layer({b"app": content}),
        Layer({b"app": File(content, mode=0o755)}),
        Layer({b"app": File(content, mode=0o700)}),
        Layer({}, whiteouts=(b"app",)),
    )
    (found,) = take_waste(store, [image]).images
    assert found.size() == 120_000 == found.layers_size
    blocks = store.catalog.block_rows()
    assert found.stored() == sum(b.stored_length for b in blocks if b.kind == ItemKind.DATA)


def test_a_file_with_two_names_lives_while_one_is_left(store):
    lower = Layer({b"a": noise("a", 9000), b"b": File(link=b"a")})
    one = image_of(store, "one", lower, Layer({}, whiteouts=(b"a",)))
    assert findings(store, one) == {}
    both = image_of(store, "both", lower, Layer({}, whiteouts=(b"a", b"b")))
    assert findings(store, both)[Rule.DELETED, "files", 1].size == 9000


def test_a_tree_that_is_taken_away_many_times_is_looked_at_once(store, monkeypatch):
    deep = b"/".join([b"d"] * 100)
    paths = [deep[: 2 * length - 1] for length in range(1, 101)]
    image = image_of(
        store,
        "a",
        Layer({deep + b"/%d" % n: noise(n, 100) for n in range(50)}),
        Layer({}, whiteouts=tuple(paths), opaques=tuple(paths)),
    )
    seen = []
    plain = waste_scan._leaves

    def counted(path, node):
        for leaf in plain(path, node):
            seen.append(leaf)
            yield leaf

    monkeypatch.setattr(waste_scan, "_leaves", counted)
    assert findings(store, image)[Rule.DELETED, "files", 1].files == 50
    assert len(seen) == 50


def test_what_is_left_in_the_image(store):
    source = {b"app/m.py": b"pass" * 100, b"app/__pycache__/m.cpython-311.pyc": noise("c", 900)}
    image = image_of(
        store,
        "a",
        Layer(
            {
                b"root/.cache/pip/http/x": noise("pip", 5000),
                b"var/log/dpkg.log": b"log" * 100,
                b"srv/one": noise("same", 8000),
                b"app/__pycache__/gone.cpython-311.pyc": noise("g", 900),
                **source,
            }
        ),
        Layer({b"srv/two": noise("same", 8000), b"srv/.git/objects/x": noise("git", 700)}),
    )
    found = findings(store, image)
    assert found[Rule.CACHES, "pip-cache", 1].size == 5000
    assert found[Rule.CACHES, "logs", 1].size == 300
    assert found[Rule.CACHES, "version-control", 2].size == 700
    copy = found[Rule.DUPLICATES, "files", 2]
    assert (copy.size, copy.stored, copy.advice) == (8000, 0, True)
    assert found[Rule.BYTECODE, "files", 1].size == 900  # that without a source is no copy
    assert take_waste(store, [image]).images[0].size() == 6000


def test_build_tools_are_told_from_the_list_of_their_package(store):
    status = (
        b"Package: gcc-12\nStatus: install ok installed\nVersion: 12\nArchitecture: amd64\n\n"
        b"Package: libgcc-s1\nStatus: install ok installed\nVersion: 12\nArchitecture: amd64\n"
    )
    image = image_of(
        store,
        "a",
        Layer(
            {
                b"var/lib/dpkg/status": status,
                b"var/lib/dpkg/info/gcc-12.list": b"/.\n/usr/bin\n/usr/bin/gcc\n/nowhere\n../x\n",
                b"var/lib/dpkg/info/libgcc-s1.list": b"/usr/lib/libgcc.so\n",
                b"usr/bin/gcc": noise("gcc", 9000),
                b"usr/lib/libgcc.so": noise("lib", 9000),
            }
        ),
    )
    found = findings(store, image)
    assert list(found) == [(Rule.BUILD_TOOLS, "packages", 1)]
    assert found[Rule.BUILD_TOOLS, "packages", 1].size == 9000
    assert take_waste(store, [image]).images[0].size() == 0


@pytest.mark.parametrize(
    ("package", "is_tool"),
    [
        ("gcc", True),
        ("g++-12", True),
        ("libc6-dev", True),
        ("binutils-common", True),
        ("make", True),
        ("gcc-12-base", False),
        ("libgcc-s1", False),
        ("cppreference", False),
        ("makedev", False),
    ],
)
def test_which_packages_are_tools(package, is_tool):
    assert is_build_tool(package) is is_tool


def test_every_cause_knows_its_own_paths():
    assert cause_of(b"var/lib/apt/lists/x") == "apt-lists"
    assert cause_of(b"home/me/.npm/_cacache/x") == "npm-cache"
    assert cause_of(b"usr/share/doc/x") is None
    assert cause_of(b"srv/var/log/x") is None
    assert cause_of(b"var/lib/dpkg/status-old") == "backups"
    assert cause_of(b"var/lib/dpkg/status") is None
    assert len({cause.name for cause in CAUSES}) == len(CAUSES)


def test_shared_layers_are_counted_once(store):
    base = (
        Layer({LISTS: noise("lists", 50_000)}, step="RUN apt-get update"),
        Layer({b"var/log/x": noise("log", 5000)}, whiteouts=(LISTS,), step="RUN rm"),
    )
    images = [image_of(store, f"i{n}", *base, Layer({b"app": b"%d" % n})) for n in range(5)]
    waste = take_waste(store, images)
    assert [image.size() for image in waste.images] == [55_000] * 5
    totals = {(each.rule, each.cause): each for each in waste.causes}
    assert totals[Rule.DELETED, "apt-lists"].size == 50_000
    assert totals[Rule.DELETED, "apt-lists"].images == 5
    assert totals[Rule.CACHES, "logs"].size == 5000
    one = take_waste(store, images[:1])
    assert one.images[0].stored() == 0  # four others have the layer; of all five it is needless
    assert waste.images[0].stored() > 25_000


PATHS = st.sampled_from([b"a", b"b", b"d/a", b"d/b", b"d/e/f"])
CONTENTS = st.sampled_from([b"", noise(1, 5000), noise(2, 6000), noise(3, 300)])
LAYERS = st.builds(
    lambda files, modes, gone: Layer(
        {
            path: File(content, mode=0o755 if modes.get(path) else 0o644)
            for path, content in files.items()
        },
        whiteouts=tuple(sorted(set(gone) - set(files))),
    ),
    st.dictionaries(PATHS, CONTENTS, max_size=4),
    st.dictionaries(PATHS, st.booleans()),
    st.lists(st.sampled_from([b"a", b"b", b"d", b"d/e"]), max_size=2),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(LAYERS, min_size=1, max_size=5))
def test_what_is_hidden_and_what_is_seen_are_the_layers(tmp_path_factory, layers):
    """Law: bytes of all layers = bytes that are visible + bytes of rules about hidden files."""
    from layerstore.image.trees.stack import load_root
    from layerstore.measure.image_diff import tree_size

    with Store.open(tmp_path_factory.mktemp("store") / "s", create=True) as store:
        layers = [*layers, Layer({b"end": b"x"})]
        image = image_of(store, "a", *layers)
        (found,) = take_waste(store, [image]).images
        hidden = (Rule.DELETED, Rule.OVERWRITTEN, Rule.ATTRIBUTES, Rule.REPEATED)
        needless = sum(found.size(rule) for rule in hidden)
        brought = sum(store.layer(diff_id).content_size for diff_id in image.layers)
        visible = tree_size(load_root(store, image.layers)).logical_size
        assert brought == visible + needless


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("RUN /bin/sh -c apt-get update # buildkit", "RUN apt-get update"),
        ("/bin/sh -c #(nop)  CMD [\"sh\"]", 'CMD ["sh"]'),
        ("/bin/sh -c make", "RUN make"),
        ("COPY a b # buildkit", "COPY a b"),
        ("RUN |2 A=b C=d e /bin/sh -c make # buildkit", "RUN make"),
        ("|1 KEY=hidden /bin/sh -c make", "RUN make"),
    ],
)  # fmt: skip
def test_histories_read_as_dockerfiles(text, words):
    assert instruction_of(text) == words


class TestGate:
    @pytest.mark.parametrize(
        ("text", "rule", "size", "percent"),
        [
            ("10m", None, 10 << 20, None),
            ("0", None, 0, None),
            ("2.5%", None, None, 2.5),
            ("caches=0", Rule.CACHES, 0, None),
            ("deleted=1%", Rule.DELETED, None, 1.0),
        ],
    )
    def test_limits(self, text, rule, size, percent):
        limit = parse_limit(text)
        assert (limit.rule, limit.size, limit.percent) == (rule, size, percent)

    @pytest.mark.parametrize("text", ["", "x", "101%", "-1%", "%", "nan%", "wrong=1", "caches="])
    def test_no_limits(self, text):
        with pytest.raises(InputError):
            parse_limit(text)

    def test_the_verdict_on_all_waste_names_every_finding_that_counts(self, store):
        image = image_of(
            store,
            "a",
            Layer({b"a": noise("a", 6000), b"tmp/b": noise("b", 5000), b"c": noise("b", 5000)}),
            Layer({}, whiteouts=(b"a",)),
        )
        (found,) = take_waste(store, [image]).images
        waste = judge(found, [parse_limit("0")], None)[0]
        assert waste.check == "waste"
        deleted, temporary = waste.lines
        assert deleted.startswith("step 1, files: 6kB in 1 file because of step 2; ")
        assert temporary.startswith("step 1, temporary: 5kB in 1 file; ")

    def test_the_smallest_limit_counts_and_equal_is_kept(self, store):
        image = image_of(store, "a", Layer({b"a": noise("a", 6000)}), Layer({}, whiteouts=(b"a",)))
        (found,) = take_waste(store, [image]).images

        def kept(*texts):
            verdicts = judge(found, [parse_limit(text) for text in texts], None)
            return {each.check: each.is_kept for each in verdicts if each.limit is not None}

        assert kept("6000", "deleted=6000") == {"waste": True, "deleted": True}
        assert kept("5999", "1g") == {"waste": False}
        assert kept("100%", "overwritten=0") == {"waste": True, "overwritten": True}
        assert kept("99%") == {"waste": False}


def check_junit(report: bytes) -> ET.Element:
    """Hold a report to what the schemas of Ant's and Jenkins' reports both ask for."""
    root = ET.fromstring(report)
    assert root.tag == "testsuites"
    for suite in root:
        assert suite.tag == "testsuite"
        assert {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"} == set(
            suite.attrib
        )
        assert len(suite) == int(suite.attrib["tests"])
        assert len(suite.findall("*/failure")) == int(suite.attrib["failures"])
        for case in suite:
            assert case.tag == "testcase"
            assert {"name", "classname", "time"} == set(case.attrib)
            assert [each.tag for each in case] in (["failure"], ["system-out"])
            for failure in case.findall("failure"):
                assert {"message", "type"} == set(failure.attrib)
    assert int(root.attrib["failures"]) == len(root.findall("*/*/failure"))
    return root


@given(st.text(), st.text())
def test_reports_are_xml_whatever_images_are_called(name, line):
    verdicts = {name: [Verdict("waste", 2, 1, (line,)), Verdict("caches", 2, None, (line,))]}
    root = check_junit(junit_xml(verdicts, created="2026-11-26T00:00:00"))
    assert root[0].attrib["failures"] == "1"
    assert "\x1b" not in ET.tostring(root, encoding="unicode")


class TestCommand:
    @pytest.fixture
    def cli(self, store):
        hostile = Layer({b"tmp/\x1b[31m": noise("t", 5000)}, step="RUN \x1b[2J evil")
        image_of(store, "base", Layer({b"bin/sh": noise("sh", 9000)}))
        image_of(
            store,
            "app",
            Layer({b"bin/sh": noise("sh", 9000)}),
            Layer({LISTS: noise("lists", 50_000)}, step="RUN /bin/sh -c apt-get update"),
            hostile,
            Layer({}, whiteouts=(LISTS,), step="RUN /bin/sh -c rm"),
        )
        return Cli(store.root)

    def test_table_and_fixes(self, cli):
        result = cli.ok("waste", "app")
        assert "\x1b" not in result.out
        assert "RUN apt-get update" in result.out
        assert "rm -rf /var/lib/apt/lists/*" in result.out
        assert "shared layers are counted once" in cli.ok("waste", "--all").out
        assert "more: --limit 0" in cli.ok("waste", "app", "--limit", "1").out

    def test_json(self, cli):
        found = cli.ok("waste", "app", "base", "--json").json()
        assert [image["name"] for image in found["images"]] == ["app", "base"]
        assert found["images"][0]["size"] == 55_000
        assert found["images"][1]["size"] == 0
        assert found["causes"][0]["cause"] == "apt-lists"

    def test_the_gate_has_an_exit_code_of_its_own(self, cli, tmp_path):
        report = tmp_path / "junit.xml"
        said = cli.fails(17, "waste", "app", "--max-waste", "10%", "--junit", report)
        assert "app: waste: 55kB, at most 6.4kB allowed" in said
        root = check_junit(report.read_bytes())
        assert [each.attrib["name"] for each in root.iter("testsuite")] == ["app"]
        assert not list(tmp_path.glob(".*part"))
        cli.ok("waste", "app", "--max-waste", "90%", "--max-waste", "overwritten=0")

    def test_a_report_on_stdout_is_alone_there(self, cli):
        root = check_junit(cli.ok("waste", "app", "--junit", "-").out.encode())
        assert [each.attrib["name"] for each in root.iter("testsuite")] == ["app"]
        assert "one of" in cli.fails(2, "waste", "app", "--junit", "-", "--json")

    def test_new_bytes_are_counted_beyond_a_base_or_all_others(self, cli):
        said = cli.fails(17, "waste", "app", "--max-new-bytes", "1k", "--since", "base")
        assert "new-bytes" in said
        cli.ok("waste", "app", "--max-new-bytes", "1m", "--since", "base")
        cli.ok("waste", "app", "--max-new-bytes", "0", "--since", "app")
        cli.fails(17, "waste", "app", "--max-new-bytes", "1k")
        cli.ok("waste", "base", "--max-new-bytes", "0")

    def test_what_makes_no_sense_is_refused(self, cli):
        cli.fails(2, "waste")
        cli.fails(2, "waste", "app", "--all")
        cli.fails(2, "waste", "app", "--since", "base")
        cli.fails(2, "waste", "app", "--max-waste", "many")
        cli.fails(3, "waste", "nowhere")
        cli.fails(2, "waste", "app", "--junit", "/")

    def test_savings_tells_the_same_causes(self, cli):
        causes = cli.ok("waste", "--all", "--json").json()["causes"]
        assert causes
        assert cli.ok("savings", "--all-schemes", "--json").json()["waste"] == causes
        assert cli.ok("savings", "--json").json()["waste"] is None


class TestPlaces:
    """Steps are told by the lines of the spec that layerstore built."""

    DOCKERFILE = "# a comment\nFROM scratch\nCOPY a /srv/\n\nCOPY --chmod=600 \\\n  a /srv/\n"

    @pytest.fixture
    def cli(self, store):
        return Cli(store.root)

    @pytest.fixture
    def context(self, tmp_path):
        context = tmp_path / "context"
        context.mkdir()
        (context / "a").write_bytes(noise("a", 9000))
        (context / "Dockerfile").write_text(self.DOCKERFILE)
        return context

    def finding(self, cli, name):
        (image,) = cli.ok("waste", name, "--json").json()["images"]
        (found,) = image["findings"]
        return found

    def lines(self, cli, name):
        found = self.finding(cli, name)
        return found["step"]["line"], found["by"]["line"]

    def test_the_line_stands_beside_the_step(self, cli, context, tmp_path):
        cli.ok("build", "-q", "-t", "app", context)
        found = self.finding(cli, "app")
        assert (found["step"]["file"], found["step"]["line"]) == (str(context / "Dockerfile"), 5)
        assert (found["by"]["line"], found["by"]["text"]) == (3, "COPY a /srv/")
        table = cli.ok("waste", "app").out
        assert "Dockerfile:5 COPY --chmod=600" in table
        assert "Dockerfile:3 COPY a /srv/" in table
        report = tmp_path / "junit.xml"
        cli.ok("waste", "app", "--junit", report)
        assert "step 2 at Dockerfile:5, files" in report.read_text()

    def test_a_layer_that_two_instructions_made_is_told_by_the_last_one(self, cli, context):
        (context / "Dockerfile").write_text(
            "FROM scratch AS other\nCOPY a /srv/\nFROM scratch\nCOPY --from=other /srv/ /srv/\n"
            "COPY --chmod=600 a /srv/\n"
        )
        cli.ok("build", "-q", "-t", "app", context)
        assert self.lines(cli, "app") == (5, 4)

    def test_a_step_that_moved_is_told_where_it_stands_now(self, cli, context):
        cli.ok("build", "-q", "-t", "app", context)
        (context / "Dockerfile").write_text("\n\n" + self.DOCKERFILE)
        cli.ok("build", "-q", "-t", "app", context)
        assert self.lines(cli, "app") == (7, 5)

    def test_each_image_has_the_lines_of_its_own_build(self, cli, context):
        cli.ok("build", "-q", "-t", "one", context)
        other = "FROM scratch\nCOPY a /srv/\nCOPY --chmod=600 a /srv/\nENV OTHER=1\n"
        (context / "Other").write_text(other)
        cli.ok("build", "-q", "-f", context / "Other", "-t", "other", context)
        assert self.lines(cli, "one") == (5, 3)
        assert self.lines(cli, "other") == (3, 2)
        assert "Other:3" in cli.ok("waste", "other").out

    def test_an_image_that_was_built_elsewhere_has_no_lines(self, cli, store):
        image_of(store, "app", Layer({b"tmp/x": noise("x", 5000)}, step="RUN make"))
        step = self.finding(cli, "app")["step"]
        assert (step["text"], step["file"], step["line"]) == ("RUN make", "", None)

    def test_a_file_explains_an_image_that_was_built_elsewhere(self, cli, store, tmp_path):
        image_of(
            store,
            "app",
            Layer({b"tmp/x": noise("x", 5000)}, step="RUN /bin/sh -c make install # buildkit"),
        )
        file = tmp_path / "Dockerfile"
        file.write_text("FROM debian\n\nRUN --network=none make \\\n  install\n")
        (image,) = cli.ok("waste", "app", "-f", file, "--json").json()["images"]
        step = image["findings"][0]["step"]
        assert (step["file"], step["line"]) == (str(file), 3)
        assert step["text"] == "RUN --network=none make install"
        assert "Dockerfile:3 RUN" in cli.ok("waste", "app", "-f", file).out
        cli.fails(2, "waste", "--all", "-f", file)
        cli.fails(3, "waste", "app", "-f", tmp_path / "none")

    def test_what_is_remembered_of_a_build_is_surer_than_a_file(self, cli, context, tmp_path):
        cli.ok("build", "-q", "-t", "app", context)
        file = tmp_path / "Dockerfile"
        file.write_text("FROM scratch\n" + self.DOCKERFILE.partition("scratch\n")[2])
        (image,) = cli.ok("waste", "app", "-f", file, "--json").json()["images"]
        assert image["findings"][0]["step"]["line"] == 5
