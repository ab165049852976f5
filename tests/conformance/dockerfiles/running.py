"""RUN: what it may do and what it leaves; and Dockerfiles of the usual sorts, small."""

from tests.support.build_cases import Case

B = "FROM box\n"

STEPS = [
    Case(
        "run-user",
        B + "USER daemon\nRUN id -u > /tmp/o && id -g >> /tmp/o && echo $HOME >> /tmp/o\n",
    ),
    Case(
        "run-user-number",
        B + "USER 1234:56\nRUN id -u > /tmp/o; id -G >> /tmp/o; echo $HOME >> /tmp/o\n",
    ),
    Case("run-user-group", B + "USER daemon:adm\nRUN id -g > /tmp/o; id -G >> /tmp/o\n"),
    Case("run-user-unknown", B + "USER nosuch\nRUN true\n"),
    Case("run-root-home", B + "RUN echo $HOME $USER > /o; env | sort | grep -v -e HOSTNAME > /p\n"),
    Case("run-home-set", B + "ENV HOME=/h\nRUN echo $HOME > /o\n"),
    Case("run-umask", B + "RUN umask > /o; touch /a; mkdir /b\n"),
    Case("run-fails", B + "RUN exit 3\n"),
    Case("run-not-found", B + "RUN nosuchcommand\n"),
    Case("run-exec-not-found", B + 'RUN ["nosuchcommand"]\n'),
    Case("run-on-scratch", "FROM scratch\nRUN true\n"),
    Case("run-remove", B + "RUN mkdir -p /a/b && touch /a/b/c /a/d\nRUN rm -rf /a/b\n"),
    Case(
        "run-remove-and-make",
        B + "RUN mkdir -p /a && touch /a/x /a/y\nRUN rm -rf /a && mkdir /a && touch /a/z\n",
    ),
    Case("run-dir-becomes-file", B + "RUN mkdir -p /a/b\nRUN rm -rf /a && echo f > /a\n"),
    Case("run-file-becomes-dir", B + "RUN echo f > /a\nRUN rm /a && mkdir /a && touch /a/b\n"),
    Case("run-dir-becomes-link", B + "RUN mkdir -p /a/b /c\nRUN rm -rf /a && ln -s c /a\n"),
    Case(
        "run-link-becomes-dir",
        B + "RUN mkdir /c && touch /c/k && ln -s c /a\nRUN rm /a && mkdir /a\n",
    ),
    Case("run-remove-base-file", B + "RUN rm /etc/group && rm -rf /usr\n"),
    Case("run-rename-dir", B + "RUN mkdir /a && touch /a/b\nRUN mv /a /c\n"),
    Case("run-chmod-only", B + "RUN touch /a\nRUN chmod 4711 /a && chown 1:2 /tmp\n"),
    Case("run-touch-only", B + "RUN touch -d '2001-01-01 00:00:00' /a /etc/group\n"),
    Case("run-hard-links", B + "RUN echo 1 > /a && ln /a /b\nRUN ln /a /c\nRUN rm /a\n"),
    Case("run-hard-link-to-base", B + "RUN ln /etc/passwd /p\n"),
    Case("run-hard-link-changed", B + "RUN echo 1 > /a && ln /a /b\nRUN echo 2 > /a\n"),
    Case("run-nothing", B + "RUN true\n"),
    Case("run-device", B + "RUN mknod /n c 1 3 && mkfifo -m 600 /p && mknod /b b 7 1\n"),
    Case("run-sticky", B + "RUN mkdir -m 3777 /s && touch /su && chmod 6755 /su\n"),
    Case(
        "run-odd-names",
        B + "RUN cd / && mkdir o && cd o && touch -- -x 'a b' \"$(printf 'n\\nl')\" ü '*' '\\'\n",
    ),
    Case("run-whiteout-like", B + "RUN mkdir /w && touch /w/.wh.x && echo ok > /w/y\n"),
    Case("run-sparse", B + "RUN dd if=/dev/zero of=/s bs=1 count=1 seek=3000000\n"),
    Case("run-in-tmp-and-run", B + "RUN mkdir -p /run/x /dev/shm/y && touch /tmp/z /run/x/w\n"),
    Case("run-proc-writes", B + "RUN touch /proc/x || echo no > /o\n"),
    Case(
        "run-dev",
        B + "RUN ls -d /dev/null /dev/zero /dev/random /dev/fd /dev/stdin /dev/shm /dev/pts > /o\n",
    ),
    Case("run-dev-null-write", B + "RUN echo x > /dev/null && ls -l /etc/hosts > /dev/null\n"),
    Case(
        "run-volume-write",
        B + "RUN mkdir /v && echo a > /v/a\nVOLUME /v\nRUN echo b > /v/b\nCOPY c /v/\n",
        {"c": "c"},
    ),
    Case("run-stdin", B + "RUN cat > /o; echo $? >> /o\n"),
    Case("run-background", B + "RUN (sleep 300 &) ; echo done > /o\n"),
    Case("run-shell-syntax-error", B + "RUN if then\n"),
    Case("run-workdir-removed", B + "WORKDIR /w\nRUN rmdir /w\nRUN pwd > /o\n"),
    Case("run-path", B + "ENV PATH=/nope\nRUN /bin/echo x > /o\n"),
    Case("run-no-path", B + "ENV PATH=\nRUN echo $PATH > /o\n"),
    Case(
        "run-after-env-path",
        B + "RUN mkdir /p && printf '#!/bin/sh\\necho hi\\n' > /p/prog && chmod +x /p/prog\n"
        "ENV PATH=$PATH:/p\nRUN prog > /o\n",
    ),
    Case("run-args-env", B + "ARG a=1\nENV b=2\nRUN a=3 sh -c 'echo $a$b' > /o\n"),
    Case("run-set-pipefail", B + 'SHELL ["/bin/sh", "-o", "pipefail", "-c"]\nRUN false | true\n'),
    Case(
        "run-limits",
        B + "RUN ulimit -n > /dev/null; grep -c . /proc/self/limits > /dev/null; echo ok > /o\n",
    ),
    Case("run-hosts", B + "RUN grep -c localhost /etc/hosts > /dev/null && echo ok > /o\n"),
    Case(
        "run-write-hosts",
        B
        + "RUN echo 1.2.3.4 x >> /etc/hosts; grep -c '4 x' /etc/hosts > /dev/null && echo ok > /o\n",
    ),
    Case(
        "run-times-in-past",
        B
        + "RUN touch -d '1980-01-01 00:00:00' /a && mkdir /d && touch -d '1990-05-05 00:00:00' /d\n",
    ),
    Case(
        "run-capability",
        B + "RUN chown 1:1 /etc/group && chmod 000 /etc/passwd && cat /etc/passwd > /o\n",
    ),
    Case("run-ids", B + "RUN touch /a && chown 4294967294:100000 /a\n"),
    Case(
        "run-replace-hard-link",
        B + "RUN echo 1 > /bin/c2 && rm /bin/cat && mv /bin/c2 /bin/cat && ls /bin/cat > /o\n",
    ),
]

MOUNTS = [
    Case("mount-bind", B + "RUN --mount=target=/m ls /m > /o && cat /m/a >> /o\n", {"a": "1"}),
    Case(
        "mount-bind-source",
        B + "RUN --mount=type=bind,source=d,target=/m ls -A /m > /o\n",
        {"d/a": "1"},
    ),
    Case(
        "mount-bind-file",
        B + "RUN --mount=type=bind,source=d/a,target=/m cat /m > /o\n",
        {"d/a": "1"},
    ),
    Case("mount-bind-missing", B + "RUN --mount=type=bind,source=nope,target=/m true\n"),
    Case("mount-bind-readonly", B + "RUN --mount=target=/m touch /m/x\n"),
    Case("mount-bind-rw", B + "RUN --mount=target=/m,rw touch /m/x && ls /m > /o\n", {"a": "1"}),
    Case(
        "mount-bind-stage",
        "FROM box AS x\nRUN echo 1 > /a\nFROM box\nRUN --mount=from=x,target=/m cat /m/a > /o\n",
    ),
    Case(
        "mount-bind-relative", B + "WORKDIR /w\nRUN --mount=target=m cat /w/m/a > /o\n", {"a": "1"}
    ),
    Case(
        "mount-point-existing",
        B + "RUN mkdir /m && echo k > /m/k\nRUN --mount=target=/m ls /m > /o\n",
        {"a": "1"},
    ),
    Case(
        "mount-point-in-file-place",
        B + "RUN echo k > /m\nRUN --mount=source=a,target=/m cat /m > /o\n",
        {"a": "1"},
    ),
    Case(
        "mount-cache",
        B + "RUN --mount=type=cache,target=/c,id=case1 echo x > /c/x && ls /c > /o\n",
    ),
    Case(
        "mount-cache-owner",
        B
        + "RUN --mount=type=cache,target=/c,id=case2,uid=5,gid=6,mode=0700 stat -c '%u %g %a' /c > /o\n",
    ),
    Case(
        "mount-cache-from",
        "FROM box AS x\nRUN mkdir /s && echo 1 > /s/a\nFROM box\n"
        "RUN --mount=type=cache,target=/c,id=case3,from=x,source=/s ls /c > /o\n",
    ),
    Case("mount-tmpfs", B + "RUN --mount=type=tmpfs,target=/t touch /t/x && ls /t > /o\n"),
    Case(
        "mount-secret-missing",
        B + "RUN --mount=type=secret,id=nosuch cat /run/secrets/nosuch || echo none > /o\n",
    ),
    Case("mount-secret-required", B + "RUN --mount=type=secret,id=nosuch,required true\n"),
    Case("mount-type-unknown", B + "RUN --mount=type=foo,target=/x true\n"),
    Case("mount-no-target", B + "RUN --mount=type=bind,source=a true\n", {"a": "1"}),
    Case("mount-field-unknown", B + "RUN --mount=type=bind,foo=a,target=/x true\n"),
    Case(
        "mount-variable",
        B + "ARG t=/m\nRUN --mount=type=bind,target=$t cat /m/a > /o\n",
        {"a": "1"},
    ),
    Case(
        "mount-several",
        B
        + "RUN --mount=target=/m --mount=type=tmpfs,target=/m/t --mount=type=cache,target=/c,id=case4 "
        "touch /m/t/x /c/y && ls /m > /o\n",
        {"a": "1", "t/k": ""},
    ),
    Case(
        "mount-ignored-file",
        B + "RUN --mount=target=/m ls -A /m > /o\n",
        {"a": "1", "b": "2", ".dockerignore": "a\n"},
    ),
    Case("network-none", B + "RUN --network=none ls /sys/class/net > /o\n"),
    Case("network-bad", B + "RUN --network=foo true\n"),
    Case("security-insecure-refused", B + "RUN --security=insecure true\n"),
]

USUAL = [
    Case(
        "usual-node",
        "FROM box AS deps\nWORKDIR /usr/src/app\n"
        "COPY package.json package-lock.json* ./\n"
        "RUN --mount=type=cache,target=/root/.npm,id=case5 mkdir node_modules && "
        "cat package.json > node_modules/.done\n"
        "FROM box\nENV NODE_ENV=production\nWORKDIR /usr/src/app\n"
        "COPY --from=deps /usr/src/app/node_modules ./node_modules\nCOPY . .\n"
        'EXPOSE 3000\nUSER daemon\nCMD [ "node", "server.js" ]\n',
        {
            "package.json": "{}",
            "server.js": "1",
            "node_modules/x": "",
            ".dockerignore": "node_modules\nDockerfile*\n.dockerignore\n",
        },
    ),
    Case(
        "usual-go",
        "ARG GO_VERSION=1.22\nFROM --platform=$BUILDPLATFORM box AS build\nWORKDIR /src\n"
        "RUN --mount=type=bind,source=go.mod,target=go.mod --mount=type=cache,target=/go/pkg/mod,id=case6 "
        "cat go.mod > /dev/null\n"
        "ARG TARGETOS TARGETARCH VERSION=dev\n"
        "RUN --mount=type=bind,target=. --mount=type=cache,target=/root/.cache,id=case7 "
        "mkdir -p /bin/out && echo $TARGETOS/$TARGETARCH $VERSION > /bin/out/server\n"
        "FROM scratch AS final\nARG UID=10001\nCOPY --from=build /etc/passwd /etc/group /etc/\n"
        "COPY --from=build --chmod=755 /bin/out/server /bin/\nUSER ${UID}\nEXPOSE 3333\n"
        'ENTRYPOINT [ "/bin/server" ]\n',
        {"go.mod": "module x\n", "main.txt": "1"},
        args={"VERSION": "1.2"},
    ),
    Case(
        "usual-python",
        "FROM box AS base\nENV PYTHONDONTWRITEBYTECODE=1 \\\n    PYTHONUNBUFFERED=1\nWORKDIR /app\n\n"
        'ARG UID=10001\nRUN echo "appuser:x:${UID}:${UID}::/nonexistent:/bin/false" >> /etc/passwd\n'
        "RUN --mount=type=bind,source=requirements.txt,target=requirements.txt \\\n"
        "    wc -l < requirements.txt > /installed\n"
        "USER appuser\nCOPY --chown=appuser:daemon . .\nEXPOSE 8000\n\nCMD gunicorn 'app:app' --bind=0.0.0.0:8000\n",
        {"requirements.txt": "flask\n", "app.py": "x"},
    ),
    Case(
        "usual-postgres",
        "FROM box\nRUN set -eux; \\\n\techo 'postgres:x:999:' >> /etc/group; \\\n"
        "# also create the home directory\n\tmkdir -p /var/lib/postgresql; \\\n"
        "\tchown -R 999:999 /var/lib/postgresql\n\n"
        "ENV PG_MAJOR 16\nENV PATH $PATH:/usr/lib/postgresql/$PG_MAJOR/bin\n"
        "ENV PGDATA /var/lib/postgresql/data\n"
        'RUN mkdir -p "$PGDATA" && chown -R 999:999 "$PGDATA" && chmod 1777 "$PGDATA"\n'
        "VOLUME /var/lib/postgresql/data\nCOPY docker-entrypoint.sh /usr/local/bin/\n"
        "RUN ln -s usr/local/bin/docker-entrypoint.sh / # backwards compat\n"
        'ENTRYPOINT ["docker-entrypoint.sh"]\nSTOPSIGNAL SIGINT\nEXPOSE 5432\nCMD ["postgres"]\n',
        {"docker-entrypoint.sh": "#!/bin/sh\n"},
    ),
    Case(
        "usual-nginx",
        'FROM box\nLABEL maintainer="NGINX <docker-maint@nginx.com>"\nENV NGINX_VERSION 1.27.0\n'
        "ENV PKG_RELEASE 1~bookworm\nRUN set -x \\\n    && mkdir -p /var/log/nginx /docker-entrypoint.d \\\n"
        "    && ln -sf /dev/stdout /var/log/nginx/access.log \\\n"
        "    && ln -sf /dev/stderr /var/log/nginx/error.log\n"
        "COPY docker-entrypoint.sh /\nCOPY 10-*.sh 15-*.sh /docker-entrypoint.d/\n"
        'ENTRYPOINT ["/docker-entrypoint.sh"]\nEXPOSE 80\nSTOPSIGNAL SIGQUIT\n'
        'CMD ["nginx", "-g", "daemon off;"]\n',
        {"docker-entrypoint.sh": "x", "10-a.sh": "a", "15-b.sh": "b"},
    ),
    Case(
        "usual-onbuild-python",
        "FROM box AS onbuild\nRUN mkdir -p /usr/src/app\nWORKDIR /usr/src/app\n"
        "ONBUILD COPY requirements.txt /usr/src/app/\nONBUILD RUN wc -c requirements.txt\n"
        'ONBUILD COPY . /usr/src/app\nFROM onbuild\nCMD ["python"]\n',
        {"requirements.txt": "x"},
    ),
    Case(
        "usual-matrix-of-stages",
        "ARG variant=debug\nFROM box AS common\nRUN echo c > /c\n"
        "FROM common AS debug\nENV D=1\nRUN echo d > /d\n"
        "FROM common AS release\nENV D=0\n"
        "FROM ${variant} AS final\nRUN echo $D > /o\n",
        args={"variant": "release"},
    ),
    Case(
        "usual-java",
        "FROM box AS extract\nWORKDIR /build\nCOPY target/*.jar app.jar\n"
        "RUN mkdir -p layers/app layers/deps && cp app.jar layers/app/ && echo d > layers/deps/d\n"
        'FROM box\nARG UID=10001\nRUN echo "u:x:$UID:" >> /etc/group\nUSER $UID\n'
        "COPY --from=extract build/layers/deps/ ./\nCOPY --from=extract build/layers/app/ ./\n"
        "EXPOSE 8080\nHEALTHCHECK --interval=10s CMD wget -q http://localhost:8080/ || exit 1\n"
        'ENTRYPOINT [ "java", "org.springframework.boot.loader.launch.JarLauncher" ]\n',
        {"target/app-1.0.jar": "jar"},
    ),
]

CASES = [*STEPS, *MOUNTS, *USUAL]
