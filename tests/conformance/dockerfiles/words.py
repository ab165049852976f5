"""Variables, quotes, escapes, and where ARG and ENV count."""

from tests.support.build_cases import Case

CASES = [
    Case(
        "defaults-and-alternatives",
        r"""FROM scratch
ENV set=value empty=
LABEL a=${unset:-dflt} b=${empty:-dflt} c=${set:-dflt} d=${unset-dflt} e=${empty-dflt} f=${set-dflt}
LABEL g=${unset:+alt} h=${empty:+alt} i=${set:+alt} j=${unset+alt} k=${empty+alt} l=${set+alt}
LABEL m=${unset:-${set}} n=${unset:-$set/x} o="${unset:-two words}" p='${set}' q=\$set r=\${set}
LABEL s=$set$set t=${set}x u=$setx v=${set}${unset}. w="a${set}b" x=${unset:-}
LABEL y=${unset:-"quoted"} z=${unset:-'$set'}
""",
    ),
    Case(
        "patterns-cut-and-replaced",
        r"""FROM scratch
ENV v=foobarfoo path=/usr/lib/x/lib.tar.gz
LABEL a=${v#foo} b=${v#*o} c=${v##*o} d=${v%o*} e=${v%%o*} f=${v%foo} g=${v#zzz} h=${v#?} i=${v%?}
LABEL j=${path##*/} k=${path%/*} l=${path%%.*} m=${path%.gz} n=${path#/} o=${path#*lib}
LABEL p=${v/foo/X} q=${v//foo/X} r=${v//o/} s=${v/zzz/X} t=${v//f??/-} u=${v/o*/-}
LABEL w=${path//\//_} x=${path/lib/bin} y=${v#foo*} z=${v##}
""",
    ),
    Case(
        "patterns-with-variables",
        r"""FROM scratch
ENV v=1.2.3 p=1. dot=. star=*
LABEL a=${v#$p} b=${v#${p}} c=${v%${dot}*} d=${v//${dot}/-} e=${v/$dot/_} f=${v#$star} g=${v%$star}
LABEL h=${v%.${unset:-3}} i="${v%.*}" j='${v%.*}' k=${v//./\/} l=${v//./}
""",
    ),
    Case(
        "quotes-in-env",
        r"""FROM scratch
ENV a="two words" b=two\ words c='single "double"' d="double 'single'" e="esc \" quote" f='\n\t' g="\n\t"
ENV h=a"b c"d i='a'"b"'c' j="" k='' l=\"  m=\\ n="\\" o='\\' p="\$a" q='$a' r="$a" s=$a t=\$a u="a\b" v=a\b
ENV legacy one two  three
ENV legacyq "quoted words" and 'more'
ENV legacyv $a/$b
ENV legacyeq a=b c=d
LABEL "quoted key"="value" 'single'=x plain."mixed"=y
LABEL multi="first\
second" other='a\
b'
""",
    ),
    Case(
        "env-sees-what-stood-before-the-line",
        """FROM scratch
ENV abc=hello
ENV abc=bye def=$abc
ENV ghi=$abc PATH=/x:$PATH
ENV PATH=/y:$PATH
""",
    ),
    Case(
        "env-order-and-replacing",
        """FROM scratch
ENV b=1 a=2 c=3
ENV a=4
ENV d=5 b=6
""",
    ),
    Case(
        "arg-scopes",
        """ARG VERSION=1
ARG OTHER=o${VERSION}
FROM scratch AS one
LABEL before=${VERSION}
ARG VERSION
ARG OTHER
LABEL after=${VERSION} other=${OTHER}
FROM scratch
LABEL none=${VERSION:-unset}
ARG VERSION=own
LABEL own=${VERSION}
ARG VERSION
LABEL again=${VERSION}
""",
    ),
    Case(
        "arg-given-and-env-above-it",
        """FROM scratch
ARG a=default
ARG b
ARG c=dflt
ENV a=env
LABEL a=$a b=$b c=$c
ARG a=later
LABEL a2=$a
ENV d=${d:-$c}
""",
        args={"a": "given", "b": "givenb", "unknown": "x"},
    ),
    Case(
        "arg-several-on-a-line",
        """FROM scratch
ARG a=1 b=$a c="x y" d
LABEL a=$a b=$b c=$c d=${d-unset}
""",
    ),
    Case(
        "arg-inherited-by-a-later-stage",
        """FROM scratch AS base
ARG a=1
ENV e=$a
FROM base
LABEL a=${a-unset} e=$e
""",
    ),
    Case(
        "arg-given-empty",
        """FROM scratch
ARG a=dflt
LABEL a=[$a] b=${a:-empty} c=${a-unset}
""",
        args={"a": ""},
    ),
    Case(
        "arg-in-from",
        """ARG BASE=box
ARG TAG
FROM ${BASE}${TAG:+:$TAG} AS x
FROM ${UNSET:-x}
LABEL ok=1
""",
        args={"TAG": "latest"},
    ),
    Case(
        "arg-platform",
        """FROM scratch
ARG TARGETPLATFORM
ARG TARGETARCH TARGETOS
ARG BUILDPLATFORM
LABEL a=$TARGETPLATFORM b=$TARGETARCH c=$TARGETOS d=$BUILDPLATFORM e=$TARGETVARIANT f=$BUILDARCH
""",
    ),
    Case(
        "from-platform-arg",
        """FROM --platform=$BUILDPLATFORM box AS b
RUN echo hi > /hi
FROM --platform=${TARGETPLATFORM} scratch
COPY --from=b /hi /
""",
    ),
    Case(
        "arg-quoted-default",
        """FROM scratch
ARG a="$unset x" b='$a' c=\\$a d="a\\"b"
LABEL a="$a" b="$b" c="$c" d="$d"
""",
    ),
    Case(
        "positional-parameters",
        """FROM scratch
ENV x=1
LABEL a=$1 b=$10 c=${1} d=a$ e=$ f="$" g=$- h=$$x i=$* j=$@ k=$? l=$#
""",
    ),
    Case(
        "names-next-to-text",
        """FROM scratch
ENV a_b=1 a=2 A=3 _x=4 é=5
LABEL a=$a_b b=$a-b c=$a.b d=$A$_x e=${a}_b f=$é g=$a/b h=$a:b
""",
    ),
    Case("pattern-with-a-useless-escape", "FROM scratch\nENV v=abc\nLABEL a=${v/\\b/0}\n"),
    Case("required-set", "FROM scratch\nENV a=1 e=\nLABEL b=${a:?no} c=${a?no} d=${e?no}\n"),
    Case("required-missing", "FROM scratch\nLABEL a=${a:?must be given}\n"),
    Case("required-empty", "FROM scratch\nENV a=\nLABEL a=${a:?must be given}\n"),
    Case("required-unset", "FROM scratch\nLABEL a=${a?}\n"),
    Case("unclosed-brace", "FROM scratch\nLABEL a=${a\n"),
    Case("unclosed-double-quote", 'FROM scratch\nLABEL a="x\n'),
    Case("unclosed-single-quote", "FROM scratch\nENV a='x\n"),
    Case("unknown-modifier", "FROM scratch\nENV a=abc\nLABEL b=${a:1:2}\n"),
    Case("unknown-modifier-case", "FROM scratch\nENV a=abc\nLABEL b=${a^^}\n"),
    Case("empty-brace", "FROM scratch\nLABEL b=${}\n"),
    Case("arg-reserved-characters", "FROM scratch\nARG a-b=1 c.d=2\nLABEL x=${a-b} y=${c.d}\n"),
    Case("bad-modifier-dot", "FROM scratch\nLABEL y=${c.d}\n"),
    Case("env-without-value", "FROM scratch\nENV a\n"),
    Case("env-mixed", "FROM scratch\nENV a=1 b\n"),
    Case("env-no-name", "FROM scratch\nENV =x\n"),
    Case("env-name-that-expands-to-nothing", "FROM scratch\nENV $x=1\n"),
    Case("env-name-from-variable", 'FROM scratch\nENV n=name\nENV $n=1 ${n}2=2 "q $n"=3\n'),
    Case("label-name-from-variable", "FROM scratch\nENV n=name\nLABEL $n=1 x.${n}.y=2 '$n'=3\n"),
    Case("label-legacy", 'FROM scratch\nLABEL key some value here\nLABEL k2 "quoted"  x\n'),
    Case("label-empty", 'FROM scratch\nLABEL a= b="" c\\ d=x\n'),
    Case("label-none", "FROM scratch\nLABEL\n"),
    Case("label-without-value", "FROM scratch\nLABEL a=1 b\n"),
    Case("label-single-word", "FROM scratch\nLABEL onlykey\n"),
    Case(
        "label-escaped-newlines",
        'FROM scratch\nLABEL a="line1\\nline2" \\\n  b=2 \\\n# comment\n  c=3\n',
    ),
    Case("label-json-value", 'FROM scratch\nLABEL a=\'{"k": [1, 2]}\' b="{\\"x\\":1}" c={"x":1}\n'),
    Case(
        "escape-backtick",
        """# escape=`
FROM scratch
ENV a=x`
y b=C:\\dir\\ c=`"q d="a`"b" e=`$a f=\\$a g=$a
LABEL p=C:\\Windows `
      q=${a/x/`z}
""",
    ),
    Case("env-tabs-between", "FROM scratch\nENV\ta=1\tb=2\nENV\tc\td\te\n"),
    Case("env-hash", "FROM scratch\nENV a=1 b=#x c=a#b\nENV d # not a comment\nLABEL x=1 # y=2\n"),
    Case("label-hash-alone", "FROM scratch\nLABEL x=1 #\n"),
    Case("label-hash-word", "FROM scratch\nLABEL x=1 #y=2\n"),
    Case(
        "expand-in-run-env",
        """FROM box
ARG a=arg
ENV e="spa ce" q='"' d='$x' n="a\\nb"
RUN printf '%s|' "$a" "$e" "$q" "$d" "$n" > /out
RUN a=own; echo "$a ${a:-x} ${undefined:-dflt}" > /out2
RUN ["/bin/sh", "-c", "echo $a ${e} \\\\ > /out3"]
""",
    ),
    Case(
        "arg-env-in-run-order",
        """FROM box
ARG a=arg
ENV a=env
RUN echo $a > /1
ARG a=arg2
RUN echo $a > /2
""",
        args={"a": "cli"},
    ),
    Case(
        "proxy-arg-not-declared",
        """FROM box
RUN echo "[$http_proxy][$HTTP_PROXY][$no_proxy]" > /1
LABEL a=[$http_proxy]
""",
        args={"http_proxy": "http://p:1", "NO_PROXY": "n"},
    ),
    Case(
        "global-arg-only-given", "ARG a\nFROM scratch\nARG a\nLABEL a=${a-unset}\n", args={"a": "g"}
    ),
    Case("global-arg-empty-default", "ARG a=\nFROM scratch\nARG a\nLABEL a=[${a-unset}]\n"),
    Case(
        "global-arg-default-by-stage",
        "ARG a=1\nFROM scratch\nARG a=2\nLABEL a=$a\n",
        args={"a": "g"},
    ),
    Case("arg-before-from-uses-later", "ARG a=$b\nARG b=1\nFROM scratch\nARG a\nLABEL a=[$a]\n"),
    Case(
        "env-overrides-arg-of-base-stage",
        """FROM scratch AS a
ENV v=stage
FROM a
ARG v=arg
LABEL v=$v
""",
        args={"v": "cli"},
    ),
]
