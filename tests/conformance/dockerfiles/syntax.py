"""Lines, comments, directives, here-documents."""

from tests.support.build_cases import Case

CASES = [
    Case(
        "crlf",
        b'FROM box\r\nENV a=1 \\\r\n  b=2\r\nLABEL c=3\r\nCMD ["x"]\r\nCOPY a /\r\n',
        {"a": "1\r\n"},
    ),
    Case(
        "crlf-run",
        b"FROM box\r\nRUN echo a > /a && \\\r\n  echo b > /b\r\nRUN echo c > /c\r\n",
    ),
    Case(
        "crlf-heredoc",
        b"FROM box\r\nCOPY <<E /f\r\nline\r\nE\r\nRUN <<E\r\necho x > /x\r\nE\r\n",
    ),
    Case("bom", b"\xef\xbb\xbfFROM scratch\nLABEL a=1\n"),
    Case("bom-directive", b"\xef\xbb\xbf# escape=`\nFROM scratch\nLABEL a=x`\ny\n"),
    Case("tabs-and-indents", "\tFROM\tscratch\n\t LABEL\ta=1\n   ENV   b=2   \n"),
    Case("no-final-newline", "FROM scratch\nLABEL a=1"),
    Case(
        "comments",
        "# c\nFROM scratch\n  # indented\nLABEL a=1 \\\n# in between\n  # indented too\n  b=2\n#end",
    ),
    Case(
        "comment-in-run",
        "FROM box\nRUN echo a \\\n# comment\n  # another\n b \\\n   c > /o\n",
    ),
    Case("comment-not-in-run", "FROM box\nRUN echo a # b > /o\nRUN echo x > /p # y\n"),
    Case("empty-continuation", "FROM box\nRUN echo a \\\n\n  b > /o\n"),
    Case("trailing-space-continuation", "FROM box\nRUN echo a \\  \n  b > /o\n"),
    Case("continuation-at-end", "FROM scratch\nLABEL a=1 \\\n"),
    Case("continuation-at-end-comment", "FROM scratch\nLABEL a=1 \\\n# x\n"),
    Case("continuation-mid-word", "FROM scratch\nLABEL ab\\\nc=1 d=e\\\nf\n"),
    Case("continuation-leading-space", "FROM box\nRUN printf '%s' 'a\\\n   b' > /o\n"),
    Case("double-backslash-end", "FROM box\nRUN echo a > /o \\\\\nENV b=1\n"),
    Case("keyword-split", "FROM scratch\nLAB\\\nEL a=1\n"),
    Case("lower-keywords", 'from box\nenv a=1\nrun echo $a > /a\ncmd ["x"]\n'),
    Case(
        "directive-after-comment",
        "# comment\n# escape=`\nFROM scratch\nLABEL a=C:\\\\x b=c\\\nd\n",
    ),
    Case("directive-after-blank", "\n# escape=`\nFROM scratch\nLABEL a=c`\nd\n"),
    Case("directive-twice", "# escape=`\n# escape=`\nFROM scratch\n"),
    Case("directive-bad", "# escape=x\nFROM scratch\n"),
    Case("directive-unknown", "# foo=bar\n# escape=`\nFROM scratch\nLABEL a=c\\\nd\n"),
    Case("directive-spaces", "#   ESCAPE  =  `\nFROM scratch\nLABEL a=c`\nd\n"),
    Case(
        "heredoc-run",
        'FROM box\nRUN <<EOF\necho one > /one\nset -e\nx=1\necho "$x" > /two\nEOF\n',
    ),
    Case(
        "heredoc-run-shebang",
        "FROM box\nRUN <<EOF\n#!/bin/sh\necho \"$0\" | sed 's/.*/ok/' > /o\nEOF\n",
    ),
    Case(
        "heredoc-run-command",
        "FROM box\nENV v=val\n"
        "RUN cat <<EOF > /o\na $v\nEOF\n"
        "RUN cat <<'EOF' > /p\na $v\nEOF\n"
        "RUN cat <<A <<B > /q\n1\nA\n2\nB\n",
    ),
    Case(
        "heredoc-tabs",
        "FROM box\nRUN <<-E\n\techo a > /a\n\t\techo b > /b\n\tE\n"
        "COPY <<-E /c\n\t\ttabs\n\t  mixed\n\tE\n",
    ),
    Case(
        "heredoc-copy",
        "FROM scratch\nENV v=val\n"
        "COPY <<EOF /a\n$v \"${v}\" '$v' \\$v \\\\ ${unset:-d}\n  spaces\nEOF\n"
        'COPY <<"EOF" /b\n$v\nEOF\n'
        "COPY <<one <<two /dir/\n1\none\n2\ntwo\n"
        "ADD <<E /add\nx\nE\n",
    ),
    Case(
        "heredoc-copy-mixed",
        "FROM scratch\nCOPY file <<new /d/\ncontent\nnew\n"
        "COPY --chmod=600 --chown=3:4 <<E /mode\nx\nE\n",
        {"file": "f"},
    ),
    Case("heredoc-empty", "FROM scratch\nCOPY <<E /e\nE\n"),
    Case("heredoc-unterminated", "FROM scratch\nCOPY <<E /e\nx\n"),
    Case("heredoc-as-destination", "FROM scratch\nCOPY a <<E\nx\nE\n", {"a": "1"}),
    Case("heredoc-fd", "FROM box\nRUN 3<<E cat /proc/self/fd/3 > /o\nx\nE\n"),
    Case("heredoc-with-shell", 'FROM box\nSHELL ["/bin/sh", "-ec"]\nRUN <<E\necho a > /a\nE\n'),
    Case("heredoc-fails", "FROM box\nRUN <<E\nset -e\nfalse\necho x > /x\nE\n"),
    Case("heredoc-last-status", "FROM box\nRUN <<E\nfalse\necho x > /x\nE\n"),
    Case("heredoc-in-quotes", 'FROM box\nRUN echo "<<E" > /o\n'),
    Case("heredoc-odd-lines", "FROM box\nCOPY <<E /o\n# kept\n\n\\\n x \\\ny\nE\n"),
    Case("heredoc-here-string", "FROM box\nRUN echo '<<<x' > /o\n"),
    Case(
        "heredoc-name-dots",
        "FROM scratch\nCOPY <<a.conf <<b.conf /etc/app/\n1\na.conf\n2\nb.conf\n",
    ),
    Case("heredoc-patterns", "FROM scratch\nARG V=1\nCOPY <<E /o\n${V#1} [$V] ${V/1/2}\nE\n"),
    Case("run-none", "FROM box\nRUN\n"),
    Case(
        "run-exec",
        'FROM box\nRUN ["sh", "-c", "echo $HOME > /o"]\nRUN ["mkdir", "a b", "$HOME"]\n',
    ),
    Case("run-bad-json", "FROM box\nRUN ['echo', 'x']\n"),
    Case(
        "run-quoting",
        "FROM box\n"
        'RUN echo "a  b"  \'c $d\' \\$e \\\\ > /o && printf "%s\\n" x >> /o\n'
        "RUN echo $((1+2)) $(echo sub) `echo tick` ~ >> /o\n",
    ),
    Case("run-dollar-braces", "FROM box\nRUN x=abc; echo ${x%c} ${x#a} ${#x} > /o\n"),
    Case(
        "unicode",
        'FROM scratch\nLABEL é=ü 日本="語 x"\nENV x=→\nCOPY ä.txt /ö/\n',
        {"ä.txt": "1"},
    ),
    Case("nul-byte", b"FROM scratch\nLABEL a=\x00\n"),
    Case("latin1", b"FROM scratch\nLABEL a=\xe9\n"),
    Case("flag-unknown", "FROM scratch\nCOPY --foo=1 a b\n", {"a": ""}),
    Case("flag-twice", "FROM scratch\nCOPY --chown=1 --chown=2 a b\n", {"a": ""}),
    Case("flag-no-value", "FROM scratch\nCOPY --chown a b\n", {"a": ""}),
    Case("flag-end", "FROM scratch\nCOPY -- --a /b/\n", {"--a": "1"}),
    Case("flag-on-env", "FROM scratch\nENV --x=1 a=2\n"),
    Case("flag-on-label", "FROM scratch\nLABEL --x=1\n"),
    Case("flag-bool", "FROM scratch\nCOPY --link=maybe a b\n", {"a": ""}),
    Case("flag-after-args", "FROM scratch\nCOPY a --chown=1 /d/\n", {"a": "", "--chown=1": "x"}),
]
