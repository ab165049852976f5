"""What only the image's config shows."""

from tests.support.build_cases import Case

CASES = [
    Case("cmd-forms", 'FROM scratch\nCMD echo "a b" $HOME && x\n'),
    Case("cmd-exec", 'FROM scratch\nCMD ["a", "b c", "$X", "\\u00e9\\n"]\n'),
    Case("cmd-exec-spaces", 'FROM scratch\nCMD   [ "a" ,"b" ]  \n'),
    Case("cmd-bad-json", "FROM scratch\nCMD ['a', 'b']\n"),
    Case("cmd-json-trailing", 'FROM scratch\nCMD ["a"] b\n'),
    Case("cmd-json-comma", 'FROM scratch\nCMD ["a",]\n'),
    Case("cmd-json-numbers", "FROM scratch\nCMD [1, 2]\n"),
    Case("cmd-empty-array", 'FROM scratch\nENTRYPOINT ["x"]\nCMD []\n'),
    Case("cmd-none", "FROM scratch\nCMD\n"),
    Case("cmd-twice", 'FROM scratch\nCMD ["a"]\nCMD ["b"]\n'),
    Case("cmd-multi-line", 'FROM scratch\nCMD ["a", \\\n  "b", \\\n# c\n  "d"]\n'),
    Case("entrypoint-clears-cmd-of-base", 'FROM box\nENTRYPOINT ["e"]\n'),
    Case("entrypoint-keeps-own-cmd", 'FROM box\nCMD ["c"]\nENTRYPOINT ["e"]\n'),
    Case("entrypoint-keeps-cmd-behind", 'FROM box\nENTRYPOINT ["e"]\nCMD c\n'),
    Case(
        "entrypoint-over-stage",
        'FROM scratch AS a\nCMD ["c"]\nFROM a\nENTRYPOINT ["e"]\n',
    ),
    Case(
        "entrypoint-over-stage-with-own",
        'FROM scratch AS a\nENTRYPOINT ["e"]\nCMD ["c"]\nFROM a\nENTRYPOINT ["f"]\n',
    ),
    Case("entrypoint-shell", "FROM box\nENTRYPOINT exec top -b\n"),
    Case("entrypoint-empty", 'FROM scratch\nENTRYPOINT ["e"]\nENTRYPOINT []\n'),
    Case("entrypoint-none", "FROM scratch\nENTRYPOINT\n"),
    Case(
        "shell-then-forms",
        """FROM box
SHELL ["/bin/sh", "-ec"]
CMD a b
ENTRYPOINT x y
HEALTHCHECK CMD curl -f http://localhost/
RUN false || echo ok > /ok
""",
    ),
    Case("shell-inherited", 'FROM scratch AS a\nSHELL ["/bin/bash", "-c"]\nFROM a\nCMD x\n'),
    Case("shell-plain", "FROM scratch\nSHELL /bin/sh\n"),
    Case("shell-empty", "FROM scratch\nSHELL []\n"),
    Case(
        "expose",
        """FROM scratch
ENV p=90 r="91 92/udp"
EXPOSE 80 443/tcp 53/UDP 8000-8003 9000-9001/udp $p $r ${p}1/sctp
EXPOSE 80
""",
    ),
    Case("expose-mapped", "FROM scratch\nEXPOSE 8080:80 127.0.0.1:81:82 1000-1001:2000-2001\n"),
    Case("expose-bad-protocol", "FROM scratch\nEXPOSE 80/xyz\n"),
    Case("expose-word", "FROM scratch\nEXPOSE http\n"),
    Case("expose-too-big", "FROM scratch\nEXPOSE 70000\n"),
    Case("expose-backwards", "FROM scratch\nEXPOSE 20-10\n"),
    Case("expose-none", "FROM scratch\nEXPOSE\n"),
    Case("expose-expands-to-nothing", "FROM scratch\nEXPOSE $x\n"),
    Case("expose-zero", "FROM scratch\nEXPOSE 0\n"),
    Case("expose-empty-protocol", "FROM scratch\nEXPOSE 80/\n"),
    Case("expose-quoted", "FROM scratch\nEXPOSE \"80\" '81/udp'\n"),
    Case(
        "volumes",
        """FROM scratch
ENV v=/from/var
VOLUME /a /b/ relative $v
VOLUME ["/c d", "/e"]
VOLUME /a
""",
    ),
    Case("volume-empty-word", 'FROM scratch\nVOLUME ["/a", ""]\n'),
    Case("volume-none", "FROM scratch\nVOLUME\n"),
    Case("volume-empty-array", "FROM scratch\nVOLUME []\n"),
    Case("volume-expands-to-nothing", "FROM scratch\nVOLUME $x\n"),
    Case("users", "FROM box\nENV u=daemon\nUSER $u\n"),
    Case("user-group", "FROM box\nUSER 1000:100\n"),
    Case("user-unknown", "FROM box\nUSER nosuch\n"),
    Case("user-none", "FROM scratch\nUSER\n"),
    Case("user-expands-to-nothing", "FROM scratch\nUSER $x\n"),
    Case("user-with-space", "FROM scratch\nUSER a b\n"),
    Case("user-quoted", 'FROM scratch\nUSER "a":"b"\n'),
    Case("stopsignals", "FROM scratch\nSTOPSIGNAL SIGQUIT\n"),
    Case("stopsignal-number", "FROM scratch\nSTOPSIGNAL 9\n"),
    Case("stopsignal-short", "FROM scratch\nSTOPSIGNAL term\n"),
    Case("stopsignal-rt", "FROM scratch\nSTOPSIGNAL RTMIN+3\n"),
    Case("stopsignal-variable", "FROM scratch\nENV s=KILL\nSTOPSIGNAL $s\n"),
    Case("stopsignal-bad", "FROM scratch\nSTOPSIGNAL NOSUCH\n"),
    Case("stopsignal-two", "FROM scratch\nSTOPSIGNAL a b\n"),
    Case("stopsignal-too-big", "FROM scratch\nSTOPSIGNAL 200\n"),
    Case("stopsignal-zero", "FROM scratch\nSTOPSIGNAL 0\n"),
    Case(
        "healthcheck",
        "FROM scratch\nHEALTHCHECK --interval=5m --timeout=3s --start-period=1m30s --retries=5 \\\n"
        "  CMD curl -f http://localhost/ || exit 1\n",
    ),
    Case("healthcheck-exec", 'FROM scratch\nHEALTHCHECK --start-interval=2s CMD ["a", "b"]\n'),
    Case("healthcheck-none", "FROM scratch\nHEALTHCHECK CMD x\nHEALTHCHECK NONE\n"),
    Case("healthcheck-lower", "FROM scratch\nHEALTHCHECK cmd x y\n"),
    Case("healthcheck-none-args", "FROM scratch\nHEALTHCHECK NONE x\n"),
    Case("healthcheck-cmd-none", "FROM scratch\nHEALTHCHECK CMD\n"),
    Case("healthcheck-bad-type", "FROM scratch\nHEALTHCHECK RUN x\n"),
    Case("healthcheck-bad-interval", "FROM scratch\nHEALTHCHECK --interval=abc CMD x\n"),
    Case("healthcheck-small-interval", "FROM scratch\nHEALTHCHECK --interval=1us CMD x\n"),
    Case("healthcheck-no-unit", "FROM scratch\nHEALTHCHECK --interval=30 CMD x\n"),
    Case("healthcheck-zero", "FROM scratch\nHEALTHCHECK --interval=0s --retries=0 CMD x\n"),
    Case("healthcheck-negative-retries", "FROM scratch\nHEALTHCHECK --retries=-1 CMD x\n"),
    Case("healthcheck-empty-json", "FROM scratch\nHEALTHCHECK CMD []\n"),
    Case(
        "healthcheck-fractions",
        "FROM scratch\nHEALTHCHECK --interval=1.5s --timeout=1h2m3s4ms CMD x\n",
    ),
    Case("maintainer", "FROM scratch\nMAINTAINER Some One <a@b.c>\n"),
    Case("maintainer-none", "FROM scratch\nMAINTAINER\n"),
    Case(
        "workdirs",
        """FROM box
WORKDIR a
WORKDIR b
WORKDIR /c/../d/./e/
ENV w=sub
WORKDIR $w
WORKDIR ..
RUN pwd > /out
""",
    ),
    Case("workdir-none", "FROM scratch\nWORKDIR\n"),
    Case("workdir-expands-to-nothing", "FROM scratch\nWORKDIR $x\n"),
    Case("workdir-spaces", "FROM scratch\nWORKDIR /a b/c d\n"),
    Case("workdir-quoted", 'FROM scratch\nWORKDIR "/a b"\n'),
    Case("workdir-root", "FROM box\nWORKDIR /x\nWORKDIR /\nRUN pwd > /out\n"),
    Case("workdir-below-file", "FROM box\nRUN echo > /f\nWORKDIR /f/x\n"),
    Case("workdir-is-file", "FROM box\nRUN echo > /f\nWORKDIR /f\n"),
    Case(
        "workdir-through-link",
        "FROM box\nRUN mkdir /real && ln -s /real /l\nWORKDIR /l/x\nRUN pwd > /out\n",
    ),
    Case("workdir-dangling-link", "FROM box\nRUN ln -s /nowhere /l\nWORKDIR /l\n"),
    Case("workdir-owner", "FROM box\nUSER daemon\nWORKDIR /w/x\n"),
    Case("workdir-existing", "FROM box\nRUN mkdir -m 700 /w && chown 5:6 /w\nWORKDIR /w\n"),
    Case(
        "onbuild",
        """FROM box AS a
ONBUILD RUN echo hi > /hi
ONBUILD ENV x=$y
ONBUILD COPY a /a
ONBUILD CMD ["z"]
""",
        {"a": "1"},
    ),
    Case(
        "onbuild-fires",
        """FROM box AS a
ENV y=1
ONBUILD RUN echo hi > /hi
ONBUILD ENV x=$y
ONBUILD COPY a /a
ONBUILD WORKDIR w
ONBUILD LABEL l=$x
FROM a
ENV z=$x
""",
        {"a": "1"},
    ),
    Case(
        "onbuild-not-twice",
        """FROM scratch AS a
ONBUILD LABEL l=1
FROM a AS b
FROM b
LABEL m=1
""",
    ),
    Case("onbuild-onbuild", "FROM scratch\nONBUILD ONBUILD RUN x\n"),
    Case("onbuild-from", "FROM scratch\nONBUILD FROM x\n"),
    Case("onbuild-maintainer", "FROM scratch\nONBUILD MAINTAINER x\n"),
    Case("onbuild-none", "FROM scratch\nONBUILD\n"),
    Case("onbuild-lower", "FROM scratch\nonbuild   run  echo   x\n"),
    Case(
        "onbuild-arg",
        """FROM scratch AS a
ONBUILD ARG v=1
ONBUILD LABEL v=$v
FROM a
LABEL w=$v
""",
        args={"v": "2"},
    ),
    Case(
        "onbuild-heredoc",
        """FROM box AS a
ONBUILD RUN <<E
echo one > /one
echo two > /two
E
FROM a
""",
    ),
    Case(
        "onbuild-copy-from-stage",
        """FROM scratch AS src
COPY a /a
FROM scratch AS base
ONBUILD COPY --from=src /a /b
FROM base
""",
        {"a": "x"},
    ),
    Case("unknown-instruction", "FROM scratch\nRUNN x\n"),
    Case("missing-from", "RUN x\n"),
    Case("empty-file", ""),
    Case("only-comment", "# x\n"),
    Case("only-arg", "ARG x=1\n"),
    Case("from-none", "FROM\n"),
    Case("from-extra", "FROM scratch x\n"),
    Case("from-as-nothing", "FROM scratch AS\n"),
    Case("from-bad-name", "FROM scratch AS 1x\n"),
    Case(
        "from-upper-name",
        "FROM scratch AS Foo\nCOPY a /\nFROM foo AS BAR\nCOPY --from=FOO a b\n",
        {"a": "1"},
    ),
    Case("from-lower-as", "from scratch as x\ncopy a /\n", {"a": "1"}),
    Case("from-empty-arg", "FROM $x\n"),
    Case("from-bad-reference", "FROM Bad:::x\n"),
    Case("from-scratch-tag", "FROM scratch:latest\n"),
    Case("from-unknown-flag", "FROM --foo=bar scratch\n"),
    Case("from-bad-platform", "FROM --platform=a/b/c/d scratch\nLABEL x=1\n"),
    Case("from-no-layer", "FROM box\n"),
    Case("from-scratch-alone", "FROM scratch\n"),
    Case(
        "from-duplicate-names",
        "FROM scratch AS a\nLABEL x=1\nFROM scratch AS a\nLABEL x=2\nFROM a\nLABEL y=1\n",
    ),
    Case("target", "FROM scratch AS a\nLABEL x=1\nFROM scratch AS b\nLABEL x=2\n", target="a"),
    Case(
        "target-upper", "FROM scratch AS a\nLABEL x=1\nFROM scratch AS b\nLABEL x=2\n", target="A"
    ),
    Case(
        "target-number",
        "FROM scratch AS a\nLABEL x=1\nFROM scratch\nLABEL x=2\nFROM scratch\nLABEL x=3\n",
        target="1",
    ),
    Case("target-unknown", "FROM scratch AS a\nLABEL x=1\n", target="zz"),
    Case(
        "target-skips-broken",
        "FROM scratch AS a\nLABEL x=1\nFROM box AS b\nRUN false\n",
        target="a",
    ),
    Case("unused-stage-broken", "FROM box AS a\nRUN false\nFROM scratch\nLABEL x=1\n"),
    Case("unused-stage-unknown-image", "FROM nosuch/image AS a\nFROM scratch\nLABEL x=1\n"),
]
