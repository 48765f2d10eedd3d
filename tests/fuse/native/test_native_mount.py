"""What only the native binding does, on real mounts driven from outside the driver."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from artifactfs.fuse.native.binding import READAHEAD_KB
from tests.fuse.memory_tree import BACKED, MANY
from tests.fuse.mounted import Mount, wait_until

pytestmark = pytest.mark.fuse

BACKED_NAME = "fixed/backed.bin"


def count(mount: Mount, operation: str) -> int:
    counted: int = mount.command("counts").get(operation, 0)
    return counted


def needs_passthrough(mount: Mount) -> None:
    facts = mount.command("facts")
    if not facts["passthrough"]:
        pytest.skip(f"no passthrough here: {facts['passthrough_reason']}")


# Passthrough


def test_a_complete_file_is_read_by_the_kernel_itself(mount: Mount) -> None:
    needs_passthrough(mount)
    before = count(mount, "try_read")
    with open(mount / BACKED_NAME, "rb") as file:
        assert mount.command("facts")["passthrough_open"] == 1
        assert file.read() == BACKED
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == BACKED
    assert count(mount, "try_read") == before
    assert count(mount, "read") == 0
    wait_until(lambda: mount.command("facts")["passthrough_open"] == 0)


def test_a_file_held_open_uncached_is_not_mixed_with_passthrough(mount: Mount) -> None:
    needs_passthrough(mount)
    mount.fail("backing_fd", "EIO")
    with open(mount / BACKED_NAME, "rb", buffering=0) as uncached:
        mount.let_go()
        mount.troubles_expected = True
        for _ in range(3):
            with open(mount / BACKED_NAME, "rb") as later:
                assert mount.command("facts")["passthrough_open"] == 0
                assert later.read() == BACKED
        assert os.pread(uncached.fileno(), 100, 5000) == BACKED[5000:5100]
    wait_until(lambda: mount.command("facts")["open_files"] == 0)
    with open(mount / BACKED_NAME, "rb") as passed:
        assert mount.command("facts")["passthrough_open"] == 1
        assert passed.read() == BACKED


def test_a_passed_through_file_stays_so_while_its_cache_forgets_it(mount: Mount) -> None:
    needs_passthrough(mount)
    with open(mount / BACKED_NAME, "rb", buffering=0) as first:
        mount.fail("backing_fd", "EIO")
        with open(mount / BACKED_NAME, "rb") as second:
            assert second.read() == BACKED
        assert os.pread(first.fileno(), 100, 5000) == BACKED[5000:5100]
    mount.let_go()


def test_writing_to_a_passed_through_file_is_refused(mount: Mount) -> None:
    with open(mount / BACKED_NAME, "rb"), pytest.raises(OSError) as raised:
        os.open(mount / BACKED_NAME, os.O_RDWR)
    assert raised.value.errno in (errno.EROFS, errno.EACCES)


# Listings


def test_a_long_listing_asks_for_no_name_one_by_one(mount: Mount) -> None:
    names = os.listdir(mount / "many")
    assert len(names) == MANY
    before = {name: count(mount, name) for name in ("find", "attributes")}
    with os.scandir(mount / "many") as entries:
        assert sum(entry.stat().st_size > 0 for entry in entries) == MANY
    after = {name: count(mount, name) for name in ("find", "attributes")}
    assert after["find"] - before["find"] <= 2
    assert after["attributes"] - before["attributes"] < MANY + 50  # with the listing, not again


def test_an_unchanged_listing_is_not_asked_for_again(mount: Mount) -> None:
    def listed() -> list[str]:
        with os.scandir(mount / "many") as entries:
            return sorted(entry.name for entry in entries if entry.stat().st_size > 0)

    names = listed()
    before = count(mount, "entries")
    for _ in range(5):
        assert listed() == names
    assert count(mount, "entries") == before
    mount.publish("many/another", b"x")
    assert listed() == sorted([*names, "another"])
    assert count(mount, "entries") == before + 1


def test_a_listing_without_attributes_is_not_kept_for_those_who_want_them(mount: Mount) -> None:
    names = os.listdir(mount / "many")
    before = count(mount, "entries")
    assert os.listdir(mount / "many") == names
    assert count(mount, "entries") == before + 1


def test_a_listing_that_changes_under_its_readers_is_never_a_mixture(mount: Mount) -> None:
    """Readers of two versions of a directory do not fill one cache of the kernel's."""
    names = set(os.listdir(mount / "many"))
    for number in range(20):
        with os.scandir(mount / "many") as old:
            started = [next(old).name for _ in range(300)]
            mount.publish(f"many/0-{number}", b"x")
            names.add(f"0-{number}")
            now = os.listdir(mount / "many")
            rest = [entry.name for entry in old]
        assert len(started + rest) == len(set(started + rest))
        assert sorted(now) == sorted(names)
        assert sorted(os.listdir(mount / "many")) == sorted(names)


def test_one_broken_node_does_not_hide_the_others(mount: Mount) -> None:
    mount.fail("attributes", "KeyError", name="hello.txt")
    names = os.listdir(mount / "fixed")
    assert "hello.txt" in names
    assert "big.bin" in names
    with pytest.raises(OSError):
        os.stat(mount / "fixed/hello.txt")
    mount.let_go()
    assert os.stat(mount / "fixed/hello.txt").st_size == 6


# What the kernel remembers


def test_what_the_kernel_forgets_is_dropped(mount: Mount) -> None:
    subprocess.run(["ls", "-lR", mount.path], check=True, stdout=subprocess.DEVNULL)
    assert mount.command("facts")["inodes"] > MANY
    if os.getuid() != 0:
        pytest.skip("only root makes the kernel forget")

    def forgotten() -> bool:
        Path("/proc/sys/vm/drop_caches").write_text("2")
        return bool(mount.command("facts")["inodes"] == 0)

    wait_until(forgotten)
    assert (mount / "fixed/hello.txt").read_bytes() == b"hello\n"


def test_what_is_held_is_not_dropped(mount: Mount) -> None:
    if os.getuid() != 0:
        pytest.skip("only root makes the kernel forget")
    with open(mount / "fixed/hello.txt", "rb") as held:
        os.listdir(mount / "many")

        def forgotten() -> bool:
            Path("/proc/sys/vm/drop_caches").write_text("3")
            return bool(mount.command("facts")["inodes"] <= 2)

        wait_until(forgotten)
        assert held.read() == b"hello\n"
        assert os.fstat(held.fileno()).st_size == 6


def test_a_name_is_looked_up_once(mount: Mount) -> None:
    os.stat(mount / "fixed/hello.txt")
    before = count(mount, "find")
    for _ in range(20):
        os.stat(mount / "fixed/hello.txt")
        assert (mount / "fixed/hello.txt").read_bytes() == b"hello\n"
    assert count(mount, "find") == before


def test_one_file_of_two_names_is_one_inode_with_one_set_of_pages(mount: Mount) -> None:
    one, other = mount / "fixed/hello.txt", mount / "fixed/alias.txt"
    assert os.stat(one).st_ino == os.stat(other).st_ino
    assert one.read_bytes() == b"hello\n"
    before = count(mount, "try_read")
    assert other.read_bytes() == b"hello\n"
    assert count(mount, "try_read") == before


# Single requests


def test_stat_with_the_time_of_birth_is_answered(mount: Mount) -> None:
    shown = subprocess.run(
        ["stat", "-c", "%s %W %a %h", mount / "fixed/hello.txt"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert shown == ["6", "0", "444", "2"]


def test_data_and_holes_of_a_file_without_holes(mount: Mount) -> None:
    fd = os.open(mount / "fixed/hello.txt", os.O_RDONLY)
    try:
        assert os.lseek(fd, 2, os.SEEK_DATA) == 2
        assert os.lseek(fd, 2, os.SEEK_HOLE) == 6
        with pytest.raises(OSError) as raised:
            os.lseek(fd, 6, os.SEEK_DATA)
        assert raised.value.errno == errno.ENXIO
    finally:
        os.close(fd)


def test_attributes_of_other_kinds_are_not_asked_for_file_by_file(mount: Mount) -> None:
    with pytest.raises(OSError) as raised:
        os.getxattr(mount / "fixed/hello.txt", "security.capability")
    assert raised.value.errno == errno.EOPNOTSUPP


def test_closing_what_was_only_read_asks_nothing(mount: Mount) -> None:
    (mount / "fixed/hello.txt").read_bytes()
    assert count(mount, "flush") == 0


def test_a_file_in_drop_can_be_mapped_and_written(mount: Mount) -> None:
    """Though it is read and written directly; array libraries and databases do that."""
    path = mount / "drop/array"
    path.write_bytes(bytes(10_000))
    with path.open("r+b") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 10_000)
        except OSError as error:
            pytest.skip(f"this kernel cannot: {error}")
        with mapped:
            mapped[5_000:5_005] = b"hello"
            mapped.flush()
            assert os.pread(file.fileno(), 5, 5_000) == b"hello"
    assert path.read_bytes() == bytes(5_000) + b"hello" + bytes(4_995)


# Facts and the end


def test_the_facts_say_how_it_is_mounted(mount: Mount) -> None:
    facts = mount.command("facts")
    assert facts["protocol"].startswith("7.")
    assert facts["max_write_bytes"] == 1 << 20
    assert facts["connection"] == os.minor(os.stat(mount.path).st_dev)
    assert facts["passthrough"] is True or facts["passthrough_reason"]
    if os.getuid() == 0:
        assert facts["mounted_by"] == "mount(2)"
        assert facts["readahead_kb"] == READAHEAD_KB


def test_an_abort_from_outside_ends_the_driver_and_the_mount(mount: Mount) -> None:
    control = Path("/sys/fs/fuse/connections")
    switch = control / str(mount.command("facts")["connection"]) / "abort"
    if not switch.exists():
        subprocess.run(["mount", "-t", "fusectl", "none", control], check=False)
    switch.write_text("1")
    assert mount.wait_ended() is None
    assert mount.process.returncode == 0


def test_stopping_ends_all_its_threads(mount: Mount) -> None:
    os.listdir(mount / "many")
    (mount / "drop/a").write_bytes(b"x")
    assert any(name.startswith("fuse-") for name in mount.command("threads"))
    mount.process.send_signal(signal.SIGTERM)
    assert mount.wait_ended() is None
    assert "left behind" not in mount.log


def test_a_killed_reader_is_gone_at_once(mount: Mount) -> None:
    mount.hold("arrive", name="fetched.bin")
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; open(sys.argv[1], 'rb').read()",
            mount / "fixed/fetched.bin",
        ]
    ) as reader:
        mount.wait_held("arrive")
        reader.send_signal(signal.SIGINT)
        assert reader.wait(5) != 0
    assert mount.command("facts")["waiting"] >= 0
    mount.let_go()
    wait_until(lambda: mount.command("facts")["waiting"] == 0)


def test_a_disk_that_hangs_holds_up_only_its_own_readers(mount: Mount) -> None:
    """What is nearly always brief is done by the reading thread, which must not be stuck then."""
    mount.hold("try_read", name="big.bin")
    with subprocess.Popen(["cat", mount / "fixed/big.bin"], stdout=subprocess.DEVNULL) as stuck:
        mount.wait_held("try_read")
        for number in range(20):
            assert (mount / "fixed/hello.txt").read_bytes() == b"hello\n"
            (mount / f"drop/{number}").write_bytes(b"x")
            os.listdir(mount / "drop")
            assert os.stat(mount / "fixed/empty").st_size == 0
        assert stuck.poll() is None
        mount.let_go()
        assert stuck.wait(10) == 0


def test_a_killed_writer_can_be_recognised_while_its_file_is_flushed(mount: Mount) -> None:
    """It is not let go before the tree has looked at it, however dead it is already."""
    script = "import os, sys; os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY); print(flush=True); "
    with subprocess.Popen(
        [sys.executable, "-c", script + "import time; time.sleep(60)", mount / "drop/a"],
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        mount.hold("flush", name="a")
        writer.kill()
        mount.wait_held("flush")
        pid = mount.command("detail", operation="flush")
        assert pid == writer.pid
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        assert int(after_name[6]) & 0x404 == 0x404  # PF_EXITING and PF_SIGNALED, proc_pid_stat(5)
        assert writer.wait(10) == -signal.SIGKILL  # though the flush goes on
        assert mount.command("held", operation="flush") == 1
        mount.let_go()


def test_reading_through_the_driver_reads_a_megabyte_at_a_time(mount: Mount) -> None:
    if mount.command("facts").get("readahead_kb") != READAHEAD_KB:
        pytest.skip("the read-ahead cannot be raised here")
    before = count(mount, "try_read")
    size = len((mount / "fixed/big.bin").read_bytes())
    assert count(mount, "try_read") - before <= size // (128 * 1024)
