"""What a reader sees: bytes, names, attributes, and which of them are asked for again."""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fuse.memory_nodes import BORN_NS, GRAIN_BYTES
from tests.fuse.memory_tree import (
    BACKED,
    BIG,
    FETCHED,
    MANY,
    ODD_NAMES,
)
from tests.fuse.mounted import Mount, wait_until

pytestmark = pytest.mark.fuse

CONTENTS = {"big.bin": BIG, "fetched.bin": FETCHED, "backed.bin": BACKED, "slow.txt": b"slow\n"}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_has_its_bytes(mount: Mount, name: str) -> None:
    assert (mount / "fixed" / name).read_bytes() == CONTENTS[name]
    assert (mount / "fixed" / name).read_bytes() == CONTENTS[name]


def test_an_empty_file_is_empty(mount: Mount) -> None:
    assert (mount / "fixed/empty").read_bytes() == b""


@pytest.mark.parametrize("name", ["big.bin", "fetched.bin", "backed.bin"])
def test_random_spans_are_right_also_at_the_end(mount: Mount, name: str) -> None:
    content, chance = CONTENTS[name], random.Random(7)
    fd = os.open(mount / "fixed" / name, os.O_RDONLY)
    try:
        for _ in range(200):
            start = chance.randrange(len(content) + 5000)
            length = chance.choice((1, 511, 4096, 70_000, 300_000))
            assert os.pread(fd, length, start) == content[start : start + length]
        assert os.pread(fd, 10, len(content) + 10**12) == b""
        assert os.lseek(fd, -3, os.SEEK_END) == len(content) - 3
        assert os.read(fd, 10) == content[-3:]
    finally:
        os.close(fd)


def test_a_file_can_be_mapped(mount: Mount) -> None:
    with open(mount / "fixed/fetched.bin", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with mapped:
        assert mapped[500_000:500_100] == FETCHED[500_000:500_100]
        assert bytes(mapped) == FETCHED


def test_copying_programs_copy(mount: Mount, tmp_path: Path) -> None:
    shutil.copy2(mount / "fixed/fetched.bin", tmp_path / "one")
    subprocess.run(["cp", "-a", mount / "fixed/fetched.bin", tmp_path / "two"], check=True)
    for copy in ("one", "two"):
        assert (tmp_path / copy).read_bytes() == FETCHED
        assert (tmp_path / copy).stat().st_mtime_ns == BORN_NS


def test_sixteen_readers_at_once_all_get_their_bytes(mount: Mount) -> None:
    def read(seed: int) -> int:
        chance, total = random.Random(seed), 0
        name = chance.choice(list(CONTENTS))
        content = CONTENTS[name]
        fd = os.open(mount / "fixed" / name, os.O_RDONLY)
        try:
            for _ in range(40):
                start = chance.randrange(len(content))
                data = os.pread(fd, 100_000, start)
                assert data == content[start : start + 100_000]
                total += len(data)
        finally:
            os.close(fd)
        return total

    with ThreadPoolExecutor(16) as readers:
        assert sum(readers.map(read, range(48))) > 0


def test_content_that_never_changes_is_read_once(mount: Mount) -> None:
    path = mount / "fixed/fetched.bin"
    path.read_bytes()
    path.read_bytes()

    def asked() -> int:
        counts = mount.command("counts")
        return sum(counts.get(name, 0) for name in ("try_read", "read", "request"))

    before = asked()
    assert path.read_bytes() == FETCHED
    assert asked() == before


def test_a_random_read_asks_for_little_more_than_it_needs(mount: Mount) -> None:
    fd = os.open(mount / "fixed/fetched.bin", os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(fd, 100, 10 * GRAIN_BYTES) == FETCHED[10 * GRAIN_BYTES :][:100]
    finally:
        os.close(fd)
    assert mount.command("counts")["request"] == 1


# Names and listings


def test_a_listing_has_names_types_and_inode_numbers(mount: Mount) -> None:
    with os.scandir(mount / "fixed") as entries:
        for entry in entries:
            shown = os.lstat(entry.path)
            assert entry.inode() == shown.st_ino
            assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(shown.st_mode)
            assert entry.is_symlink() == stat.S_ISLNK(shown.st_mode)
            assert entry.is_file(follow_symlinks=False) == stat.S_ISREG(shown.st_mode)


def test_dot_and_dot_dot_are_where_they_belong(mount: Mount) -> None:
    listed = subprocess.run(
        ["ls", "-1ai", mount / "fixed/sub"], check=True, capture_output=True, text=True
    ).stdout
    inos = {name: int(ino) for ino, name in (line.split() for line in listed.splitlines())}
    assert inos["."] == os.stat(mount / "fixed/sub").st_ino
    assert inos[".."] == os.stat(mount / "fixed").st_ino
    assert set(inos) == {".", "..", "inner.txt"}


def test_a_thousand_names_come_all_and_once(mount: Mount) -> None:
    names = os.listdir(mount / "many")
    assert sorted(names) == [f"file-{number:05d}" for number in range(MANY)]


def test_a_directory_can_be_read_again_from_the_start(mount: Mount) -> None:
    fd = os.open(mount / "drop", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert os.listdir(fd) == []
        (mount / "drop/new").write_bytes(b"")
        assert os.listdir(fd) == ["new"]
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_is_listed_and_opened(mount: Mount, name: str) -> None:
    assert name in os.listdir(mount / "fixed/odd")
    assert (mount / "fixed/odd" / name).read_bytes() == os.fsencode(name)


def test_any_name_can_be_given_renamed_and_removed(mount: Mount) -> None:
    for name in ODD_NAMES:
        path = mount / "drop" / name
        path.write_bytes(b"x")
        assert os.listdir(mount / "drop") == [name]
        os.rename(path, mount / "drop/plain")
        os.rename(mount / "drop/plain", path)
        os.utime(path, ns=(1, 2))
        os.unlink(path)


def test_a_name_longer_than_255_bytes_is_refused(mount: Mount) -> None:
    with pytest.raises(OSError) as refused:
        (mount / "drop" / ("x" * 256)).write_bytes(b"")
    assert refused.value.errno == errno.ENAMETOOLONG


def test_a_link_points_where_it_says(mount: Mount) -> None:
    assert os.readlink(mount / "fixed/link") == "hello.txt"
    assert (mount / "fixed/link").read_bytes() == b"hello\n"
    assert os.lstat(mount / "fixed/link").st_size == len("hello.txt")
    with pytest.raises(OSError) as refused:
        os.readlink(mount / "fixed/hello.txt")
    assert refused.value.errno == errno.EINVAL


def test_what_is_not_there_is_not_there(mount: Mount) -> None:
    for path in ("absent", "fixed/absent", "fixed/sub/absent", "jobs/absent"):
        with pytest.raises(FileNotFoundError):
            os.stat(mount / path)
    with pytest.raises(NotADirectoryError):
        os.stat(mount / "fixed/hello.txt/below")
    assert "ERROR" not in mount.log


# Attributes


def test_attributes_are_the_nodes(mount: Mount) -> None:
    shown = os.stat(mount / "fixed/hello.txt")
    assert stat.S_IMODE(shown.st_mode) == 0o444
    assert (shown.st_uid, shown.st_gid) == (os.getuid(), os.getgid())
    assert (shown.st_size, shown.st_nlink, shown.st_blocks) == (6, 2, 1)
    assert (shown.st_mtime_ns, shown.st_ctime_ns) == (BORN_NS, BORN_NS)
    assert os.stat(mount / "fixed/alias.txt").st_ino == shown.st_ino
    assert os.stat(mount.path).st_ino == 1


def test_an_open_file_has_the_same_attributes(mount: Mount) -> None:
    fd = os.open(mount / "fixed/hello.txt", os.O_RDONLY)
    try:
        assert os.fstat(fd).st_ino == os.stat(mount / "fixed/hello.txt").st_ino
        assert os.fstat(fd).st_size == 6
    finally:
        os.close(fd)


def test_df_shows_the_trees_space(mount: Mount) -> None:
    space = os.statvfs(mount.path)
    assert space.f_frsize * space.f_blocks == 10 << 30
    assert space.f_frsize * space.f_bavail == 4 << 30
    assert space.f_namemax == 255


def test_extended_attributes_are_listed_and_read(mount: Mount) -> None:
    path = mount / "fixed/hello.txt"
    assert os.listxattr(path) == ["user.artifactfs.id"]
    assert os.getxattr(path, "user.artifactfs.id").startswith(b"id-")
    for missing in ("user.absent", "security.capability", "system.posix_acl_access"):
        with pytest.raises(OSError) as refused:
            os.getxattr(path, missing)
        assert refused.value.errno in (errno.ENODATA, errno.EOPNOTSUPP)


def test_a_command_is_an_attribute_that_can_be_set(mount: Mount) -> None:
    for path in (mount / "fixed/hello.txt", mount / "fixed", mount.path, mount / "drop"):
        os.setxattr(path, "user.artifactfs.pin", b"1")
        assert os.getxattr(path, "user.artifactfs.pin") == b"1"
        with pytest.raises(FileExistsError):
            os.setxattr(path, "user.artifactfs.pin", b"1", os.XATTR_CREATE)
    os.setxattr(path, "user.artifactfs.pin", b"")
    assert os.getxattr(path, "user.artifactfs.pin") == b""


def test_other_attributes_can_neither_be_set_nor_removed(mount: Mount) -> None:
    path = mount / "fixed/hello.txt"
    with pytest.raises(OSError) as refused:
        os.setxattr(path, "user.mine", b"1")
    assert refused.value.errno == errno.EOPNOTSUPP
    with pytest.raises(OSError) as refused:
        os.setxattr(path, "user.artifactfs.pin", b"1", os.XATTR_REPLACE)
    assert refused.value.errno == errno.ENODATA
    with pytest.raises(OSError) as refused:
        os.removexattr(path, "user.absent")
    assert refused.value.errno in (errno.ENODATA, errno.EOPNOTSUPP)
    with pytest.raises(OSError) as refused:
        os.removexattr(path, "user.artifactfs.id")
    assert refused.value.errno == errno.EOPNOTSUPP


# What comes, goes and grows by itself


def test_a_new_name_is_there_at_once(mount: Mount) -> None:
    os.listdir(mount / "fixed")
    with pytest.raises(FileNotFoundError):
        os.stat(mount / "fixed/new")
    ino = mount.publish("fixed/new", b"fresh")
    assert wait_until(lambda: os.path.exists(mount / "fixed/new"))
    assert (mount / "fixed/new").read_bytes() == b"fresh"
    assert os.stat(mount / "fixed/new").st_ino == ino
    assert "new" in os.listdir(mount / "fixed")


def test_a_name_that_went_is_gone(mount: Mount) -> None:
    mount.publish("fixed/short", b"lived")
    assert (mount / "fixed/short").read_bytes() == b"lived"
    mount.command("withdraw", path="fixed/short")
    wait_until(lambda: not os.path.exists(mount / "fixed/short"))
    assert "short" not in os.listdir(mount / "fixed")


def test_a_name_with_another_meaning_never_shows_old_bytes(mount: Mount) -> None:
    path = mount / "fixed/name"
    for number, size in enumerate((70_000, 70_000, 10, 200_000)):
        content = bytes([65 + number]) * size
        ino = mount.publish("fixed/name", content)
        wait_until(lambda ino=ino: os.stat(path).st_ino == ino)
        assert path.read_bytes() == content
        assert path.read_bytes() == content


def test_an_open_file_keeps_its_bytes_when_its_name_gets_another_meaning(mount: Mount) -> None:
    path, old, new = mount / "fixed/name", b"old!" * 100_000, b"new"
    mount.publish("fixed/name", old)
    fd = wait_until(lambda: os.path.exists(path) and os.open(path, os.O_RDONLY))
    try:
        assert os.pread(fd, 10, 0) == old[:10]
        mount.publish("fixed/name", new)
        listed = subprocess.run(["ls", "-l", mount / "fixed"], capture_output=True, check=True)
        assert b" name" in listed.stdout
        with open(path, "rb") as other:
            data = other.read()
            assert data in (old, new)
        assert b"".join(os.pread(fd, 50_000, at) for at in range(0, len(old), 50_000)) == old
        assert os.fstat(fd).st_size == len(old)
    finally:
        os.close(fd)
    wait_until(lambda: path.read_bytes() == new)


def test_an_open_file_keeps_working_when_its_name_goes(mount: Mount) -> None:
    content = b"kept" * 100_000
    mount.publish("fixed/name", content)
    with open(mount / "fixed/name", "rb", buffering=0) as file:
        mount.command("withdraw", path="fixed/name")
        assert b"".join(iter(lambda: file.read(60_000), b"")) == content
    wait_until(lambda: not os.path.exists(mount / "fixed/name"))


def test_a_log_grows_under_its_reader(mount: Mount) -> None:
    path = mount / "live/grow.log"
    with open(path, "rb", buffering=0) as log:
        assert log.read(100) == b""
        for number in range(20):
            line = b"line %d\n" % number
            mount.append("live/grow.log", line)
            assert log.read(100) == line
            assert os.stat(path).st_size == log.tell()
            wait_until(lambda: os.fstat(log.fileno()).st_size == log.tell())


def test_a_log_that_grew_is_copied_whole(mount: Mount, tmp_path: Path) -> None:
    for number in range(1, 4):
        mount.append("live/grow.log", b"x" * 10_000)
        shutil.copyfile(mount / "live/grow.log", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b"x" * 10_000 * number


def test_tail_follows_a_log(mount: Mount) -> None:
    mount.append("live/grow.log", b"one\n")
    command = ["tail", "-n", "+1", "-s", "0.05", "-f", mount / "live/grow.log"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tail:
        assert tail.stdout is not None
        assert tail.stdout.readline() == b"one\n"
        mount.append("live/grow.log", b"two\n")
        assert tail.stdout.readline() == b"two\n"
        tail.terminate()


def test_a_control_file_is_rendered_at_each_open_whatever_its_size_says(mount: Mount) -> None:
    path = mount / "live/status.json"
    for number in range(1, 4):
        assert path.read_bytes() == b"opened %d times\n" % number * number


def test_a_name_that_only_the_service_knows_appears_when_it_is_looked_up(mount: Mount) -> None:
    assert os.listdir(mount / "jobs") == []
    assert (mount / "jobs/job-7/output.log").read_bytes() == b"output of job-7\n"
    assert os.listdir(mount / "jobs") == ["job-7"]


def test_a_listing_is_made_fresh_before_it_is_read(mount: Mount) -> None:
    assert os.listdir(mount / "stale") == ["news.txt"]
    assert (mount / "stale/news.txt").read_bytes() == b"news\n"
