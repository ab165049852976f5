import time

import pytest

from layerstore.errors import FormatError, UnsafeContentError
from layerstore.formats.tree import Changeset, Entry, Kind, path_key
from layerstore.image.trees.stack import Node, lookup, resolve, stack, walk


def dir_(path: bytes, mode: int = 0o755) -> Entry:
    return Entry(path=path, kind=Kind.DIR, mode=mode)


def file(path: bytes, size: int = 1) -> Entry:
    return Entry(path=path, kind=Kind.FILE, mode=0o644, size=size, extents=((size, bytes(32)),))


def symlink(path: bytes, target: bytes) -> Entry:
    return Entry(path=path, kind=Kind.SYMLINK, mode=0o777, target=target)


def link(path: bytes, target: bytes) -> Entry:
    return Entry(path=path, kind=Kind.HARDLINK, target=target)


def layer(*entries: Entry, whiteouts=(), opaques=()) -> Changeset:
    return Changeset(
        tuple(sorted(entries, key=lambda e: path_key(e.path))),
        tuple(sorted(whiteouts)),
        tuple(sorted(opaques)),
    )


def paths(root: Node) -> list[bytes]:
    return [path for path, _ in walk(root)][1:]


def at(root: Node, path: bytes) -> Node:
    node = lookup(root, path)
    assert node is not None
    return node


def test_no_layers_make_an_empty_root():
    root = stack([])
    assert (root.entry.kind, root.entry.mode, root.ino, root.nlink) == (Kind.DIR, 0o755, 1, 2)
    assert root.children == {}


def test_a_layer_may_set_the_roots_own_attributes():
    assert stack([layer(dir_(b"", 0o700), file(b"a"))]).entry.mode == 0o700


def test_missing_parents_are_implied():
    root = stack([layer(file(b"a/b/c"))])
    assert paths(root) == [b"a", b"a/b", b"a/b/c"]
    assert (at(root, b"a/b").entry.mode, at(root, b"a/b").entry.uid) == (0o755, 0)
    assert (root.nlink, at(root, b"a").nlink, at(root, b"a/b").nlink) == (3, 3, 2)


def test_whiteout_removes_lower_names_only():
    lower = layer(dir_(b"d"), file(b"d/x"), file(b"d/y"), file(b"z"))
    upper = layer(file(b"d/x", 7), whiteouts=[b"d/x", b"z", b"none/at/all"])
    root = stack([lower, upper])
    assert paths(root) == [b"d", b"d/x", b"d/y"]
    assert at(root, b"d/x").entry.size == 7


def test_whiteout_of_a_directory_takes_its_children():
    root = stack([layer(file(b"d/e/f")), layer(whiteouts=[b"d"])])
    assert paths(root) == []


def test_opaque_hides_lower_children_and_keeps_its_own_layers():
    lower = layer(dir_(b"d", 0o700), file(b"d/old"), file(b"d/sub/old"))
    root = stack([lower, layer(file(b"d/new"), opaques=[b"d"])])
    assert paths(root) == [b"d", b"d/new"]
    assert at(root, b"d").entry.mode == 0o700


def test_opaque_root():
    assert paths(stack([layer(file(b"a")), layer(file(b"b"), opaques=[b""])])) == [b"b"]


def test_directory_over_directory_keeps_children_and_takes_attributes():
    root = stack([layer(dir_(b"d"), file(b"d/x")), layer(dir_(b"d", 0o711))])
    assert paths(root) == [b"d", b"d/x"]
    assert at(root, b"d").entry.mode == 0o711


@pytest.mark.parametrize("replacement", [file(b"d"), symlink(b"d", b"/etc")])
def test_directory_replaced_by_something_else_loses_its_children(replacement: Entry):
    root = stack([layer(file(b"d/x")), layer(replacement)])
    assert paths(root) == [b"d"]
    assert at(root, b"d").entry == replacement


@pytest.mark.parametrize("lower", [file(b"d"), symlink(b"d", b"other")])
def test_directory_replaces_something_else(lower: Entry):
    root = stack([layer(lower, file(b"other/keep")), layer(dir_(b"d"), file(b"d/x"))])
    assert paths(root) == [b"d", b"d/x", b"other", b"other/keep"]


def test_a_symlinked_parent_is_replaced_never_followed():
    root = stack([layer(file(b"real/x"), symlink(b"d", b"real")), layer(file(b"d/y"))])
    assert paths(root) == [b"d", b"d/y", b"real", b"real/x"]
    assert at(root, b"d").entry.kind is Kind.DIR


def test_whiteout_and_opaque_do_not_follow_symlinks():
    lower = layer(file(b"real/x"), symlink(b"d", b"real"))
    assert paths(stack([lower, layer(whiteouts=[b"d/x"], opaques=[b"d"])])) == [
        b"d",
        b"real",
        b"real/x",
    ]


def test_hard_link_in_one_layer_shares_the_node():
    root = stack([layer(file(b"z"), link(b"a", b"z"), link(b"b", b"a"))])
    assert at(root, b"a") is at(root, b"b") is at(root, b"z")
    assert at(root, b"a").nlink == 3


def test_hard_link_to_a_lower_layer_shares_the_node():
    root = stack([layer(file(b"z", 9)), layer(link(b"new/a", b"z"))])
    assert at(root, b"new/a") is at(root, b"z")
    assert at(root, b"z").nlink == 2


def test_hard_link_to_a_lower_file_that_its_layer_removes():
    root = stack([layer(file(b"z", 9)), layer(link(b"a", b"z"), whiteouts=[b"z"])])
    assert paths(root) == [b"a"]
    assert (at(root, b"a").entry.size, at(root, b"a").nlink) == (9, 1)


def test_removing_one_name_leaves_the_other():
    lower = layer(file(b"z"), link(b"a", b"z"))
    root = stack([lower, layer(whiteouts=[b"z"])])
    assert at(root, b"a").nlink == 1


def test_replacing_one_name_of_an_inode_leaves_the_other_alone():
    root = stack([layer(file(b"z", 1), link(b"a", b"z")), layer(file(b"z", 2))])
    assert (at(root, b"a").entry.size, at(root, b"z").entry.size) == (1, 2)


def test_hard_link_to_a_symlink_and_a_device():
    device = Entry(path=b"dev", kind=Kind.CHAR, mode=0o666, dev_major=1, dev_minor=3)
    root = stack([layer(symlink(b"s", b"x"), device, link(b"a", b"s"), link(b"b", b"dev"))])
    assert at(root, b"a") is at(root, b"s")
    assert at(root, b"b") is at(root, b"dev")


@pytest.mark.parametrize(
    "entries",
    [
        [link(b"a", b"gone")],
        [link(b"a", b"a")],
        [link(b"a", b"b"), link(b"b", b"a")],
        [dir_(b"d"), link(b"a", b"d")],
        [symlink(b"s", b"d"), file(b"d/x"), link(b"a", b"s/x")],
        [link(b"a", b"")],
    ],
)
def test_hard_links_that_lead_nowhere_are_refused(entries: list[Entry]):
    with pytest.raises(FormatError, match="hard link"):
        stack([layer(*entries)])


def test_a_long_chain_and_a_deep_tree_need_no_recursion():
    links = [link(b"l%05d" % (i + 1), b"l%05d" % i) for i in range(10_000)]
    deep = b"/".join([b"d"] * 3000)
    root = stack([layer(file(b"l00000"), file(deep), *links)])
    assert at(root, b"l10000").nlink == 10_001
    assert sum(1 for _ in walk(root)) == 1 + 10_001 + 3000


@pytest.mark.parametrize(
    ("path", "real"),
    [
        (b"/etc/passwd", b"etc/passwd"),
        (b"etc/./passwd", b"etc/passwd"),
        (b"../../etc//passwd", b"etc/passwd"),
        (b"abs/passwd", b"etc/passwd"),
        (b"usr/rel/passwd", b"etc/passwd"),
        (b"up/etc/passwd", b"etc/passwd"),
        (b"abs", b"etc"),
        (b"abs/", b"etc"),
        (b"abs/..", b""),
        (b"", b""),
        (b"missing/x/../y", b"missing/y"),
        (b"abs/none", b"etc/none"),
        (b"dangling/x", b"gone/x"),
        (b"etc/passwd/x", b"etc/passwd/x"),
    ],
)
def test_resolve_follows_symlinks_like_chroot(path: bytes, real: bytes):
    root = stack(
        [
            layer(
                file(b"etc/passwd"),
                symlink(b"abs", b"/etc"),
                symlink(b"usr/rel", b"../etc"),
                symlink(b"up", b"../../.."),
                symlink(b"dangling", b"gone"),
            )
        ]
    )
    found, node = resolve(root, path)
    assert found == real
    assert node is lookup(root, real)


def test_resolve_can_stop_at_the_last_symlink():
    root = stack([layer(dir_(b"etc"), symlink(b"abs", b"/etc"))])
    assert resolve(root, b"abs", follow_last=False)[0] == b"abs"
    assert resolve(root, b"abs/", follow_last=False)[0] == b"etc"


def test_resolve_gives_up_on_loops():
    root = stack([layer(symlink(b"a", b"b"), symlink(b"b", b"a"))])
    with pytest.raises(UnsafeContentError, match="too many levels of symbolic links"):
        resolve(root, b"a")


def test_sixty_thousand_inodes_stack_quickly():
    entries = [
        file(b"d%02d/s%02d/f%03d" % (i // 1000, i // 50 % 20, i % 50)) for i in range(60_000)
    ]
    start = time.process_time()
    root = stack([layer(*entries)])
    assert time.process_time() - start < 1.5  # 0.1 s when nothing else runs
    assert sum(1 for _ in walk(root)) == 1 + 60 + 60 * 20 + 60_000
