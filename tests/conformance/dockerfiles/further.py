"""What the other lists leave out: instructions that meet, names that hide each other."""

from tests.support.build_cases import Case, L

B = "FROM box\n"
S = "FROM scratch\n"
FILES = {"a": "1", "d/b": "2", "d/s/c": "3", "e/f": "4"}

NAMES = [
    Case("platform-arg-with-default", S + "ARG TARGETARCH=xyz\nLABEL a=$TARGETARCH\n"),
    Case(
        "platform-arg-global-default",
        "ARG TARGETARCH=xyz\nFROM scratch\nARG TARGETARCH\nLABEL a=$TARGETARCH\n",
    ),
    Case(
        "platform-arg-given",
        S + "ARG TARGETARCH\nLABEL a=$TARGETARCH\n",
        args={"TARGETARCH": "mine"},
    ),
    Case("platform-arg-env", S + "ENV TARGETARCH=e\nARG TARGETARCH\nLABEL a=$TARGETARCH\n"),
    Case("arg-twice-on-a-line", S + "ARG a=1 a=2\nLABEL a=$a\n"),
    Case("arg-without-then-with", S + "ARG a\nARG a=2\nARG a\nLABEL a=$a\n"),
    Case("arg-nested-defaults", S + "ARG b=\nARG c=x\nLABEL a=${a:-${b:-${c:+${c}y}}} d=${a:-}\n"),
    Case("arg-nested-quotes", S + 'LABEL a="${a:-"x y"}" b=${b:-"x y"} c="${c:-\'q\'}"\n'),
    Case("arg-default-with-braces", S + 'LABEL a=${a:-{x}} b=${b:-\\}} c="${c:-{\\}}"\n'),
    Case("env-path-on-scratch", S + 'LABEL a="$HOME" b="${PATH}"\nENV PATH=/x:${PATH}\n'),
    Case("stage-hides-image", "FROM box AS box\nLABEL a=1\nFROM box\nLABEL b=2\n"),
    Case(
        "stage-named-later-is-no-image",
        "FROM scratch AS x\nCOPY --from=box /etc/group /g\nFROM box AS box\nFROM x\nLABEL z=1\n",
    ),
    Case("stage-name-odd", "FROM scratch AS a.b_c-d\nLABEL a=1\nFROM a.b_c-d\nLABEL b=1\n"),
    Case("stage-name-number", "FROM scratch AS 0\nLABEL a=1\n"),
    Case("stage-name-scratch", "FROM scratch AS scratch\nLABEL a=1\nFROM scratch\nLABEL b=1\n"),
    Case("stage-name-variable", "ARG n=x\nFROM scratch AS $n\nLABEL a=1\n"),
    Case("from-stage-by-number", "FROM scratch\nLABEL a=1\nFROM 0\nLABEL b=1\n"),
    Case("from-default-base", "FROM ${X:-box}\nLABEL a=1\n"),
    Case("from-comment-behind", "FROM scratch # base\nLABEL a=1\n"),
    Case("from-digest-unknown", f"FROM box@sha256:{'0' * 64}\nLABEL a=1\n"),
]

CONFIG = [
    Case("cmd-empty-over-base", B + "CMD []\n"),
    Case("entrypoint-empty-over-base", B + "ENTRYPOINT []\n"),
    Case("entrypoint-of-stage-kept", 'FROM scratch AS a\nENTRYPOINT ["e"]\nFROM a\nCMD ["c"]\n'),
    Case("healthcheck-of-stage", "FROM scratch AS a\nHEALTHCHECK CMD x\nFROM a\nLABEL a=1\n"),
    Case(
        "healthcheck-none-over", "FROM scratch AS a\nHEALTHCHECK CMD x\nFROM a\nHEALTHCHECK NONE\n"
    ),
    Case("labels-merge", "FROM scratch AS a\nLABEL a=1 b=1\nFROM a\nLABEL b=2 c=3\n"),
    Case("volumes-merge", "FROM scratch AS a\nVOLUME /a\nFROM a\nVOLUME /b\n"),
    Case("ports-merge", "FROM scratch AS a\nEXPOSE 1\nFROM a\nEXPOSE 2/udp\n"),
    Case("user-of-stage", "FROM box AS a\nUSER daemon\nFROM a\nRUN id -un > /tmp/o\n"),
    Case("volume-json-and-more", S + 'VOLUME ["/a"] /b\n'),
    Case("expose-json", S + 'EXPOSE ["80"]\n'),
    Case("expose-comma", S + "EXPOSE 80,81\n"),
    Case("workdir-backslashes", S + "WORKDIR c:\\x\n"),
    Case("workdir-dot", S + "WORKDIR /a\nWORKDIR .\nWORKDIR ./b\n"),
    Case("workdir-slashes", S + "WORKDIR //a///b//\n"),
    Case("workdir-tilde", S + "WORKDIR ~/x\n"),
    Case("workdir-of-stage", "FROM scratch AS a\nWORKDIR /a\nFROM a\nWORKDIR b\n"),
    Case("user-root-then-workdir", B + "USER 5:6\nWORKDIR /w\nUSER root\nWORKDIR /w/x\n"),
    Case("shell-null-item", S + 'SHELL ["sh", null]\n'),
    Case("cmd-nested-json", S + 'CMD ["a", ["b"]]\n'),
    Case("cmd-single-string", S + 'CMD "a b"\n'),
    Case("cmd-json-unicode-escape", S + 'CMD ["\\ud83d\\ude00", "\\/"]\n'),
    Case(
        "onbuild-two-levels",
        "FROM box AS a\nONBUILD RUN echo 1 > /1\nFROM a AS b\nONBUILD RUN echo 2 > /2\nFROM b\n",
    ),
    Case("onbuild-copy-heredoc", "FROM scratch AS a\nONBUILD COPY <<E /e\nx\nE\nFROM a\n"),
    Case(
        "onbuild-expands-later", "FROM scratch AS a\nENV v=1\nONBUILD LABEL l=$v\nENV v=2\nFROM a\n"
    ),
    Case("onbuild-unknown", S + "ONBUILD NOPE x\n"),
]

COPIES = [
    Case("copy-dirs-by-glob-slash", S + "COPY */ /x/\n", FILES),
    Case("copy-dot-slash", S + "COPY ./ /x\nCOPY ./d /y\nCOPY .//d//s /z\n", FILES),
    Case("copy-into-cwd", B + "COPY . .\n", FILES),
    Case("copy-dest-dot-dot", S + "WORKDIR /w/v\nCOPY a ..\nCOPY a ../\n", FILES),
    Case("copy-dest-trailing-dot", S + "COPY a /x/.\n", FILES),
    Case("copy-dest-double-slash", S + "COPY a //x//y\n", FILES),
    Case("copy-dest-quoted-var", S + 'ENV d="/x y"\nCOPY a "$d/"\nCOPY a $d/\n', FILES),
    Case("copy-json-variables", S + 'ENV d=/x\nCOPY ["a", "${d}/$d"]\n', FILES),
    Case("copy-same-file-twice", S + "COPY a a /x/\n", FILES),
    Case("copy-dir-twice-merges", S + "COPY d e /x\n", FILES),
    Case("copy-dir-then-under-it", S + "COPY d /x\nCOPY e /x/s\n", FILES),
    Case("copy-file-named-as-dir", S + "COPY a /x\nCOPY a /x/\n", FILES),
    Case("copy-link-then-through-it", S + "COPY . /x/\nCOPY a /x/l/\n", {**FILES, "l": L("d")}),
    Case("copy-everything-chown", S + "COPY --chown=1:2 --chmod=u+x . /x\n", FILES),
    Case(
        "from-through-link",
        "FROM scratch AS a\nCOPY . /\nFROM scratch\nCOPY --from=a /l/b /b\nCOPY --from=a /l /d/\nCOPY --from=a /l/ /e/\n",
        {**FILES, "l": L("d")},
    ),
    Case(
        "from-all-of-workdir",
        "FROM scratch AS a\nWORKDIR /w\nCOPY . .\nFROM scratch\nCOPY --from=a /w .\n",
        FILES,
    ),
    Case(
        "from-glob-none",
        "FROM scratch AS a\nCOPY . /\nFROM scratch\nCOPY --from=a /zz* /x/\nLABEL a=1\n",
        FILES,
    ),
    Case(
        "from-link-flag",
        "FROM scratch AS a\nCOPY . /\nFROM box\nCOPY --link --from=a /d /x\n",
        FILES,
    ),
    Case("link-over-stage-dir", B + "COPY --link a /etc/\nCOPY --link d /etc\n", FILES),
    Case(
        "link-after-run",
        B + "RUN mkdir -p /x && echo o > /x/a\nCOPY --link a d /x/\nRUN cat /x/a /x/b > /o\n",
        FILES,
    ),
    Case("add-several", S + "ADD a d /x/\n", FILES),
    Case("add-json", S + 'ADD ["a", "/x y"]\n', FILES),
    Case("exclude-slash", S + "COPY --exclude=/d . /x/\nCOPY --exclude=./d/b . /y/\n", FILES),
    Case("exclude-empty", S + "COPY --exclude= . /x/\n", FILES),
    Case("exclude-all", S + "COPY --exclude=* . /x/\n", FILES),
    Case("exclude-variable", S + "ARG e=d\nCOPY --exclude=$e . /x/\n", FILES),
    Case(
        "ignore-parent-brought-back",
        S + "COPY . /x/\n",
        {**FILES, ".dockerignore": "d/**\n!d/s\nd/s/c\n"},
    ),
    Case(
        "ignore-glob-brought-back", S + "COPY . /x/\n", {**FILES, ".dockerignore": "**\n!d/*/c\n"}
    ),
    Case("ignore-root-slash", S + "COPY . /x/\n", {**FILES, ".dockerignore": "/\n"}),
    Case(
        "ignore-mount",
        B + "RUN --mount=target=/m find /m | sort > /o\n",
        {**FILES, ".dockerignore": "d\n!d/s\n*ockerfile\n"},
    ),
]

STEPS = [
    Case("run-comment-only", B + "RUN # nothing\n"),
    Case("run-trailing-hash-continuation", B + "RUN echo a \\\n # b\n && echo c > /o\n"),
    Case("run-empty-string-json", B + 'RUN [""]\n'),
    Case("run-empty-json", B + "RUN []\n"),
    Case("run-flag-like", B + "RUN -- echo x > /o\n"),
    Case("run-dashes", B + "RUN echo --mount=x > /o\n"),
    Case("mount-from-image", B + "RUN --mount=type=bind,from=box,source=/etc,target=/m ls /m > /o\n"),
    Case("mount-tmpfs-size", B + "RUN --mount=type=tmpfs,target=/t,size=1m df -k /t | tail -1 | grep -c 1024 > /o\n"),
    Case("mount-over-parent", B + "RUN mkdir -p /m/n && echo k > /m/n/k\nRUN --mount=type=tmpfs,target=/m touch /m/x\n"),
    Case("mount-quoted", B + 'RUN --mount="type=bind,source=a,target=/m" cat /m > /o\n', FILES),
    Case("mount-user-cannot-write", B + "USER 5\nRUN --mount=type=cache,target=/c,id=case8 touch /c/x || echo no > /tmp/o\n"),
    Case("run-env-newline", B + 'ENV a="x\\\ny"\nRUN echo "$a" > /o\n'),
    Case("run-changes-owner-of-base", B + "RUN chown -R 1:1 /etc\nRUN chmod 700 /root\n"),
    Case("run-deep-remove", B + "RUN mkdir -p /a/b/c/d && touch /a/b/c/d/e /a/f\nRUN rm -r /a/b/c\nRUN mkdir -p /a/b/c && touch /a/b/c/n\n"),
    Case("run-move-over", B + "RUN mkdir /a /b && touch /a/x /b/y\nRUN rm -r /a && mv /b /a\n"),
    Case("run-link-over-link", B + "RUN ln -s a /l\nRUN ln -sf b /l\n"),
    Case("run-copy-remove", B + "COPY d /x\nRUN rm /x/b\nCOPY d/b /x/b2\nRUN rm -r /x/s\nCOPY d /x\n", FILES),
]  # fmt: skip

CASES = [*NAMES, *CONFIG, *COPIES, *STEPS]
