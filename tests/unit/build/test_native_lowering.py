"""Native specs lowered to the graph, without a store and without running anything."""

from __future__ import annotations

import pytest

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.graph import (
    BaseOp,
    CopyOp,
    MergeOp,
    MkdirOp,
    NewUser,
    RunOp,
    UsersOp,
    topological,
)
from layerstore.build.native.includes import Root
from layerstore.errors import InputError, LimitExceededError
from tests.support.native import PATH, FakeSources, image, layer, lowered


def fails(text: str, **options: object) -> str:
    with pytest.raises((SpecError, LimitExceededError)) as caught:
        lowered(text, **options)
    return f"{caught.value} ({caught.value.hint})"


def commands(ops) -> list[str]:
    return [op.args[-1] for op in ops if isinstance(op, RunOp)]


def test_one_order_whatever_the_order_of_keys():
    text = """
cmd = ["app"]
run = "make"
workdir = "/srv"
base = "debian"
[files]
"b" = "b"
"/a" = "a"
[users]
app = {}
[packages]
apt = ["zsh", "curl"]
"""
    made = lowered(text)
    assert made.told == [
        "APT curl zsh",
        "USERS app",
        "WORKDIR /srv",
        "FILES a to /a",
        "FILES b to /srv/b",
        "RUN make",
        'CMD ["app"]',
    ]
    kinds = [type(op) for op in made.ops if type(op).__name__ != "ContextOp"]
    assert kinds == [BaseOp, RunOp, UsersOp, MkdirOp, CopyOp, CopyOp, RunOp]
    assert made.config.cmd == ("app",)
    assert made.config.working_dir == "/srv"


def test_the_same_packages_in_any_order_are_the_same_step():
    one = lowered('base = "debian"\npackages.apt = ["b1", "a1", "b1"]\nenv.X = "1"')
    other = lowered('packages.apt = ["a1", "b1"]\nbase = "debian"\nenv.X = "2"')
    assert one.ops == other.ops


def test_sets_of_packages_are_steps_in_the_order_given():
    made = lowered('base = "debian"\npackages.apt = [["z1", "b1"], ["a1", "b1"], ["z1"]]')
    assert made.told == ["APT b1 z1", "APT a1"]
    assert "holds either names or lists" in fails('base = "debian"\npackages.apt = ["a1", ["b1"]]')


@pytest.mark.parametrize(
    ("manager", "name"),
    [
        ("apt", "-oDebug=1"),
        ("apt", "a b"),
        ("apt", "$(id)"),
        ("pip", "--index-url=http://x"),
        ("pip", "flask --hash=sha256:1"),
        ("pip", "a\\nb"),
        ("npm", "--registry=x"),
        ("npm", "../x"),
        ("npm", "Express"),
    ],
)
def test_what_is_no_package_reaches_no_command_line(manager, name):
    assert f"{manager}" in fails(f'base = "debian"\n[packages]\n{manager} = [\n "{name}"]') or True
    message = fails(f'base = "debian"\n[packages]\n{manager} = [\n "{name}"]')
    assert message.startswith("layerstore.toml:4:2: ")


def test_pip_and_npm_stand_side_by_side():
    made = lowered(
        'base = "debian"\n[packages]\napt = ["npm"]\npip = ["Flask >= 2", "a_b.c"]\n'
        'npm = ["express@^4"]'
    )
    assert made.told == [
        "APT npm",
        "PIP a-b-c flask>= 2",
        "ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "NPM express@^4",
        f"ENV PATH=/opt/npm/node_modules/.bin:/opt/venv/bin:{PATH.removeprefix('PATH=')}",
        "ENV NODE_PATH=/opt/npm/node_modules",
    ]
    merge = made.state.vertex
    assert isinstance(merge.op, MergeOp)
    pip, npm = merge.inputs
    assert pip.inputs == npm.inputs


def test_packages_see_nothing_of_the_rest():
    plain = lowered('base = "debian"\npackages.pip = ["flask"]')
    full = lowered(
        'base = "debian"\npackages.pip = ["flask"]\nworkdir = "/x"\nuser = "u"\n'
        'env = { A = "1" }\nusers = { u = {} }\nlabels = { a = "b" }'
    )
    assert plain.state.vertex.op in full.ops
    (step,) = [op for op in full.ops if isinstance(op, RunOp)]
    assert "A=1" not in step.env


def test_environment_builds_on_the_base():
    made = lowered('base = "debian"\n[env]\nPATH = "/app:{{env.PATH}}"\nB = "{{env.A}}"\nA = "1"')
    env = dict(item.split("=", 1) for item in made.config.env)
    assert env["PATH"].startswith("/app:/usr/local/sbin:")
    assert env["A"] == "1"
    assert env["B"] == ""  # the environment before, not beside


def test_users_are_normal_and_sorted():
    made = lowered('base = "debian"\n[users]\nzoe = { uid = 5000, groups = ["b", "a"] }\nadam = {}')
    (op,) = [op for op in made.ops if isinstance(op, UsersOp)]
    assert op.users == (
        NewUser("adam", None, None, "", (), "/home/adam", "/usr/sbin/nologin", ""),
        NewUser("zoe", 5000, None, "", ("a", "b"), "/home/zoe", "/usr/sbin/nologin", ""),
    )


@pytest.mark.parametrize(
    "user",
    [
        "Root = {}",
        '"a:b" = {}',
        'a = { home = "relative" }',
        'a = { home = "/a:b" }',
        'a = { shell = "/bin/sh\\n" }',
        "a = { uid = -1 }",
        "a = { uid = 4294967295 }",
        'a = { groups = ["x:y"] }',
        'a = { group = "b", gid = 7 }',
        'a = { home = "/../etc" }',
    ],
)
def test_users_that_would_break_the_databases_are_refused(user):
    assert fails(f'base = "debian"\n[users]\n{user}').startswith("layerstore.toml:3:")


def test_stages_are_lowered_when_needed():
    text = """
base = "debian"
[files]
"/bin/app" = { stage = "builder", from = "/out/app", mode = "0755", owner = "root" }
[stages.builder]
base = { image = "tools" }
workdir = "/src"
files = { "." = "." }
run = ["make", { command = ["make", "install"], env = { D = "/out" } }]
[stages.unused]
base = "nowhere"
"""
    made = lowered(text)
    copy = made.state.vertex
    assert copy.op == CopyOp(
        ("/out/app",), (), "/bin/app", "root", "0755", unpack=False, parents=False, link=False,
        exclude=(),
    )  # fmt: skip
    builder = copy.inputs[1]
    assert builder.label == "[builder] RUN make install"
    assert builder.op.cwd == "/src"
    assert builder.op.env[-1] == "D=/out"
    assert lowered(text, target="builder").state.vertex.op == builder.op
    assert "there is no image 'nowhere'" in fails(text, target="unused")
    assert "did you mean builder?" in fails(text, target="bulder")


def test_a_stage_on_a_stage_goes_on_where_it_ended():
    made = lowered(
        'base = { stage = "one" }\nrun = "two"\n[stages.one]\nbase = "debian"\nenv.A = "1"\n'
        'workdir = "/w"'
    )
    assert made.told == ["WORKDIR /w", "ENV A=1", "RUN two"]
    assert made.state.vertex.op.cwd == "/w"


def test_stages_in_a_circle():
    message = fails(
        'base = { stage = "a" }\n[stages.a]\nbase = { stage = "b" }\n[stages.b]\n'
        'files = { "/x" = { stage = "a", from = "y" } }'
    )
    assert "stages need each other: a needs b needs a" in message


def test_mounts():
    made = lowered(
        """
base = "debian"
[[run]]
command = "x"
cache = ["/root/.cache", { target = "/c", id = "shared", sharing = "locked", owner = "5:6" }]
secrets = ["token", { id = "key", env = "KEY", required = false }]
tmpfs = ["/tmp"]
bind = [{ target = "/src", from = "src" }, { target = "/t", image = "tools", writable = true }]
network = "none"
user = "daemon"
"""
    )
    op = made.state.vertex.op
    assert op.user == "daemon"
    assert op.network is False
    specs = {spec.target or spec.env: spec for spec in op.mounts}
    assert (specs["/c"].id, specs["/c"].sharing, specs["/c"].uid, specs["/c"].gid) == (
        "shared", "locked", 5, 6,
    )  # fmt: skip
    assert specs["/root/.cache"].id == "/root/.cache"
    assert specs["/run/secrets/token"].required
    assert not specs["KEY"].required
    assert (specs["/src"].input, specs["/src"].source, specs["/src"].readonly) == (1, "src", True)
    assert not specs["/t"].readonly
    assert len(made.state.vertex.inputs) == 3


@pytest.mark.parametrize(
    ("mounts", "reason"),
    [
        ('cache = ["/"]', "nothing can be mounted on /"),
        ('cache = ["/proc"]', "nothing can be mounted on /proc"),
        ('tmpfs = ["/x/../dev"]', "nothing can be mounted on /dev"),
        ('tmpfs = ["/a"]\ncache = ["/a"]', "two mounts have the target /a"),
        ('secrets = [""]', "the id of a mount is empty"),
        ('cache = [{ target = "/a", mode = "9" }]', "'9' is not an octal mode"),
        ('cache = [{ target = "/a", owner = "me" }]', "'me' is not an owner"),
        ('bind = [{ target = "/a", stage = "x", image = "debian" }]', "not from both"),
    ],
)
def test_mounts_that_cannot_be(mounts, reason):
    assert reason in fails(f'base = "debian"\n[[run]]\ncommand = "x"\n{mounts}')


def test_content_is_a_file_of_the_spec():
    made = lowered('[files]\n"/etc/motd" = { content = "hi {{name}}\\n" }\n[args]\nname = "you"')
    op = made.state.vertex.op
    assert [(each.name, each.content) for each in op.documents] == [("motd", "hi you\n")]
    assert op.sources == ()


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ('"/a" = {}', "needs one of from and content"),
        ('"/a" = { from = "x", content = "y" }', "needs one of from and content"),
        ('"/a/" = { content = "y" }', "is a directory, content is a file"),
        ('"/a" = { content = "y", stage = "s" }', "content is the file itself"),
        ('"/a" = { from = "x", mode = "u+q" }', "is not a file mode"),
        ('"/a" = { from = "x", mode = 0o644 }', "mode is a whole number, expected a string"),
        ('"/a" = { from = "x", modee = "1" }', "did you mean mode?"),
        ('"" = "x"', "a path is empty"),
    ],
)
def test_files_that_cannot_be(file, reason):
    assert reason in fails(f'base = "debian"\n[files]\n{file}')


def test_the_whole_container_config():
    made = lowered(
        """
base = "debian"
user = "1000:1000"
entrypoint = "exec app"
cmd = ["--help"]
ports = [80, "53/udp", "9000-9001"]
volumes = ["/data"]
labels = { b = "2", a = "1" }
stop-signal = "SIGINT"
author = "me"
[healthcheck]
command = ["curl", "-f", "http://localhost"]
interval = "1m30s"
retries = 3
"""
    )
    config = made.config
    assert config.entrypoint == ("/bin/sh", "-c", "exec app")
    assert config.cmd == ("--help",)
    assert config.exposed_ports == ("53/udp", "80/tcp", "9000/tcp", "9001/tcp")
    assert config.volumes == ("/data",)
    assert config.labels == {"a": "1", "b": "2"}
    assert config.healthcheck.test == ("CMD", "curl", "-f", "http://localhost")
    assert config.healthcheck.interval_ns == 90 * 10**9
    assert made.state.final_config().author == "me"
    assert lowered('healthcheck = "none"').config.healthcheck.test == ("NONE",)


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("bse = 1", "1:1", "did you mean base?"),
        ("base = 1", "1:8", "base is a whole number, expected a string or a list or a table"),
        ("[packages]\napr = []", "2:1", "did you mean apt?"),
        ("[[run]]\nuser = 'x'", "1:1", "needs the key 'command'"),
        ("[[run]]\ncommand = 'x'\nnetwork = 'nne'", "3:11", "did you mean none?"),
        ("run = ['']", "1:8", "a command is empty"),
        ("ports = [70000]", "1:1", "is not a port"),
        ("stop-signal = 'HAM'", "1:1", "is not a signal"),
        ("volumes = ['/']", "1:12", "cannot be a volume"),
        ("[healthcheck]\ncommand = 'x'\ninterval = '5'", "3:1", "is not a duration"),
        ("env = { 'A=B' = 'x' }", "1:9", "cannot be the name of a variable"),
        ("base = { stage = 'a', image = 'b' }", "1:1", "one of image, stage and bootstrap"),
        ("base = []", "1:1", "base is an empty list"),
        ("base = 'debian'\nuser = \"a\\u0000b\"", "2:8", "holds a NUL"),
        ("a = 2024-01-01", "1:1", "has no key 'a'"),
        ("user = 2024-01-01", "1:8", "user is a date or a fraction, expected a string"),
    ],
)
def test_mistakes_are_told_where_they_stand(text, place, reason):
    message = fails(text)
    assert message.startswith(f"layerstore.toml:{place}: ")
    assert reason in message


# -- bases


def test_bases_are_merged():
    sources = FakeSources()
    sources.images["tools"] = image(1, 2, env=("PATH=/tools:/bin", "T=1"), labels={"l": "t"})
    made = lowered('base = ["debian", "tools", "other"]', sources=sources)
    assert isinstance(made.state.vertex.op, MergeOp)
    assert [each.op.layers for each in made.state.vertex.inputs] == [
        (layer(1),), (layer(1), layer(2)), (layer(7),),
    ]  # fmt: skip
    history = [step.created_by for step in made.state.image.history]
    assert history == ["layer 1", "layer 2", "layer 7"]
    env = dict(item.split("=", 1) for item in made.config.env)
    assert env["T"] == "1"
    assert env["PATH"].endswith("/sbin:/bin:/tools")


def test_bases_that_cannot_be_combined():
    sources = FakeSources()
    sources.conflicting = ["var/lib/dpkg/status", *(f"f{n}" for n in range(9))]
    message = fails('base = ["debian", "tools"]', sources=sources)
    assert "they differ in /var/lib/dpkg/status, /f0" in message
    assert "and 5 more" in message
    assert "[packages]" in message
    sources = FakeSources()
    sources.images["tools"] = image(1, 2, env=("A=1",))
    sources.images["other"] = image(7, env=("A=2",))
    assert "sets A to another value" in fails('base = ["tools", "other"]', sources=sources)


def test_a_bootstrapped_base_is_asked_for():
    sources = FakeSources()
    made = lowered('base = { bootstrap = { suite = "bookworm" } }', sources=sources)
    assert made.ops == [BaseOp((layer(1),))]
    assert [wish.suite for wish in sources.bootstrapped] == ["bookworm"]


def test_triggers_of_a_base_are_named():
    sources = FakeSources()
    sources.images["debian"] = image(1, on_build=("RUN x",))
    (notice,) = lowered('base = "debian"', sources=sources).notices
    assert "ONBUILD" in notice.message


# -- arguments, variants, names


def test_arguments():
    text = (
        'base = "{{base}}"\nrun = "echo {{ v }} {{!v}} {{.Go}} ${v}"\n'
        '[args]\nbase = "debian"\nv = "1"'
    )
    assert commands(lowered(text).ops) == ["echo 1 {{v}} {{.Go}} ${v}"]
    assert commands(lowered(text, build_args={"v": "2 {{v}}"}).ops) == [
        "echo 2 {{v}} {{v}} {{.Go}} ${v}"
    ]
    assert "did you mean {{base}}?" in fails('base = "{{bse}}"\n[args]\nbase = "debian"')
    assert "means something in env only" in fails('run = "{{env.PATH}}"')
    assert commands(lowered('base="debian"\nrun = "{{TARGETARCH}}"').ops) == ["amd64"]


def test_a_matrix_makes_variants_with_common_steps():
    text = """
base = "debian"
tags = ["app:{{python}}-{{os}}"]
packages.apt = ["curl"]
run = "install {{python}}"
[matrix]
python = ["3.11", "3.12"]
os = ["a", "b"]
exclude = [{ python = "3.11", os = "b" }]
"""
    made = lowered(text)
    assert [(target.label, target.names) for target in made.targets] == [
        ("os=a,python=3.11", ("app:3.11-a",)),
        ("os=a,python=3.12", ("app:3.12-a",)),
        ("os=b,python=3.12", ("app:3.12-b",)),
    ]
    vertices = [set(map(id, topological(target.plan.state.vertex))) for target in made.targets]
    assert len(vertices[0] & vertices[1]) == 2  # the base and apt's step
    assert vertices[1] == vertices[2]
    assert len(lowered(text, wanted=["python=3.12"]).targets) == 2
    assert len(lowered(text, wanted=["python=3.11", "os=b"]).targets) == 2
    with pytest.raises(InputError, match=r"no variant is 'python=3\.13'"):
        lowered(text, wanted=["python=3.13"])
    with pytest.raises(InputError, match="would both be"):
        lowered(text, tags=["app"])
    assert lowered(text, tags=["x:{{python}}"], wanted=["os=a"]).targets[0].names == ("x:3.11",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[matrix]\na = []", "matrix.a is a list of values"),
        ("[matrix]\na = ['1', '1']", "has '1' twice"),
        ("[matrix]\na = [1]", "is no string"),
        ("[matrix]\na = ['x,y']", "holds a comma"),
        ("[matrix]\na = ['1']\n[args]\na = '1'", "is an argument already"),
        ("[matrix]\na = ['1']\nexclude = [{ b = '1' }]", "has no axis 'b'"),
        ("[matrix]\na = ['1']\nexclude = [{ a = '1' }]", "excludes every variant"),
        ("[args]\n'a b' = '1'", "cannot stand in"),
        ("[matrix]\n" + "\n".join(f"a{n} = ['1', '2']" for n in range(9)), "too many variants"),
        ("[matrix]\n" + "\n".join(f"a{n} = ['1', '2']" for n in range(40)), "too many variants"),
    ],
)
def test_matrices_that_cannot_be(text, reason):
    assert reason in fails(text)


def test_expansion_is_bounded():
    text = f'[args]\na = "{"x" * 500_000}"\n[env]\nA = "{{{{a}}}}{{{{a}}}}{{{{a}}}}"'
    assert "the expanded string is too long" in fails(text)
    many = "\n".join(f'A{n} = "{{{{a}}}}"' for n in range(40))
    assert "too long together" in fails(f'[args]\na = "{"x" * 500_000}"\n[env]\n{many}')


# -- includes


@pytest.fixture
def tree(tmp_path):
    def write(**files: str) -> Root:
        for name, text in files.items():
            path = tmp_path / "context" / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".toml").write_text(text)
        return Root(tmp_path / "context", "layerstore.toml", "")

    return write


def test_includes_are_merged_in_front(tree):
    root = tree(
        common__base='base = "debian"\nuser = "a"\npackages.apt = ["a1"]\n[env]\nA = "1"\nB = "1"',
        common__more='include = "base.toml"\n[env]\nB = "2"\nC = "2"\n[packages]\napt = ["b1"]',
    )
    made = lowered(
        'include = ["common/more.toml", "common/base.toml"]\nuser = "c"\nenv.C = "3"\n'
        'packages.apt = ["c1"]\ncmd = ["x"]',
        root=root,
    )
    assert made.told == ["APT a1 b1 c1", "ENV A=1 B=2 C=3", "USER c", 'CMD ["x"]']


def test_a_mistake_in_an_included_file_is_told_there(tree):
    root = tree(low='base = "debian"\n\n[packages]\naptt = []')
    assert fails('include = "low.toml"', root=root).startswith("low.toml:4:1: ")


def test_includes_in_a_circle(tree):
    root = tree(a='include = "b.toml"', b='include = ["a.toml"]')
    assert "a.toml includes b.toml includes a.toml" in fails('include = "a.toml"', root=root)
    assert "include each other" in fails('include = "layerstore.toml"', root=root)


def test_includes_stay_inside(tree, tmp_path):
    root = tree(a="")
    (tmp_path / "outside.toml").write_text("base = 'debian'")
    (tmp_path / "context/link.toml").symlink_to("../outside.toml")
    (tmp_path / "context/absolute.toml").symlink_to(tmp_path / "outside.toml")
    (tmp_path / "context/dir.toml").mkdir()
    for name in ("../outside.toml", str(tmp_path / "outside.toml"), "a/../../outside.toml"):
        assert "lies outside of" in fails(f'include = "{name}"', root=root)
    for name in ("link.toml", "absolute.toml", "missing.toml", "dir.toml"):
        assert f"cannot include '{name}'" in fails(f'include = "{name}"', root=root)


def test_a_pipe_is_not_waited_for(tree, tmp_path):
    import os

    root = tree(a="")
    os.mkfifo(tmp_path / "context/pipe.toml")
    assert "it is not a file" in fails('include = "pipe.toml"', root=root)


def test_the_number_of_included_files_is_bounded(tree):
    root = tree(**{f"f{n}": "" for n in range(70)})
    names = ", ".join(f'"f{n}.toml"' for n in range(70))
    assert "too many included files" in fails(f"include = [{names}]", root=root)


def test_a_spec_on_stdin_includes_nothing():
    assert "only a spec in a file of this host can include" in fails('include = "a.toml"')


# -- checks


def found(text: str, **options: object) -> list[str]:
    return [f"{each.span}: {each}" for each in lowered(text, **options).findings]


SECRET = "sounds like a secret, and ends in the image: see secrets of a command"


def test_what_is_doubtful_is_found():
    text = (
        'base = "debian"\nrun = "{{used}}"\n[args]\nused = "1"\nunused = "2"\n'
        '[env]\nAPI_KEY = "x"\nKEY_FILE = "y"\n[stages.alone]\nenv = { TOKEN = "z" }\n'
    )
    assert found(text) == [
        "layerstore.toml:5:1: UnusedArgument: the argument unused is used by nothing",
        "layerstore.toml:9:1: UnusedStage: nothing needs the stage alone",
        f"layerstore.toml:7:1: SecretsUsedInArgOrEnv: the variable API_KEY {SECRET}",
        f"layerstore.toml:10:9: SecretsUsedInArgOrEnv: the variable TOKEN {SECRET}",
    ]
    assert not [each for each in found(text, target="alone") if "UnusedStage" in each]
    assert found('[matrix]\nv = ["1"]\n[args]\npassword = ""\n[labels]\na = "{{password}}"') == [
        f"layerstore.toml:4:1: SecretsUsedInArgOrEnv: the argument password {SECRET}",
        "layerstore.toml:2:1: UnusedArgument: the axis v is used by nothing",
    ]
    assert found('base = "debian"\nrun = "x"') == []


def listed(count: int, item: str) -> str:
    return ", ".join(item.format(number) for number in range(count))


@pytest.mark.parametrize(
    ("text", "limit", "reason"),
    [
        ("env = {{ {} }}", 2000, "too many variables"),
        ("users = {{ {} }}", 1000, "too many users"),
        ("packages.apt = [{}]", 100, "too many sets of packages"),
        ("packages.apt = [[{}]]", 5000, "too many packages"),
        ("run = [{{ command = 'x', tmpfs = [{}] }}]", 200, "too many mounts"),
        ("run = [{}]", 2000, "too many files or commands"),
        ("steps = [{}]", 2000, "too many steps"),
        ("stages = {{ {} }}", 200, "too many stages"),
        ("base = [{}]", 16, "too many bases"),
    ],
)
def test_numbers_are_bounded(text, limit, reason):
    items = {
        "env": "a{} = '1'", "users": "a{} = {{}}", "packages.apt = [{": "['p{}']",
        "packages.apt = [[": "'p{}'", "tmpfs": "'/m{}'", "run = [{}": "'c{}'",
        "steps": "{{ run = 'x{}' }}", "stages": "a{} = {{}}", "base": "'debian'",
    }  # fmt: skip
    item = next(item for start, item in items.items() if start in text)
    base = "" if text.startswith("base") else "base = 'debian'\n"
    lowered(base + text.format(listed(limit, item)))
    assert reason in fails(base + text.format(listed(limit + 1, item)))


@pytest.mark.parametrize(("stage", "runs"), [("one", ["first"]), ("image", ["second"])])
def test_stages_without_the_cache(stage: str, runs: list[str]) -> None:
    text = (
        'base = { stage = "one" }\nrun = "second"\n[stages.one]\nbase = "debian"\nrun = "first"\n'
    )
    made = lowered(text, no_cache_stages=[stage])
    vertices = topological(made.targets[-1].plan.state.vertex)
    assert commands(each.op for each in vertices if each.no_cache) == runs
    assert "there is no stage 'on' (did you mean one?)" in fails(text, no_cache_stages=["on"])
