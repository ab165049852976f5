"""Valid inputs for every target, and how to make their checksums right after a mutation."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import zstandard
from blake3 import blake3

from layerstore.digest import ChunkId, blake3_id
from layerstore.formats import bundle, oci, pack, parcels, strict_json
from layerstore.formats.decompress_zstd import SKIPPABLE_MAGICS, ZSTD_MAGIC
from layerstore.formats.framed import encode_framed
from layerstore.formats.have_list import encode_have_list
from layerstore.formats.oci_config import ImageConfig, encode_config
from layerstore.formats.tree import Changeset, Entry, Kind
from layerstore.store.config import new_config
from layerstore.store.names import names_log
from layerstore.store.packs.codec import compress_block
from layerstore.store.records import LayerRecord, encode_layer
from tests.support import rpm_database, tars
from tests.support.encoding import encode_changeset, encode_plan

if TYPE_CHECKING:
    from layerstore.formats.oci_config import ImageConfig as Config

COMPRESSED = (b"\x1f\x8b", ZSTD_MAGIC, b"\xfd7zXZ\0", b"BZh", *SKIPPABLE_MAGICS)
DIGEST = "sha256:" + "ab" * 32
_CHECKSUM = slice(148, 156)

TAR_TOKENS = (
    tars.END, tars.member(b"a", b"1"), tars.directory(b"d/"), tars.symlink(b"s", b"d"),
    tars.hardlink(b"h", b"a"), tars.pax((b"path", b"x")), tars.gnu_long(b"n" * 120),
    tars.pax((b"size", b"1")), tars.pax((b"GNU.sparse.size", b"9")), b"../", b".wh.", b"/",
    b".wh..wh..opq", tars.GNU, tars.USTAR, tars.V7, b"SCHILY.xattr.user.x=1\n",
)  # fmt: skip
COMPRESSION_TOKENS = (*COMPRESSED, b"\0" * 10, b"1AY&SY", b"\x17rE8P\x90", b"\x01\x00\x00")
TREE_TOKENS = (
    b"\xc4\x00",
    b"\x90",
    b"\x9c",
    b"\xc4\x01a",
    b"\xcf" + b"\xff" * 8,
    b"\xd3" + b"\x80",
)
JSON_TOKENS = (
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"1e400", b"NaN", b"-1", b"\\ud800",
    b'"layers":[]', b'"manifests":[]', b'"mediaType":"x"', b'"urls":["http://x"]', b'"size":0',
    DIGEST.encode(), b'"data":"AA=="', b"\xef\xbb\xbf", b"[" * 200,
)  # fmt: skip
TOML_TOKENS = (
    b"[store]",
    b"[[a]]",
    b"'''",
    b'"""',
    b"=",
    b"format = 2",
    b"[",
    b"{a=1}",
    b"1e9",
    b"#",
)
URL_TOKENS = (
    b"://",
    b"@",
    b":",
    b"?",
    b"#",
    b"&",
    b"=",
    b"%2e%2e",
    b"..",
    b"-",
    b"\\",
    b"[::1]",
    b".git",
    b"ref=",
    b"subdir=",
    b"ext::",
    b"file",
)
GIT_TOKENS = (b"40000 ", b"100644 ", b"120000 ", b"160000 ", b".git\0", b"..\0", b"tree ", b"> ")
GLOB_TOKENS = (
    b"**",
    b"*",
    b"?",
    b"[",
    b"]",
    b"[^",
    b"-",
    b"\\",
    b"!",
    b"/",
    b"**/",
    b"\r\n",
    b"..",
)
DOCKERFILE_TOKENS = tuple(
    text.encode()
    for text in (
        "FROM a AS b\n", "RUN ", "COPY ", "ADD ", "ENV A=b\n", "ARG A=$B\n", "ONBUILD ", "<<EOF\n",
        "EOF\n", "<<-'E'\n", "E\n", "--from=b ", "--mount=type=cache,target=/c ", "--mount=", '"',
        "--mount=type=secret,id=s ", "--chown=1:2 ", "--chmod=u=rwX ", "--exclude=* ", "\\\n", "'",
        "# escape=`\n", "# syntax=x\n", "${A:-", "${A//a/", "$A", "}", "[", '["a"]', "]", "\ufeff",
        "HEALTHCHECK --interval=1h CMD x\n", "EXPOSE 1-9/tcp\n", "VOLUME /x\n", "USER a:b\n",
        "WORKDIR $A\n", "SHELL [\"a\"]\n", "STOPSIGNAL 9\n", "LABEL a=b\n", "\u202e", "\0",
    )
)  # fmt: skip


class AnyImage:
    """Finds an image of any name but ``none``, with triggers of its own."""

    def find(self, reference: str, _platform: object = None) -> Config | None:
        from layerstore.formats.oci_config import ContainerConfig

        if reference == "none":
            return None
        return ImageConfig(
            architecture="amd64",
            config=ContainerConfig(env=("A=base",), on_build=("RUN x", "ENV T=1")),
        )

    def pull(self, reference: str, platform: object) -> None:
        """Bring nothing."""


class AnyNativeImage:
    """Finds an image of any name but ``none``; its layers say its name."""

    def find(self, reference: str, _platform: object = None) -> Config | None:
        from tests.support.native import image

        return None if reference == "none" else image(len(reference))


def archives() -> list[bytes]:
    from tests.security.corpus.archives import ALL

    return list(ALL.values())


def repair_tar(data: bytes) -> bytes:
    """Make the checksum right of every block that looks like a header."""
    fixed = bytearray(data)
    for start in range(0, len(data) - 511, 512):
        block = fixed[start : start + 512]
        if block[257:262] == b"ustar" or (start == 0 and block[0]):
            block[_CHECKSUM] = b" " * 8
            at = start + _CHECKSUM.start
            fixed[at : at + 8] = b"%06o\0 " % sum(block)
    return bytes(fixed)


def compressed() -> list[bytes]:
    tar = tars.member(b"a", random.Random(1).randbytes(2000)) + tars.member(b"z", bytes(9000))
    packer = zstandard.ZstdCompressor(write_checksum=True)
    blocks = [
        gzip.compress(tar, mtime=0), gzip.compress(tar, 0, mtime=0), lzma.compress(tar),
        bz2.compress(tar), packer.compress(tar), zstandard.ZstdCompressor(19).compress(tar),
        zstandard.ZstdCompressor(write_content_size=False).compress(tar * 20),
        gzip.compress(bytes(200_000), mtime=0), packer.compress(bytes(3_000_000)),
        b"\x1f\x8b\x08\x1e" + bytes(6) + b"\3\0abcname\0comment\0\0\0" + gzip.compress(tar)[10:],
        b"\x50\x2a\x4d\x18\4\0\0\0abcd" + packer.compress(tar), bz2.compress(bytes(300_000)),
        lzma.compress(bytes(300_000)), bz2.compress(b""), lzma.compress(b""), gzip.compress(b""),
    ]  # fmt: skip
    return [*blocks, blocks[0] + blocks[1], blocks[4] + blocks[5], blocks[2] + bytes(8), tar]


def _chunk(number: int) -> ChunkId:
    return ChunkId(bytes([number]) * 32)


def trees() -> list[bytes]:
    entries = (
        Entry(b"", Kind.DIR, 0o755),
        Entry(b"a", Kind.FILE, 0o4755, 1, 2, 10**18, 9, ((3, _chunk(1)), (6, None))),
        Entry(b"b", Kind.HARDLINK, 0o4755, 1, 2, 10**18, target=b"a"),
        Entry(b"c", Kind.CHAR, dev_major=1, dev_minor=3, xattrs=((b"user.a", b"1"),)),
        Entry(b"d", Kind.DIR, 0o700, 2**32 - 2, 0, -5),
        Entry(b"d/f", Kind.FIFO, 0o600),
        Entry(b"d/\xff", Kind.SYMLINK, 0o777, target=b"../../etc"),
    )
    values = [
        Changeset(), Changeset(entries), Changeset(entries[:1], (b"b",)),
        Changeset(entries[4:], (b"a", b"d/x"), (b"", b"d")), Changeset((), (b"x" * 255,), (b"y",)),
    ]  # fmt: skip
    return [encode_changeset(value) for value in values]


def recipes() -> list[bytes]:
    return [
        encode_plan([], 1024, []),
        encode_plan([(512, 0), (1024, 1), (700, 5)], 10240, []),
        encode_plan([(512, 0), (512, 3), (512, 1)], 1024, [100, 200, 5]),
        encode_plan([(512, at) for at in range(60)], 1024, []),
    ]


def packs() -> list[bytes]:
    return [
        _pack([]),
        _pack([b"hello\n"]),
        _pack([b"a" * 9000, b"b"]),
        _pack(_pieces(), split=True),
    ]


def _pieces() -> list[bytes]:
    source = random.Random(5)
    return [source.randbytes(source.randrange(1, 300)) for _ in range(12)]


def _pack(contents: list[bytes], *, split: bool = False) -> bytes:
    groups = [[item] for item in contents] if split else [contents] if contents else []
    body = bytearray(pack.encode_header())
    blocks = []
    for group in groups:
        raw = b"".join(group)
        frame = compress_block(raw)
        items = tuple(pack.Item(ChunkId(blake3_id(item)), len(item)) for item in group)
        blocks.append(pack.Block(len(body), len(frame), len(raw), pack.ItemKind.DATA, items))
        body += frame
    body += bytes(pack.padding(len(body)))
    return bytes(body) + pack.encode_footer(blocks, len(body))


def bundles() -> list[bytes]:
    image = bundle.BundledImage(("a:1",), b"{}", b"{}", (b"{}",))
    base = bundle.BaseImage(DIGEST, (DIGEST,), ("b:1",))
    described = [
        bundle.Description((), (), (), 0),
        bundle.Description((image,), (b"record",), (base,), 77),
    ]
    return [_bundle(each, data) for each in described for data in (b"", packs()[1])]


def _bundle(description: bundle.Description, data: bytes) -> bytes:
    heads = bundle.HeadSum()
    out = [heads.add(bundle.encode_header())]
    payload = bundle.encode_description(description)
    for kind, part in ((bundle.DESCRIPTION_KIND, payload), (bundle.PACK_KIND, data)):
        out += [heads.add(bundle.encode_record(kind, len(part), blake3_id(part))), part]
    total = heads.digest()
    return b"".join([*out, bundle.encode_record(bundle.END_KIND, 32, blake3_id(total)), total])


def repair_bundle(data: bytes) -> bytes:
    """Compress a description anew that is not even a frame, so that what lies behind is reached."""
    start = bundle.HEADER.size + bundle.RECORD.size
    plain = data[start:200]
    frame = zstandard.ZstdCompressor().compress(plain)
    head = bundle.encode_record(bundle.DESCRIPTION_KIND, len(frame), blake3_id(frame))
    return bundle.encode_header() + head + frame + data[200:]


def parcel_descriptions() -> list[bytes]:
    encoding = parcels.KnownEncoding(DIGEST, DIGEST, 9, "{}")
    described = [parcels.ParcelDescription(()), parcels.ParcelDescription((b"x",), (encoding,))]
    plain = [msgspec.msgpack.encode(each) for each in described]
    return [*map(parcels.encode_parcel_description, described), *plain]


def pack_tables() -> list[bytes]:
    found = []
    for data in packs():
        trailer = pack.decode_trailer(data[-pack.TRAILER.size :], len(data))
        blocks = pack.decode_footer(data[trailer.footer_offset : -pack.TRAILER.size], trailer)
        size = len(data).to_bytes(8, "little")
        found.append(size + parcels.encode_table(blocks, trailer.footer_offset))
        found.append(size + data[trailer.footer_offset :])
    return found


def repair_frame(data: bytes) -> bytes:
    """Make a frame of what is none."""
    return data if data.startswith(ZSTD_MAGIC) else encode_framed(data or b"x", 1 << 20, "it")


def have_lists() -> list[bytes]:
    return [encode_have_list([]), encode_have_list(bytes((n,)) * 32 for n in range(9))]


def repair_have_list(data: bytes) -> bytes:
    """Make the checksum right."""
    return data[:-32] + blake3_id(data[:-32])


def repair_pack(data: bytes) -> bytes:
    """Make the trailer point at the last aligned footer, with its length and hash right."""
    if len(data) < pack.HEADER.size + pack.TRAILER.size + pack.COUNTS.size:
        return data
    end = len(data) - pack.TRAILER.size
    start = (end - pack.COUNTS.size) // pack.ALIGNMENT_BYTES * pack.ALIGNMENT_BYTES
    footer = data[start:end]
    trailer = pack.TRAILER.pack(
        start, len(footer), blake3(footer).digest(), pack.PACK_VERSION, 0, pack.TRAILER_MAGIC
    )
    return data[:end] + trailer


def layer_records() -> list[bytes]:
    refs = ((5, _chunk(1)), (7, _chunk(2)))
    return [
        encode_layer(LayerRecord(DIGEST, 10240, refs, refs[:1], "segments-1", 2, 12)),
        encode_layer(LayerRecord(DIGEST, 1024, (), (), "canonical-1", 0, 0)),
    ]


def names_logs() -> list[bytes]:
    records = [
        (names_log.TAG, "web:latest", DIGEST), (names_log.TAG, "a.example:5000/é:1", DIGEST),
        (names_log.UNTAG, "web:latest"), (names_log.RESET,), (names_log.TAG, "b:2", DIGEST),
    ]  # fmt: skip
    lines = [names_log.encode_record(record) for record in records]
    return [b"".join(lines), lines[0], b"".join(lines)[:-9], b"", b"\n\n" + lines[3]]


def repair_names_log(data: bytes) -> bytes:
    lines = data.split(b"\n")
    return b"\n".join(_sealed_line(line) if line[16:17] == b" " else line for line in lines)


def _sealed_line(line: bytes) -> bytes:
    return names_log._checksum(line[17:]) + line[16:]


def store_configs() -> list[bytes]:
    text = new_config().decode()
    return [
        text.encode(),
        text.replace("[]", '["x"]').encode(),
        text.replace("= 1", "= 2").encode(),
        text.replace("digest = ", "other = ").encode(),
    ]


def documents() -> list[bytes]:
    layer = oci.Descriptor(media_type=oci.LAYER_GZIP_TYPE, digest=DIGEST, size=5)
    config = oci.Descriptor(media_type=oci.CONFIG_TYPE, digest=DIGEST, size=2)
    manifest = oci.Manifest(config=config, layers=(layer, layer), annotations={"a": "b"})
    inner = oci.Descriptor(
        media_type=oci.MANIFEST_TYPE, digest=DIGEST, size=9,
        platform=oci.Platform(architecture="arm64", os="linux", variant="v8"),
        annotations={oci.REF_NAME: "1"},
    )  # fmt: skip
    return [
        oci.encode_manifest(manifest), oci.encode_index(oci.Index(manifests=(inner,))),
        encode_config(ImageConfig(architecture="amd64")), strict_json.encode(_docker_config()),
        b'{"schemaVersion":2,"config":{"digest":"%b"},"layers":[]}' % DIGEST.encode(),
    ]  # fmt: skip


def _docker_config() -> dict[str, object]:
    return {
        "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00.5Z",
        "config": {
            "User": "a:b", "Env": ["A=b"], "Cmd": ["sh"], "Entrypoint": None, "Volumes": {"/v": {}},
            "ExposedPorts": {"80/tcp": {}}, "WorkingDir": "/w", "Labels": {"l": "m"},
            "Healthcheck": {"Test": ["CMD", "x"], "Interval": 10**9}, "OnBuild": ["RUN x"],
            "Shell": ["/bin/sh"], "StopSignal": "SIGTERM", "StopTimeout": 5, "ArgsEscaped": True,
        },
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "x", "empty_layer": True}],
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]}, "vendor": {"x": [1, 2.5, None]},
    }  # fmt: skip


def references() -> list[bytes]:
    return [
        b"debian", b"debian:12", b"docker.io/library/debian:12", b"localhost:5000/a/b_c.d-e:1.0",
        b"[::1]:80/x:y", b"a@" + DIGEST.encode(), b"ab" * 32, b"quay.io/team/app:" + b"t" * 128,
    ]  # fmt: skip


def dockerfiles() -> list[bytes]:
    golden = Path(__file__).parent.parent.parent / "golden" / "dockerfile"
    found = [path.read_bytes() for path in sorted(golden.glob("*/Dockerfile"))]
    return [data for data in found if len(data) <= 4096]


def triggers() -> list[bytes]:
    return [
        b"RUN --mount=type=cache,target=$V make", b"COPY <<A <<'B' /x/\n$A\nA\n$A\nB\n",
        b'CMD ["a", "b"]', b"ENV a=$A b='c d'", b"EXPOSE $A 80-90/udp", b"ADD --chmod=u=rwX a /b",
    ]  # fmt: skip


def words() -> list[bytes]:
    return [
        b"${A:-${E:+x}}", b"${P#*/} ${P%%z*}", b"${P//[xy]/w}${P/\\*/}", b"\"$A\"'$A'\\$A",
        b"${N?gone}${A:?}", b"$1$@${N}", b"a$A.b${E-}c",
    ]  # fmt: skip


def ignore_files() -> list[bytes]:
    return [
        b"*\n!keep\n", b"# c\n\n/a/b/\n**/*.o\n!**/x.o\n", b"a?c\n[a-z]*\n[^x]\n\\*\n",
        b"\xef\xbb\xbf.git\r\n*.pyc\r\n", b"**/a/**/b\n!a/**\n", b"a/../b\n./c\n",
    ]  # fmt: skip


def remote_sources() -> list[bytes]:
    return [
        b"https://example.com/a.git#main:dir\n../b.git", b"git@github.com:a/b.git?ref=v1\n./c",
        b"ssh://git@h:22/~u/r?branch=b&subdir=/d&submodules=false\nhttps://e.com/x",
        b"git://[::1]:9418/r#:sub\ngit@h:x", b"https://u:p@h/%41/b%20c?q=1#f\nname",
        b"http://h/?tag=v1&checksum=0123456&keep-git-dir\n", b"http://[::1]:80/x.git\n/etc",
    ]  # fmt: skip


def git_trees() -> list[bytes]:
    entry = b"100644 name\0" + bytes(20)
    commit = b"tree %s\nauthor a <b> 1 +0000\ncommitter a <b> 1600000000 +0000\n\nm\n"
    return [
        entry, b"40000 dir\0" + bytes(range(20)) + entry, b"120000 l\0" + b"\xff" * 20,
        b"160000 sub\0" + bytes(20) + b"100755 x\0" + bytes(20), commit % (b"0" * 40),
    ]  # fmt: skip


def patterns() -> list[bytes]:
    return [b"*.txt\na.txt", b"a/*/c\na/b/c", b"[a-c]?\\*\nbx*", b"[^a]\nb", b"**\na/b"]


NATIVE_TOKENS = (
    b"{{a}}", b"{{!a}}", b"{{env.PATH}}", b"[[run]]\n", b"[stages.a]\n", b"[matrix]\n",
    b"[args]\n",
    b"[packages]\n", b"[users]\n", b"[files]\n", b"[env]\n", b"base = ", b"include = ",
    b"content = ",
    b"stage = ", b"image = ",
    b"from = ", b'["a", "b"]', b"{}", b"[]", b"{ ", b" }",
    b"\n", b'"', b"'",
)  # fmt: skip


def native_specs() -> list[bytes]:
    from pathlib import Path

    top = Path(__file__).parents[3]
    page = (top / "docs/reference/layerstore-toml.md").read_text()
    blocks = [block.partition("```")[0] for block in page.split("```toml\n")[1:]]
    example = (top / "Dockerfile-examples/native-spec/layerstore.toml").read_text()
    return [text.encode() for text in (*blocks, example)]


def lock_files() -> list[bytes]:
    from layerstore.build.native import lockfile

    package = lockfile.AptPackage(
        name="a", version="1", file="a_1_all.deb", uri="http://a/a.deb", size=1, sha256="0" * 64
    )
    lock = lockfile.Lock(
        bases=(lockfile.Base(name="a", layers="sha256:1"),),
        apt=(lockfile.Apt(over="sha256:1", packages=("a",), install=(package,)),),
        pip=(
            lockfile.Pip(
                over="sha256:1", requirements="a",
                install=(lockfile.PipPackage(name="a", version="1", sha256="0" * 64),),
            ),
        ),
        npm=(lockfile.Npm(over="sha256:1", packages=("a",), lock={"a": [1, None, {}]}),),
    )  # fmt: skip
    return [lockfile.encode(lock), lockfile.encode(lockfile.Lock())]


PACKAGE_DATABASES = (
    b"etc/os-release", b"lib/apk/db/installed", b"var/lib/dpkg/status",
    b"var/lib/dpkg/status.d/one", b"x/node_modules/a/package.json", b"y.dist-info/METADATA",
    b"z.egg-info", b"var/lib/rpm/rpmdb.sqlite",
)  # fmt: skip
"""Where lists of an image's packages look."""


def package_databases() -> list[bytes]:
    return [
        b"Package: a\nStatus: install ok installed\nVersion: 1:2\nSource: b (4)\n x\n\nPackage: c",
        b"P:musl\nV:1.2-r0\nA:x86_64\nL:MIT\no:musl\nm:A <a@example.org>\n\n",
        b"Metadata-Version: 2.1\nName: A_b.c\nVersion: 1\nHome-page: http://x/\n\ntext",
        b'{"name":"@a/b","version":"1.0.0","license":{"type":"MIT"},"author":{"name":"A"}}',
        b'ID=debian\nVERSION_ID="12"\n',
        rpm_database.database([*rpm_headers(), "text"]),
    ]


def rpm_headers() -> list[bytes]:
    return [
        rpm_database.header(name="a", version="1", release="2", epoch=3, arch="noarch"),
        rpm_database.header(name="b", vendor="x", license="MIT", url="http://x/", source="y"),
    ]
