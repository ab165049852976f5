"""The 324 entries of the hostile corpus: what each is, and what must come of it.

A list on its own, apart from the inputs, so that an entry without a test is seen. Ids are a
class and a number: ``B07``. Verdicts: R refused with a typed error, S accepted and safe,
L refused with an error that names the limit, B either, as the case says.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One line of the list; ``verdict`` is one of ``R S L B``."""

    id: str
    verdict: str
    title: str


CLASSES = {
    "A": "paths", "B": "links", "C": "headers", "D": "whiteouts", "E": "inodes",
    "F": "compression", "G": "manifests", "H": "registry", "I": "spec text", "J": "context",
    "K": "RUN", "L": "names", "M": "the store attacked",
}  # fmt: skip

_TITLES = {
    "A": """
        R ../x
        R a/../../x
        R ..
        R . as a file
        R . as a symlink to /
        R ./ as a hard link
        R an empty name
        R NUL in a pax path
        R a component of 256 bytes
        R a file whose name ends in /
        S an absolute path
        S a//b and a/./b
        S . as a directory
        S newline and ESC, escaped when shown
        S a component of 255 bytes
        S a path of 4,095 bytes
        S ..\\x and C:x
        S a dot or space at the end
        S prefix and name filled to the last byte
        S proc/self/fd/3
        L a path of 4,097 bytes, depth 2,000""",
    "B": """
        R a file through the symlinks a, b, a
        R an empty symlink target
        R NUL in a symlink target
        R a symlink target of 4,096 bytes
        R a hard link to an absolute path
        R a hard link to ../x
        R a hard link to what is missing
        R a hard link to a later member
        R a hard link to a directory
        R a hard link to itself
        R a hard link through a symlinked parent
        R a directory replaced by a symlink, then children
        S a symlink to /etc/passwd
        S a symlink to /proc/self/root
        S a symlink to /proc/self/fd/7
        S a symlink to itself
        S a chain of 41 symlinks
        S symlinks that together exceed PATH_MAX
        S a hard link to a symlink
        S a hard link to a lower layer's file
        S a hard link to a device
        S a chain of 10,000 hard links
        S a file, a symlink, a file of one name
        S layer 2 writes through layer 1's symlink
        B a file through an absolute symlink to a directory
        B a file through a relative symlink to a directory""",
    "C": """
        R a bad checksum in the first header
        R a bad checksum in the middle
        R a size that is negative or no number
        R a pax size that contradicts the header's
        R a size on a symlink or directory
        R the pax records path or size twice
        R a GNU long name and a pax header for one member
        R two GNU long names
        R a GNU long link name without a link
        R a pax length too short
        R a pax length too long
        R a pax length of 0
        R a pax length that is no number
        R a pax key that is empty, without =, with NUL
        R a global path or size
        R members of types Z, V, M, D
        R sparse regions that overlap, go back, leave the file
        R uid 2^32
        R uid -1
        R a header cut short
        R a body cut short
        R a block of zeros, then a member
        R an empty stream
        R 512 bytes of garbage first
        S names that are not UTF-8
        S hdrcharset=BINARY
        S a global header at the end
        S type 7
        S version 7
        S several formats in one archive
        S a mode above 07777
        S no end blocks
        S data after the end
        S an archive of nothing
        S 10,000 members of one name
        S a tar that is a zip as well
        L size 2^63-1
        L a pax header or long name of 8 GiB
        L 300,000 pax records
        L 2,000 global headers before 5,000 members
        L a million old sparse regions
        L a huge pax sparse map
        L a real size of 8 EiB
        L a user name of 10 KiB
        L 4 GiB of zeros after the end
        L 2,000,001 members
        S sparse formats 0.0 and 0.1, read as GNU tar does
        B times: negative, NaN, 1e300""",
    "D": """
        R .wh.
        R .wh..
        R .wh...
        R .wh..wh.x
        R .wh.a/b
        R a whiteout with data
        R a whiteout that is a symlink
        R a whiteout that is a hard link
        R a whiteout through a symlinked parent
        R an opaque marker inside a file
        R the character device 0:0
        R a real name that begins with .wh.
        R a whiteout of / or ..
        S an opaque root
        S an opaque directory and later children
        S a whiteout of an earlier file of the layer
        S a file of the whiteout's name stays
        S trusted.overlay attributes are stripped
        S user.overlay attributes are stripped
        S 128 layers""",
    "E": """
        R a malformed capability
        R a socket
        R an attribute without a namespace
        R an attribute's name that is not UTF-8
        R an attribute's name with NUL
        R a malformed ACL
        B an owner outside of the subordinate ids
        B devices 8:0 and 1:3 without privileges
        S setuid, never executable by the host
        S setgid
        S capabilities of versions 2 and 3
        S a fifo, never opened
        S SELinux labels
        S uid 0
        S a directory of mode 000
        S a type changed by a later member
        L an attribute of 64 KiB and 1
        L 10,000 attributes""",
    "F": """
        R zstd claims 1 TiB, holds little
        R zstd claims 0 bytes, holds some
        R a wrong checksum
        R a zstd dictionary
        R a reserved zstd block
        R a stream cut short
        R gzip with garbage behind
        R gzip with a wrong CRC or size
        R gzip in gzip
        B a gzip layer that is zstd or plain
        B an eStargz table of contents with ../
        S 1 GiB of honest zeros
        S two zstd frames
        S 10,000 zstd frames
        S several gzip members
        S zeros behind the stream
        S a lying zstd:chunked table of contents
        L 100 GiB out of gzip
        L zstd claims 32 TiB
        L a zstd window of 2^31
        L a frame of 9 bytes with a window of 512 MiB
        L 4 GiB of skippable frames
        L a gzip name of 10 MiB
        L 1 GiB out of zstd RLE blocks
        B xz and bzip2
        R lz4 and zip""",
    "G": """
        R manifests and layers in one document
        R a media type other than the descriptor's
        R no media type at all
        R a digest sha256:../../x
        R digests in upper case, short, long, with NUL, md5
        R a digest with ?x behind
        R sizes 0, -1, 2^63, a float, a string, 1e3
        R a blob of other size or digest than said
        R diff ids: fewer, more, twice, in another order
        R a diff id that is not the tar's
        R a key twice
        R a byte order mark, UTF-16, NaN, text behind, comments
        R the number 1e400
        R schema 1
        R the config of an artifact
        R urls to fetch a layer from
        R data that is not the blob
        R a platform that is none
        R User 0:0:0
        R tags ../, of 129 characters, with a space, not ASCII
        R a name with credentials
        S history of another length than layers
        S one layer twice
        S no layers
        S 128 and 512 layers
        S WorkingDir ../ or a symlink
        B /etc/passwd as a symlink to a fifo of the host
        L an index that names itself, depth 100
        L 100,000 entries
        L 513 layers
        L JSON 100,000 deep
        L a document of 4 MiB and 1
        L annotations of 10 MiB
        L an /etc/passwd of 1 GiB
        S Cmd as a string, Env without =
        S nulls, created in year 0 or 9999""",
    "H": """
        R an http realm for an https registry
        R a realm nobody paired
        R realms at loopback and metadata addresses, in all notations
        R a private address out of DNS
        R rebinding
        R a token redirected to metadata
        R https to http
        R a realm with user, CRLF, fragment, of 1 MiB
        R a token of 1 MiB or not JSON
        R a length one off
        R a Content-Encoding
        R a wrong 206
        R a digest header that lies
        R bad TLS
        R a foreign Link
        S no credentials after a 307 to another host
        S no Basic to a foreign host
        S a Location while pushing
        S an unknown mount uploads
        S an ignored range restarts
        L a redirect loop
        L endless pages and bodies
        L one byte a second
        L Retry-After 10^9""",
    "I": """
        R empty, only a byte order mark
        R NUL
        R not UTF-8
        R ${0:+0}
        R COPY with nothing but an escape
        R a here-document, quote or brace that does not end
        R a foreign # syntax=, never fetched
        R FROM itself or a later stage
        R ONBUILD ONBUILD
        R an interval of 1e99h
        R EXPOSE 70000 and -1
        R VOLUME /
        R an ENV key that is empty
        B a native spec's bombs: aliases, tags, cycles, depth
        S ARG A=$B B=$A
        S an EXPOSE range
        B right-to-left marks and homoglyphs, escaped
        S (a+)+$ in linear time
        S as BuildKit: <<-"E O F", the backtick escape, bad JSON forms
        L a line of 10 MiB
        L a million lines
        L 100,000 continuations
        L doubling A=$A$A
        L ${a:-...} 10,000 deep
        L an endless here-document
        L 10,000 stages
        L an ENV of 1 MiB""",
    "J": """
        R COPY of a link that leaves the context
        R COPY of a fifo or device, never opened
        R COPY of an ignored secret
        R a bad --chown
        R ADD redirected to file, ftp, localhost
        R ADD with a wrong checksum
        R a git fragment #ref:../../etc
        R git submodules, hooks, fsmonitor, .git files
        R a git ref --upload-pack=
        R a tar as context with a symlink
        R /proc as the context
        S a link to /etc/shadow stays a link
        S renameat2 exchanges a directory meanwhile
        S a context that is a symlink
        B a file that changes while it is read
        S an edit that keeps size and time
        S hard links
        S a loop of bind mounts
        S .dockerignore with !, **, CRLF
        S .dockerignore of 100,000 rules
        S COPY --from with ../../ or through a symlink
        S a destination that is a symlink
        L a sparse file of 1 TiB
        L bombs by ADD""",
    "K": """
        R bind-propagation=shared
        R mounts on /, /proc, /dev, /sys, ..
        R a secret that is missing
        R --security=insecure, --device
        R WORKDIR /proc/self/fd/7
        R a cache id with NUL, of 1 MiB
        S the cache id ../../etc
        S a cache target that is a symlink
        B a bind source that is a symlink
        S a mount whose target's parent is a symlink
        S jobs that race
        S stubs swapped before they are cleaned up
        S a secret stays out of the layer
        S a daemon left behind is killed
        S /dev, /etc, /proc as symlinks
        B /bin/sh replaced
        S planted xz, git, python3 never run
        S only descriptors 0 to 2
        S unmounting is denied
        S immutable files
        B a tree 10,000 deep can be removed
        B a tmpfs of 1 EiB
        L 10^6 forks
        R a full disk
        L 2 million files
        B a line of 10 GiB""",
    "L": """
        S \\xff\\xfe
        S surrogates
        S an overlong /
        S NFC and NFD side by side
        S PAM and pam
        S the Turkish i
        S zero width, right to left
        S CON, a:b
        S -x, $(x)
        S 255 bytes of many-byte characters
        S names of our temporary files
        S all 254 byte values""",
    "M": """
        R a pack that is a symlink or fifo
        R a footer with offsets beyond, overlapping, huge
        R a catalog row that names ../x
        R a tree out of order
        R a chunk that does not match its id
        R a format of the future
        R a store that everybody may write
        R triggers and views in the catalog
        R a socket in place of a file
        S an interrupted commit is replayed
        S the lock of a dead or reused pid
        S a view's image swapped after the check
        S a disk that is read-only or full
        S a copied store
        R a tree with a cycle
        R a tree 10^5 deep, of 10^7 entries""",
}


def _entries() -> list[Entry]:
    found = []
    for name, block in _TITLES.items():
        for number, line in enumerate(block.strip().splitlines(), start=1):
            verdict, _, title = line.strip().partition(" ")
            found.append(Entry(f"{name}{number:02}", verdict, title))
    return found


ENTRIES = tuple(_entries())
BY_ID = {entry.id: entry for entry in ENTRIES}

# What has no way in yet: why. A way that is added brings its cases with it.
ABSENT = {
    "K23": "RUN has no limit of processes: hostile commands belong into a virtual machine",
    "M12": "no view is an EROFS image",
}

# What other suites try, in ways of their own: the tests that do.
_FULL_DISK = "tests/crash/test_store_full_disk.py::"
_ERRORS = "tests/crash/test_error_injection.py::"
_REGISTRY = "tests/unit/registry/test_hostile.py::"
_OF_REGISTRIES = (
    "test_realms_where_nothing_of_ours_may_go",
    "test_realms_where_nothing_of_ours_may_go",
    "test_realms_where_nothing_of_ours_may_go",
    "test_a_name_that_leads_inward",
    "test_a_name_that_leads_inward",
    "test_token_servers_do_not_redirect",
    "test_from_https_to_http",
    "test_realms_without_end",
    "test_answers_that_hold_no_token",
    "test_lengths_that_are_lies",
    "test_encodings_that_nobody_asked_for",
    "test_ranges_that_are_others",
    "test_digests_in_headers",
    "test_certificates",
    "test_pages_elsewhere",
    "test_blobs_elsewhere",
    "test_a_host_elsewhere_that_asks_for_a_password",
    "test_uploads_elsewhere",
    "test_a_mount_that_the_registry_does_not_know",
    "test_ranges_that_are_ignored",
    "test_redirects_in_a_circle",
    "test_pages_without_end",
    "test_a_byte_now_and_then",
    "test_retry_after_a_lifetime",
)
ELSEWHERE = {
    **{f"H{number:02}": _REGISTRY + test for number, test in enumerate(_OF_REGISTRIES, start=1)},
    "K24": _ERRORS + "test_a_failing_call_is_an_error_in_words_and_harmless",
    "M10": "tests/crash/test_kill_sweep.py::test_a_kill_at_any_call_leaves_a_sound_store",
    "M13": _FULL_DISK + "test_a_read_only_store_reads_and_says_why_it_does_not_write",
}
