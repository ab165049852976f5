"""Benchmarks of images that are shown, run, and exchanged."""

from __future__ import annotations

from tests.bench.suite.table import Bars, Benchmark, Table

_COLUMNS = ("readdir", "stat", "small", "sequential", "random", "python", "node", "compile")
_OVERLAY = "overlay2"


def _speeds(state: str, what: str, kind: str) -> Table:
    groups = [f"{state} {column}" for column in _COLUMNS]
    only = {"group": groups, "what": [what]}
    return Table(f"{state}, {kind}", only=only, show="speed", against=_OVERLAY, strip=f"{state} ")


def _speed_bars(state: str) -> Bars:
    return Bars(
        state,
        f"{state}: speed against docker's overlay2 by wall time; more is faster",
        only={"group": [f"{state} {column}" for column in _COLUMNS], "what": ["time"]},
        show="speed",
        against=_OVERLAY,
        log=True,
        columns=4,
    )


OF_SHOWING = (
    Benchmark(
        name="views",
        title="Reading through a view",
        question=(
            "How fast are reads through every kind of view, beside docker's overlay2, a plain "
            "directory, and other projects' file systems?"
        ),
        promise=(
            "the default view has at least 0.95 of overlay2's speed warm in every "
            "column (stat 0.8), and cold loads take at most 1.3 times as long"
        ),
        module="tests.bench.paths",
        words=("--work", "{cache}"),
        full=("-n", "5", "--cold-rounds", "3"),
        quick=(
            "--quick",
            "--contenders",
            "plain,kernel view,kernel view --rw,fuse view,squashfs zstd",
        ),
        minutes=(8.5, 3),
        inputs=("root",),
        disk_gb=10,
        ours="kernel view",
        variants=("kernel", "fuse view", "fusepy view"),
        tables=[
            _speeds("warm", "time", "wall time"),
            _speeds("cold", "time", "wall time"),
            _speeds("warm", "CPU", "CPU time"),
            _speeds("cold", "CPU", "CPU time"),
        ],
        pictures=[_speed_bars("warm"), _speed_bars("cold")],
    ),
    Benchmark(
        name="mounting",
        title="Making views",
        question="What do views cost to make: the first, further ones, a thousand at once?",
        module="tests.bench.views",
        words=("--work", "{cache}"),
        full=("--inodes", "60000", "--views", "1000"),
        quick=("--inodes", "10000", "--views", "200"),
        minutes=(1, 0.3),
        tables=[Table("", rows="group", columns="what")],
    ),
    Benchmark(
        name="unpacking",
        title="Unpacking files for views",
        question="How fast are files unpacked for the kernel's views, beside as many plain files?",
        promise="at least 300 MB/s where the disk allows it",
        module="tests.bench.unpack",
        words=("--work", "{cache}"),
        full=("--rounds", "2"),
        minutes=(0.8, 1),
        needs=("root", "mkfs.ext4"),
        disk_gb=8,
        tables=[Table("", columns="what")],
    ),
    Benchmark(
        name="start",
        title="Starting a container",
        question="What does a start add to the runtime's own, here, with docker and with podman?",
        promise="at most a fifth of what docker and podman add",
        module="tests.bench.start",
        words=("--tar", "{base}"),
        full=("-n", "15"),
        quick=("-n", "5"),
        minutes=(0.6, 0.3),
        inputs=("base",),
        needs=("root", "runc"),
        ours="layerstore, warm",
        tables=[Table("", columns="what")],
        pictures=[
            Bars(
                "time",
                "Start and end of `true`, less is better",
                panels="what",
                only={"what": ["time", "CPU"]},
                columns=2,
            ),
        ],
    ),
    Benchmark(
        name="many",
        title="Two hundred containers",
        question="What do two hundred containers of one image keep?",
        module="tests.bench.start",
        words=("--tar", "{base}"),
        full=("--many", "200"),
        minutes=(1, 0.5),
        inputs=("base",),
        needs=("root", "runc"),
        tables=[Table("two hundred", rows="who", columns="what")],
    ),
    Benchmark(
        name="startup",
        title="Starting commands",
        question="What do the commands cost that runtimes call in loops, beside starting Python?",
        module="tests.bench.startup",
        words=("--mounts",),
        full=("--rounds", "30"),
        quick=("--rounds", "10"),
        minutes=(0.4, 0.2),
        ours="images",
        tables=[
            Table("CPU of a command", only={"what": ["CPU"]}, show="both", against="python -c pass")
        ],
    ),
    Benchmark(
        name="pull",
        title="Pulling an image and its next version",
        question="What do an image and its next version fetch from a registry 20 ms away?",
        promise="the next version takes at most a fifth of docker's bytes",
        module="tests.bench.updates",
        words=("{cache}",),
        quick=("wheel",),
        minutes=(6, 0.5),
        inputs=("related", "updates", "wheels-numpy"),
        quick_inputs=("wheels-numpy",),
        needs=("root", "docker-registry"),
        disk_gb=8,
        tables=[
            Table("bytes fetched", only={"what": ["fetched"]}, show="both", against="docker"),
            Table("time", only={"what": ["time"]}, show="both", against="docker"),
            Table("CPU of the client", only={"what": ["CPU"]}),
        ],
        pictures=[
            Bars(
                "fetched",
                "Bytes fetched, times docker's; fewer are better",
                only={"what": ["fetched"]},
                show="times",
                against="docker",
                columns=2,
            ),
        ],
    ),
    Benchmark(
        name="lazy-registry",
        title="Programs of an image that is not here",
        question="How soon does a program run of an image in a registry, and what is fetched?",
        module="tests.bench.lazy_registry",
        words=("{cache}",),
        minutes=(0.6, 0.7),
        inputs=("related",),
        needs=("root", "docker-registry"),
        ours="lazy view",
        tables=[
            Table("time", rows="group", columns="who", only={"what": ["time"]}),
            Table("bytes fetched", rows="group", columns="who", only={"what": ["fetched"]}),
        ],
    ),
    Benchmark(
        name="lazy",
        title="Lazy views",
        question="What does a lazy view fetch, and what does a trace of an earlier start spare?",
        promise="reading 5 % of an image fetches under 10 %",
        module="tests.bench.lazy",
        words=("--work", "{cache}"),
        full=("--rounds", "1"),
        minutes=(1.5, 1),
        ours="kernel",
        variants=("kernel", "fuse"),
        tables=[
            Table("a start, then 5 %", columns="what", only={"group": ["a start, then 5 %"]}),
            Table(
                "a small file that is here",
                columns="what",
                only={"group": ["a small file that is here"]},
            ),
        ],
    ),
    Benchmark(
        name="exchange",
        title="Loading and saving",
        question="What do loading and saving an image cost, beside docker, podman and skopeo?",
        module="tests.bench.exchange",
        words=("--tar", "{base}"),
        full=("-n", "3"),
        quick=("-n", "1"),
        minutes=(1.3, 0.4),
        inputs=("base",),
        needs=("root",),
        tables=[
            Table("CPU", only={"what": ["CPU"]}, show="both", against="layerstore"),
            Table("time", only={"what": ["time"]}, show="both", against="layerstore"),
        ],
    ),
    Benchmark(
        name="containerd",
        title="containerd with our snapshotter",
        question="What do unpacking, a start and the disk cost, beside containerd's overlayfs?",
        module="tests.bench.containerd",
        words=("{one}", "{two}"),
        full=("--rounds", "2"),
        minutes=(3.8, 1),
        inputs=("versions",),
        needs=("root", "containerd", "runc"),
        disk_gb=4,
        tables=[
            Table("time", rows="group", columns="who", only={"what": ["time"]}),
            Table("CPU", rows="group", columns="who", only={"what": ["CPU"]}),
            Table("disk", rows="group", columns="who", only={"what": ["disk"]}),
        ],
    ),
    Benchmark(
        name="podman-store",
        title="podman over our store",
        question="What does podman's first container cost, after its own pull and over our store?",
        module="tests.bench.podman_store",
        words=("--tar", "{base}"),
        full=("-n", "2"),
        minutes=(0.9, 1),
        inputs=("base",),
        needs=("root", "podman", "runc", "docker-registry"),
        variants=("layerstore", "in place"),
        tables=[
            Table("first image", columns="what", only={"group": ["first:1"]}),
            Table("second image", columns="what", only={"group": ["second:1"]}),
        ],
    ),
    Benchmark(
        name="http-clients",
        title="HTTP clients",
        question="What does a GiB over loopback cost our HTTP client, and others?",
        module="tests.bench.http_clients",
        full=("-n", "3"),
        minutes=(0.1, 0.2),
        needs=(),
        tables=[Table("CPU", only={"what": ["CPU"]}, show="both", against="http.client")],
    ),
    Benchmark(
        name="packs-in-place",
        title="Packs mounted in place",
        question="Does the kernel read every byte out of packs right, and what does that cost?",
        promise="nothing differs",
        module="tests.bench.packs_in_place",
        words=("--work", "{cache}"),
        full=("-n", "3"),
        minutes=(4, 2),
        explores=True,
        ours="kernel",
        variants=("kernel",),
        tables=[
            Table(what, rows="group", columns="who", only={"what": [what]})
            for what in ("first mount", "again mount", "further mount", "disk beside the store")
        ],
    ),
    Benchmark(
        name="fuse-servers",
        title="FUSE servers",
        question="How do FUSE servers compare: ours, and libfuse's through fusepy?",
        module="tests.bench.fuse_servers",
        words=("--tar", "{base}", "--work", "{cache}"),
        full=("-n", "3"),
        minutes=(4, 2),
        inputs=("base",),
        explores=True,
        ours="own server",
        tables=[Table("speed", only={"what": ["time"]}, show="speed", against="plain directory")],
    ),
    Benchmark(
        name="passthrough",
        title="FUSE_PASSTHROUGH",
        question="What would FUSE_PASSTHROUGH gain our FUSE server?",
        module="tests.bench.passthrough",
        words=("--tar", "{base}", "--work", "{cache}"),
        full=("-n", "3"),
        minutes=(2, 1),
        inputs=("base",),
        explores=True,
        ours="own server",
        tables=[Table("speed", only={"what": ["time"]}, show="speed", against="plain directory")],
    ),
    Benchmark(
        name="fanotify",
        title="fanotify under an overlay",
        question="What do fanotify's events do under an overlay, and when a listener dies?",
        module="tests.bench.fanotify",
        words=("--work", "{cache}"),
        minutes=(0.2, 0.2),
        explores=True,
        ours="",
        tables=[Table("", columns="what")],
    ),
)
