"""COPY, ADD and .dockerignore."""

import io
import stat
import tarfile

from tests.support.build_cases import Case, D, F, H, L, Node


def _tar(form: str, *members: tuple[str, str | bytes | None]) -> bytes:
    """Return a tar of files, directories (None) and links (``-> target``)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{form}") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.mtime, member.uid, member.gid = 1_400_000_000, 7, 8
            if content is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o750
                archive.addfile(member)
            elif isinstance(content, str) and content.startswith("-> "):
                member.type, member.linkname = tarfile.SYMTYPE, content[3:]
                archive.addfile(member)
            elif isinstance(content, str) and content.startswith("= "):
                member.type, member.linkname, member.mode = tarfile.LNKTYPE, content[2:], 0o640
                archive.addfile(member)
            else:
                data = content.encode() if isinstance(content, str) else content
                member.size, member.mode = len(data), 0o640
                archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


GZIP_OF_X = bytes.fromhex("1f8b08000100000002ffab0000 8316dc8c 01000000")

TREE = {
    "d/a": "a", "d/b.txt": "b", "d/sub/c.txt": "c", "d/sub/deep/e": "e", "d/.hidden": "h",
    "f.txt": "f", "g.txt": "g", "h.md": "h",
}  # fmt: skip
MODES = {
    "plain": F("p", 0o600, 5, 6), "exec": F("x", 0o755), "setuid": F("s", 0o4755, 3, 4),
    "setgid": F("s", 0o2755), "sticky": D(0o1777), "sticky/in": "1", "closed": D(0o700, 9, 9),
    "closed/in": F("2", 0o400, 9, 9), "none": F("n", 0), "gdir": D(0o2775), "gdir/x": "",
}  # fmt: skip
TAR = _tar("", ("t/", None), ("t/f", "f"), ("t/l", "-> f"), ("t/h", "= t/f"), ("top", "x"))
SAMPLE = {"src/a": "a", "src/b/c": "c"}
S = "FROM scratch\n"
B = "FROM box\n"

PATHS = [
    Case("copy-file-to-root", S + "COPY f.txt /\n", TREE),
    Case("copy-file-to-name", S + "COPY f.txt /x/y/z\n", TREE),
    Case("copy-file-to-dir", S + "COPY f.txt /x/\n", TREE),
    Case("copy-dir-content", S + "COPY d /x\n", TREE),
    Case("copy-dir-slash", S + "COPY d/ /x/\n", TREE),
    Case("copy-dir-dot", S + "COPY d/. /x/\n", TREE),
    Case("copy-two", S + "COPY f.txt g.txt /x/\n", TREE),
    Case("copy-two-no-slash", S + "COPY f.txt g.txt /x\n", TREE),
    Case("copy-file-and-dir", S + "COPY f.txt d /x/\n", TREE),
    Case("copy-wildcard", S + "COPY *.txt /x/\n", TREE),
    Case("copy-wildcard-one-no-slash", S + "COPY f*.txt /x\n", TREE),
    Case("copy-wildcard-many-no-slash", S + "COPY *.txt /x\n", TREE),
    Case("copy-wildcard-dirs", S + "COPY d/* /x/\n", TREE),
    Case("copy-wildcard-question", S + "COPY ?.txt [gh].* /x/\n", TREE),
    Case("copy-wildcard-middle", S + "COPY d/*/*.txt /x/\n", TREE),
    Case("copy-wildcard-double-star", S + "COPY d/**/*.txt /x/\n", TREE),
    Case("copy-wildcard-none", S + "COPY nope* /x/\n", TREE),
    Case("copy-wildcard-optional", S + "COPY f.txt nope* /x/\n", TREE),
    Case("copy-missing", S + "COPY nope /x/\n", TREE),
    Case("copy-missing-dir", S + "COPY d/nope/x /x/\n", TREE),
    Case("copy-through-file", S + "COPY f.txt/x /x/\n", TREE),
    Case("copy-file-slash", S + "COPY f.txt/ /x/\n", TREE),
    Case("copy-all", S + "COPY . /app\n", TREE),
    Case("copy-all-slash", S + "COPY / /app/\n", TREE),
    Case("copy-parent", S + "COPY ../f.txt /x/\n", TREE),
    Case("copy-parent-inside", S + "COPY d/../f.txt /x/\n", TREE),
    Case("copy-absolute-source", S + "COPY /f.txt /d/sub /x/\n", TREE),
    Case("copy-json", S + 'COPY ["f.txt", "sp ace", "/x y/"]\n', {**TREE, "sp ace": "s"}),
    Case("copy-json-one", S + 'COPY ["f.txt"]\n', TREE),
    Case("copy-quoted", S + 'COPY "f.txt" "/x/"\n', TREE),
    Case("copy-quoted-space", S + 'COPY "sp ace" "/x/"\n', {"sp ace": "s"}),
    Case("copy-escaped-space", S + "COPY sp\\ ace /x/\n", {"sp ace": "s"}),
    Case("copy-one-argument", S + "COPY f.txt\n", TREE),
    Case("copy-variables", S + "ENV s=f.txt d=/x\nCOPY $s ${d}/ \nCOPY ${s%.txt}* $d/y/\n", TREE),
    Case("copy-variable-empty", S + "COPY f.txt $unset /x/\n", TREE),
    Case("copy-dest-expands-to-nothing", S + "WORKDIR /w\nCOPY f.txt $unset\n", TREE),
    Case("copy-workdir", S + "WORKDIR /w\nCOPY f.txt .\nCOPY g.txt x/\nCOPY h.md ../y\n", TREE),
    Case("copy-dest-dots", S + "COPY f.txt /a/../b/./c\nCOPY g.txt /../../g\n", TREE),
    Case("copy-over-file", S + "COPY f.txt /x\nCOPY g.txt /x\n", TREE),
    Case("copy-into-existing-dir", B + "RUN mkdir -m 700 /x\nCOPY f.txt /x\nCOPY d /x\n", TREE),
    Case("copy-file-onto-file-slash", B + "RUN echo > /x\nCOPY f.txt /x/\n", TREE),
    Case("copy-dir-onto-file", B + "RUN echo > /x\nCOPY d /x\n", TREE),
    Case("copy-file-over-dir-name", B + "RUN mkdir -p /x/f.txt\nCOPY f.txt /x/\n", TREE),
    Case("copy-below-file", B + "RUN echo > /x\nCOPY f.txt /x/y/z\n", TREE),
    Case("copy-dest-link-to-dir", B + "RUN mkdir /r && ln -s /r /x\nCOPY f.txt /x\n", TREE),
    Case("copy-dest-link-to-dir-slash", B + "RUN mkdir /r && ln -s r /x\nCOPY d /x/\n", TREE),
    Case("copy-dest-link-to-file", B + "RUN echo o > /r && ln -s /r /x\nCOPY f.txt /x\n", TREE),
    Case("copy-dest-dangling", B + "RUN ln -s /r/s /x\nCOPY f.txt /x\n", TREE),
    Case("copy-dest-dangling-slash", B + "RUN ln -s /r/s /x\nCOPY f.txt /x/\n", TREE),
    Case("copy-dest-link-in-middle", B + "RUN mkdir /r && ln -s r /x\nCOPY f.txt /x/a/b\n", TREE),
    Case("copy-dest-link-escapes", B + "RUN ln -s ../../../r /x\nCOPY f.txt /x/\n", TREE),
    Case("copy-dest-link-loop", B + "RUN ln -s /x /x\nCOPY f.txt /x/y\n", TREE),
    Case(
        "copy-dir-over-link-below",
        B + "RUN mkdir -p /r /x && ln -s /r /x/sub\nCOPY d /x\n",
        {"d/sub/f": "1"},
    ),
    Case(
        "copy-file-over-link-below",
        B + "RUN mkdir -p /x && echo old > /r && ln -s /r /x/f\nCOPY d /x\n",
        {"d/f": "1"},
    ),
    Case(
        "copy-dir-keeps-existing-mode",
        B + "RUN mkdir -m 700 -p /x && chown 4:5 /x && mkdir -m 711 /x/sub\nCOPY d /x\n",
        {"d": D(0o755), "d/sub": D(0o750), "d/sub/f": "1"},
    ),
    Case("copy-pattern-class", S + "COPY [f]*.txt x[[]y /d/\n", {"f1.txt": "", "x[y": "1"}),
    Case("copy-bad-pattern", S + "COPY a[ /d/\n", {"a[": "1"}),
    Case("copy-escaped-star", S + "COPY a\\* /d/\n", {"a*": "1", "ab": "2"}),
    Case("copy-escaped-star-json", S + 'COPY ["a\\\\*", "/d/"]\n', {"a*": "1", "ab": "2"}),
    Case("copy-same-name-twice", S + "COPY a/x b/x /d/\n", {"a/x": "1", "b/x": "2"}),
    Case("copy-empty-dir", S + "COPY e /x\n", {"e": D(0o711)}),
    Case("copy-empty-dir-within", S + "COPY . /x\n", {"e/f": D(0o711), "e": D(0o700)}),
]

WHAT = [
    Case("copy-modes", S + "COPY . /x/\n", MODES),
    Case("copy-modes-one-by-one", S + "COPY plain exec setuid setgid none /x/\n", MODES),
    Case(
        "copy-mode-of-source-dir", S + "COPY sticky /x\nCOPY closed /y/\nCOPY closed /a/b\n", MODES
    ),
    Case("copy-chown", S + "COPY --chown=11:12 . /x/\n", MODES),
    Case("copy-chown-uid", S + "COPY --chown=11 plain /x/\nCOPY --chown=:12 plain /y/\n", MODES),
    Case("copy-chown-names", B + "COPY --chown=daemon:adm plain /x/y\n", MODES),
    Case("copy-chown-name", B + "COPY --chown=daemon plain sticky /x/y/\n", MODES),
    Case("copy-chown-unknown", B + "COPY --chown=nosuch plain /x/\n", MODES),
    Case("copy-chown-unknown-group", B + "COPY --chown=0:nosuch plain /x/\n", MODES),
    Case("copy-chown-name-scratch", S + "COPY --chown=root plain /x/\n", MODES),
    Case("copy-chown-user-group-form", B + "COPY --chown=daemon: plain /x/\n", MODES),
    Case("copy-chown-variable", S + "ARG u=5\nCOPY --chown=$u:${g:-6} plain /x/\n", MODES),
    Case("copy-chown-empty", S + "COPY --chown=$u plain /x/\n", MODES),
    Case("copy-chown-existing-dir", B + "RUN mkdir /x\nCOPY --chown=3 plain /x/\n", MODES),
    Case("copy-chown-dir-existing", B + "RUN mkdir /x\nCOPY --chown=3 sticky /x/\n", MODES),
    Case("copy-user-does-not-own", B + "USER daemon\nCOPY plain /x/\n", MODES),
    Case("copy-chmod", S + "COPY --chmod=640 . /x/\n", MODES),
    Case("copy-chmod-dir", S + "COPY --chmod=700 d /x\n", {"d/sub/f": "1"}),
    Case("copy-chmod-dir-slash", S + "COPY --chmod=700 d/ /x/\n", {"d/sub/f": "1"}),
    Case("copy-chmod-dir-deep", S + "COPY --chmod=700 d /a/b\n", {"d/sub/f": "1"}),
    Case("copy-chmod-dir-symbolic", S + "COPY --chmod=go-rx d /x\n", {"d/sub/f": "1"}),
    Case("copy-chmod-dir-empty", S + "COPY --chmod=700 d /x\n", {"d": D(0o755)}),
    Case("copy-chmod-dir-link", B + "COPY --link --chmod=700 d /x\n", {"d/sub/f": "1"}),
    Case(
        "copy-chmod-dir-existing",
        B + "RUN mkdir -p /x/sub /y\nCOPY --chmod=700 d /x\nCOPY --chmod=700 d e /y/\n",
        {"d/sub/f": "1", "e/g": "2"},
    ),
    Case("copy-chmod-dirs", S + "COPY --chmod=700 d e /y/\n", {"d/sub/f": "1", "e/g": "2"}),
    Case(
        "copy-chmod-wildcard-dirs", S + "COPY --chmod=700 d/* /y/\n", {"d/sub/f": "1", "d/g": "2"}
    ),
    Case("copy-chown-scratch-root", S + "COPY --chown=root:root d /x\n", {"d": F("1")}),
    Case("copy-chmod-special", S + "COPY --chmod=4755 plain /x/\n", MODES),
    Case("copy-chmod-leading-zero", S + "COPY --chmod=0755 plain sticky /x/\n", MODES),
    Case("copy-chmod-symbolic", S + "COPY --chmod=u=rwX,go=rX . /x/\n", MODES),
    Case("copy-chmod-add", S + "COPY --chmod=a+x,o-r,g=u plain none closed /x/\n", MODES),
    Case("copy-chmod-bad", S + "COPY --chmod=999 plain /x/\n", MODES),
    Case("copy-chmod-bad-word", S + "COPY --chmod=foo plain /x/\n", MODES),
    Case("copy-chmod-variable", S + "ARG m=700\nCOPY --chmod=$m plain /x/\n", MODES),
    Case("copy-symlink", S + "COPY l /x\nCOPY l /y/\n", {"t": "t", "l": L("t")}),
    Case("copy-symlink-dir", S + "COPY l /x\nCOPY l/ /y/\n", {"t/f": "t", "l": L("t")}),
    Case("copy-symlink-below", S + "COPY d /x\n", {"d/t": "t", "d/l": L("t"), "d/o": L("/etc")}),
    Case("copy-symlink-dangling", S + "COPY l /x\n", {"l": L("nope")}),
    Case("copy-symlink-dangling-below", S + "COPY . /x/\n", {"l": L("nope")}),
    Case("copy-symlink-outside", S + "COPY l /x\n", {"l": L("../../etc/passwd")}),
    Case("copy-symlink-absolute", S + "COPY l /x\n", {"t": "t", "l": L("/t")}),
    Case("copy-symlink-loop", S + "COPY l /x\n", {"l": L("l")}),
    Case(
        "copy-symlink-parent",
        S + "COPY l/f /x\nCOPY l/d /y\n",
        {"t/f": "t", "t/d/g": "", "l": L("t")},
    ),
    Case("copy-symlink-wildcard", S + "COPY l* /x/\n", {"t/f": "t", "l1": L("t"), "l2": L("t/f")}),
    Case("copy-symlink-glob-parent", S + "COPY l/* /x/\n", {"t/f": "t", "l": L("t")}),
    Case("copy-hard-links", S + "COPY d /x\nCOPY d/a d/b /y/\n", {"d/a": "1", "d/b": H("d/a")}),
    Case("copy-sparse", S + "COPY s /x\n", {"s": F("x", size=5_000_000)}),
    Case(
        "copy-odd-names",
        S + "COPY . /x/\n",
        {
            "-dash": "1",
            "new\nline": "2",
            "tab\t": "3",
            "ünï": "4",
            "back\\slash": "5",
            "quo'te\"": "6",
            "*": "7",
            "$x": "8",
            ".wh": "9",
            "a b": "10",
            "d/" + "n" * 200: "12",
        },
    ),
    Case("copy-dash", S + "COPY -dash ./-dash2 /x/\n", {"-dash": "1", "-dash2": "2"}),
    Case("copy-dollar", S + "COPY \\$x '$y' /x/\n", {"$x": "8", "$y": "9"}),
    Case(
        "copy-times",
        S + "COPY d /x\n",
        {"d/o": F("", mtime=1), "d/p": F("", mtime=946684800), "d": D(mtime=5)},
    ),
    Case("copy-pipe", S + "COPY d /x\n", {"d/p": Node(stat.S_IFIFO | 0o644)}),
    Case("copy-device", S + "COPY d /x\n", {"d/n": Node(stat.S_IFCHR | 0o644, 0x103)}),
    Case(
        "copy-capability",
        S + "COPY f /x\n",
        {
            "f": F(
                "x",
                0o755,
                xattrs=(("security.capability", bytes.fromhex("0100000200040000" + "00" * 12)),),
            )
        },
    ),
    Case("copy-user-xattr", S + "COPY f /x\n", {"f": F("x", xattrs=(("user.a", b"b"),))}),
    Case("copy-whiteout-name", S + "COPY d /x\n", {"d/.wh.a": "1", "d/b": ""}),
]

FROM = [
    Case(
        "from-stage",
        B + "RUN mkdir -m 750 /o && echo a > /o/a && chown -R 3:4 /o && ln -s a /o/l && "
        "ln /o/a /o/b && chmod 4711 /o/a\nFROM scratch\nCOPY --from=0 /o /p\nCOPY --from=0 /o/l /q\n",
    ),
    Case("from-stage-name", "FROM box AS x\nRUN echo > /a\nFROM scratch\nCOPY --from=x a /b\n"),
    Case(
        "from-stage-relative",
        "FROM box AS x\nWORKDIR /w\nRUN echo > a\nFROM scratch\nCOPY --from=x w/a /b\n",
    ),
    Case(
        "from-stage-relative-workdir",
        "FROM box AS x\nWORKDIR /w\nRUN echo > a\nFROM scratch\nCOPY --from=x a /b\n",
    ),
    Case(
        "from-stage-wildcard",
        "FROM box AS x\nRUN touch /a1 /a2\nFROM scratch\nCOPY --from=x /a* /d/\n",
    ),
    Case("from-stage-missing", "FROM box AS x\nFROM scratch\nCOPY --from=x /nope /d/\n"),
    Case("from-stage-parent", "FROM box AS x\nFROM scratch\nCOPY --from=x ../../etc/group /g\n"),
    Case(
        "from-stage-link",
        B
        + "RUN mkdir /t && echo > /t/f && ln -s /t /l\nFROM scratch\nCOPY --from=0 /l/f /x\nCOPY --from=0 /l /y\n",
    ),
    Case("from-image", S + "COPY --from=box /etc/group /g\n"),
    Case("from-image-unknown", S + "COPY --from=nosuch/image:1 /etc/group /g\n"),
    Case(
        "from-later-stage",
        "FROM scratch\nCOPY --from=b /a /\nFROM scratch AS b\nCOPY a /\n",
        {"a": "1"},
        target="b",
    ),
    Case(
        "from-later-stage-used",
        "FROM scratch\nCOPY --from=b /a /\nFROM scratch AS b\nCOPY a /\n",
        {"a": "1"},
        target="0",
    ),
    Case("from-itself", "FROM scratch AS a\nCOPY --from=a /a /\n"),
    Case("from-number-too-big", S + "COPY --from=5 /a /\n"),
    Case(
        "from-variable",
        "ARG s=x\nFROM box AS x\nFROM scratch\nARG s\nCOPY --from=$s /etc/group /\n",
    ),
    Case("from-scratch", S + "COPY --from=scratch / /x\n"),
    Case("from-empty", S + "COPY --from= a /x\n", {"a": "1"}),
    Case(
        "from-chown",
        "FROM box AS x\nFROM scratch\nCOPY --from=x --chown=1:2 --chmod=600 /etc/passwd /p\n",
    ),
    Case(
        "from-chown-names",
        "FROM scratch AS x\nCOPY a /\nFROM box\nCOPY --from=x --chown=daemon /a /b\n",
        {"a": "1"},
    ),
    Case(
        "from-device",
        B + "RUN mknod /n c 1 3 || true; mkfifo /p\nFROM scratch\nCOPY --from=0 /p /p\n",
    ),
    Case(
        "from-whole-stage",
        "FROM scratch AS a\nCOPY . /\nFROM scratch\nCOPY --from=a / /\n",
        TREE,
    ),
]

FLAGS = [
    Case("link", B + "COPY --link f.txt /x/\nCOPY --link d /y\n", TREE),
    Case("link-dest-link", B + "RUN mkdir /r && ln -s /r /x\nCOPY --link f.txt /x/\n", TREE),
    Case("link-workdir", B + "WORKDIR /w\nCOPY --link f.txt .\n", TREE),
    Case(
        "link-existing-dir", B + "RUN mkdir -m 700 /x && touch /x/k\nCOPY --link f.txt /x/\n", TREE
    ),
    Case("link-existing-dir-no-slash", B + "RUN mkdir /x\nCOPY --link f.txt /x\n", TREE),
    Case("link-over-file", B + "RUN echo o > /x\nCOPY --link f.txt /x\n", TREE),
    Case("link-chown-name", B + "COPY --link --chown=daemon f.txt /x/\n", TREE),
    Case("link-chown", B + "COPY --link --chown=3:4 --chmod=700 f.txt /x/y/\n", TREE),
    Case("link-false", B + "COPY --link=false f.txt /x/\n", TREE),
    Case("parents", S + "COPY --parents d/sub/c.txt f.txt /x/\n", TREE),
    Case("parents-pivot", S + "COPY --parents d/./sub/c.txt /x/\n", TREE),
    Case("parents-wildcard", S + "COPY --parents d/*/*.txt /x/\n", TREE),
    Case("parents-double-star", S + "COPY --parents d/**/*.txt /x/\n", TREE),
    Case("parents-double-star-pivot", S + "COPY --parents ./d/./**/e /x/\n", TREE),
    Case("parents-dir", S + "COPY --parents d/sub /x/\n", TREE),
    Case("parents-no-slash", S + "COPY --parents d/sub/c.txt /x\n", TREE),
    Case("parents-modes", S + "COPY --parents closed/in sticky/in /x/\n", MODES),
    Case("parents-chown", S + "COPY --parents --chown=3:4 closed/in /x/\n", MODES),
    Case(
        "parents-from",
        B
        + "RUN mkdir -p /a/b && echo > /a/b/c\nFROM scratch\nCOPY --parents --from=0 /a/b/c /x/\n",
    ),
    Case("exclude", S + "COPY --exclude=*.txt . /x/\n", TREE),
    Case("exclude-in-dir", S + "COPY --exclude=*.txt d /x/\n", TREE),
    Case("exclude-deep", S + "COPY --exclude=**/*.txt d /x/\n", TREE),
    Case("exclude-dir", S + "COPY --exclude=sub d /x/\n", TREE),
    Case("exclude-several", S + "COPY --exclude=sub --exclude=a d /x/\n", TREE),
    Case("exclude-negated", S + "COPY --exclude=sub --exclude=!sub/c.txt d /x/\n", TREE),
    Case("exclude-wildcard-source", S + "COPY --exclude=g* *.txt /x/\n", TREE),
    Case("exclude-the-file", S + "COPY --exclude=f.txt f.txt /x/\n", TREE),
    Case("exclude-with-parents", S + "COPY --parents --exclude=**/b.txt d/ /x/\n", TREE),
    Case(
        "exclude-from-stage",
        B + "RUN mkdir /a && touch /a/x /a/y\nFROM scratch\nCOPY --from=0 --exclude=x /a /b/\n",
    ),
    Case("exclude-add", S + "ADD --exclude=*.txt d /x/\n", TREE),
]

ADD = [
    Case("add-tar", S + "ADD t.tar /x/\n", {"t.tar": TAR}),
    Case("add-tar-no-slash", S + "ADD t.tar /x\n", {"t.tar": TAR}),
    Case("add-tar-root", S + "ADD t.tar /\n", {"t.tar": TAR}),
    Case("add-tar-gz", S + "ADD t.tgz /x/\n", {"t.tgz": _tar("gz", ("a", "1"))}),
    Case("add-tar-bz2", S + "ADD t.bin /x/\n", {"t.bin": _tar("bz2", ("a", "1"))}),
    Case("add-tar-xz", S + "ADD t.xz /x/\n", {"t.xz": _tar("xz", ("a", "1"))}),
    Case("add-not-tar", S + "ADD t.tar /x/\n", {"t.tar": "no tar"}),
    Case("add-gz-not-tar", S + "ADD t.gz /x/\n", {"t.gz": GZIP_OF_X}),
    Case("add-tar-no-unpack", S + "ADD --unpack=false t.tar /x/\n", {"t.tar": TAR}),
    Case("add-tar-chown", S + "ADD --chown=1:2 t.tar /x/\n", {"t.tar": TAR}),
    Case("add-tar-chmod", S + "ADD --chmod=600 t.tar /x/\n", {"t.tar": TAR}),
    Case("add-tar-and-file", S + "ADD t.tar f /x/\n", {"t.tar": TAR, "f": "1"}),
    Case(
        "add-tar-over-existing",
        B + "RUN mkdir -p /x/t && echo old > /x/t/f\nADD t.tar /x\n",
        {"t.tar": TAR},
    ),
    Case("add-tar-onto-file", B + "RUN echo > /x\nADD t.tar /x\n", {"t.tar": TAR}),
    Case(
        "add-tar-dir-over-file", B + "RUN mkdir /x && echo > /x/t\nADD t.tar /x\n", {"t.tar": TAR}
    ),
    Case("add-tar-file-over-dir", B + "RUN mkdir -p /x/top\nADD t.tar /x\n", {"t.tar": TAR}),
    Case(
        "add-tar-through-link",
        B + "RUN mkdir /r /x && ln -s /r /x/t\nADD t.tar /x\n",
        {"t.tar": TAR},
    ),
    Case("add-tar-link-dest", B + "RUN mkdir /r && ln -s /r /x\nADD t.tar /x\n", {"t.tar": TAR}),
    Case("add-tar-parent-dirs", S + "ADD t.tar /x\n", {"t.tar": _tar("", ("a/b/c", "1"))}),
    Case("add-tar-dotdot", S + "ADD t.tar /x/\n", {"t.tar": _tar("", ("../up", "1"), ("ok", ""))}),
    Case("add-tar-absolute", S + "ADD t.tar /x/\n", {"t.tar": _tar("", ("/abs", "1"))}),
    Case("add-tar-dot", S + "ADD t.tar /x/\n", {"t.tar": _tar("", ("./", None), ("./a", "1"))}),
    Case("add-tar-empty", S + "ADD t.tar /x/\n", {"t.tar": _tar("")}),
    Case(
        "add-tar-whiteout",
        B + "ADD t.tar /\n",
        {"t.tar": _tar("", ("etc/.wh.group", ""), ("a", ""))},
    ),
    Case("add-tar-below-dir", S + "ADD d /x/\n", {"d/t.tar": TAR}),
    Case(
        "add-tar-wildcard",
        S + "ADD *.tar /x/\n",
        {"1.tar": _tar("", ("a", "1")), "2.tar": _tar("", ("b", "2"))},
    ),
    Case("add-tar-link-name", S + "ADD l /x/\n", {"t.tar": _tar("", ("a", "1")), "l": L("t.tar")}),
    Case("add-file", S + "ADD f.txt d /x/\n", TREE),
    Case("add-link", B + "ADD --link t.tar /x/\n", {"t.tar": TAR}),
    Case("add-broken-gz", S + "ADD t.tgz /x/\n", {"t.tgz": _tar("gz", ("a", "1" * 4000))[:-20]}),
    Case("add-checksum-local", S + "ADD --checksum=sha256:" + "0" * 64 + " f.txt /x\n", TREE),
    Case("add-bad-scheme", S + "ADD ftp://x/y /x\n"),
    Case("copy-url", S + "COPY http://127.0.0.1:1/y /x\n"),
    Case("copy-tar-not-unpacked", S + "COPY t.tar /x/\n", {"t.tar": TAR}),
    Case("copy-unpack-flag", S + "COPY --unpack t.tar /x/\n", {"t.tar": TAR}),
]


def _ignore(name: str, rules: str, **more: object) -> Case:
    return Case(name, S + "COPY . /x/\n", {**TREE, ".dockerignore": rules}, **more)  # type: ignore[arg-type]


IGNORE = [
    _ignore("ignore-plain", "f.txt\nd/sub\n"),
    _ignore("ignore-star", "*.txt\n"),
    _ignore("ignore-deep", "**/*.txt\n"),
    _ignore("ignore-star-dir", "*/b.txt\n*/*/c.txt\n"),
    _ignore("ignore-negated", "*\n!d/sub/c.txt\n!h.md\n"),
    _ignore("ignore-negated-dir", "*\n!d/sub\n"),
    _ignore("ignore-negated-then-again", "d\n!d/sub\nd/sub/deep\n"),
    _ignore("ignore-order", "!f.txt\n*.txt\n"),
    _ignore("ignore-comments", "# c\n\n  f.txt  \n#g.txt\n #h.md\n"),
    _ignore("ignore-slashes", "/f.txt\nd/sub/\n/g.txt/\n"),
    _ignore("ignore-dots", "./f.txt\nd/../g.txt\n../x/h.md\n"),
    _ignore("ignore-crlf", "f.txt\r\nd\r\n"),
    _ignore("ignore-bom", "\ufefff.txt\n"),
    _ignore("ignore-dockerfile", "Dockerfile\n.dockerignore\n"),
    _ignore("ignore-everything", "**\n"),
    _ignore("ignore-everything-star", "*\n"),
    _ignore("ignore-dot", ".\n"),
    _ignore("ignore-hidden", "**/.*\n"),
    _ignore("ignore-class", "[fg].txt\n"),
    _ignore("ignore-question", "?.txt\n"),
    _ignore("ignore-dir-only-children", "d/*\n!d/a\n"),
    _ignore("ignore-deep-negated", "**\n!**/*.txt\n"),
    _ignore("ignore-double-star-name", "**sub\n"),
    _ignore("ignore-double-star-middle", "d/**/e\n"),
    _ignore("ignore-double-star-end", "d/**\n"),
    _ignore("ignore-double-star-end-dir", "d/sub/**\n"),
    _ignore("ignore-bad-pattern", "a[\n"),
    _ignore("ignore-only-negation", "!\n"),
    _ignore("ignore-escaped", "\\f.txt\n"),
    _ignore("ignore-space-negation", "*.txt\n! f.txt\n"),
    _ignore("ignore-case", "F.TXT\n"),
    Case("ignore-copied-by-name", S + "COPY f.txt /x/\n", {**TREE, ".dockerignore": "f.txt\n"}),
    Case("ignore-copied-dir", S + "COPY d /x/\n", {**TREE, ".dockerignore": "d\n"}),
    Case("ignore-copied-wildcard", S + "COPY *.txt /x/\n", {**TREE, ".dockerignore": "f.txt\n"}),
    Case(
        "ignore-copied-below",
        S + "COPY d/sub /x/\n",
        {**TREE, ".dockerignore": "d\n!d/sub/c.txt\n"},
    ),
    Case(
        "ignore-of-dockerfile",
        S + "COPY . /x/\n",
        {**TREE, ".dockerignore": "f.txt\n", "o.Dockerfile.dockerignore": "g.txt\n"},
        file="o.Dockerfile",
    ),
    Case(
        "ignore-of-dockerfile-below",
        S + "COPY . /x/\n",
        {**TREE, ".dockerignore": "f.txt\n", "k/Dockerfile.dockerignore": "g.txt\nk\n"},
        file="k/Dockerfile",
    ),
    Case("ignore-does-not-hide-dockerfile", S + "LABEL a=1\n", {".dockerignore": "*\n"}),
    Case("ignore-links", S + "COPY . /x/\n", {"t/f": "1", "l": L("t"), ".dockerignore": "t\n"}),
    Case("ignore-empty-dirs", S + "COPY . /x/\n", {"a/b/c": "1", ".dockerignore": "**/c\n"}),
    Case("ignore-hard-link", S + "COPY . /x/\n", {"a": "1", "b": H("a"), ".dockerignore": "a\n"}),
]

CASES = [*PATHS, *WHAT, *FROM, *FLAGS, *ADD, *IGNORE]
