"""``man_page``: the man page, made from what the commands say of themselves.

One page for all of it, in the man(7) macros. The commands come from the command line itself, the
settings from `config`, so that neither can say something else than ``--help``; what stands around
them is written here. Someone else's text is made harmless for roff: a backslash is written as
``\\e``, a hyphen as ``\\-`` (so that an option can be copied), and a line that begins with a dot or
an apostrophe is no request.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from artifactfs import __version__
from artifactfs.config import SETTINGS, Config

_DESCRIPTION = (
    "Mounts the artifacts of a compute service as a directory: they are listed, read in ranges, "
    "mapped and copied in place with any program, and files that are copied into drop/ are "
    "uploaded. What was read once is cached on disk. A file is safe once close(2) in drop/ has "
    "returned; artifactfs flush waits until it is on the service."
)
_TREE = (
    ("artifacts/", "every listed artifact under its file name, read-only"),
    ("by-id/, by-sha256/", "the same files under their id, and the SHA-256 of their content"),
    ("drop/", "the outbox: what is closed here is uploaded"),
    ("jobs/", "what each job produced and is doing now"),
    ("projects/", "each project's events and jobs"),
    (".artifactfs/", "status.json, uploads.json, cache.json, metrics.prom, version"),
)
_MOUNT_OPTIONS = (
    ("KEY=VALUE", "any setting, see SETTINGS; a KEY alone switches it on"),
    ("ro, rw", "without drop/, nothing can be written (mount.read_only); or with it"),
    ("noexec, exec", "whether files can be executed or mapped executable (mount.noexec)"),
    ("nosuid, nodev", "always in effect; suid and dev are errors"),
    ("user, users", "as in mount(8): imply noexec"),
    (
        "defaults, auto, nofail, _netdev, x-*, comment=, sync, noatime and the like",
        "for mount(8), systemd and others; no effect here",
    ),
)
_STATUS = (
    ("0", "done"),
    ("1", "failed; one line on standard error says why, and what to do"),
    ("2", "wrong words or settings"),
    ("3", "not everything is uploaded"),
    ("130", "interrupted"),
)
_FILES = (
    ("/etc/artifactfs/config.toml", "settings of the machine"),
    ("~/.config/artifactfs/config.toml", "settings of the user"),
    ("~/.cache/artifactfs", "cached bytes (cache.dir)"),
    ("~/.local/state/artifactfs", "spool/, log/ and uploads.log (state.dir)"),
)
_ENVIRONMENT = (
    ("ARTIFACTFS_SECTION_KEY", "any setting, such as ARTIFACTFS_CACHE_SIZE for cache.size"),
    ("ARTIFACTFS_TOKEN, COMPUTALOT_TOKEN", "the token itself"),
    ("CREDENTIALS_DIRECTORY", "where systemd puts the credential artifactfs-token"),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "how a mount in the foreground speaks with systemd"),
    ("NO_COLOR", "no colours"),
)


@click.command()
def manual() -> None:
    """Print the man page.

    \b
    Examples:
      artifactfs manual | man -l -
    """
    root = click.get_current_context().find_root().command
    assert isinstance(root, click.Group)
    click.echo("\n".join(_page(root)))


def _page(root: click.Group) -> Iterator[str]:
    yield f'.TH ARTIFACTFS 1 "" "artifactfs {__version__}" "User Commands"'
    yield ".SH NAME"
    yield r"artifactfs \- mount the artifacts of a compute service as a directory"
    yield ".SH SYNOPSIS"
    for words in ("mount [MOUNTPOINT]", "unmount MOUNTPOINT", "COMMAND [OPTIONS] [ARGUMENTS]"):
        yield ".B artifactfs"
        yield _plain(words)
        yield ".br"
    yield ".SH DESCRIPTION"
    yield _plain(_DESCRIPTION)
    yield from _table("What a mount shows:", _TREE)
    yield ".SH COMMANDS"
    for path, command in _commands(root, ""):
        yield from _command(path, command)
    yield ".SH MOUNT OPTIONS"
    yield _plain(
        "What follows -o of artifactfs mount, of mount -t fuse.artifactfs, and in fstab; the last "
        "of several that contradict each other counts. Any other option is an error, unless "
        "mount(8) is told to ignore it (-s)."
    )
    for name, explained in _MOUNT_OPTIONS:
        yield from _item(name, explained)
    yield ".SH SETTINGS"
    yield _plain(
        "Lowest first: defaults, /etc/artifactfs/config.toml, ~/.config/artifactfs/config.toml, "
        "the environment, flags (-o KEY=VALUE). artifactfs config shows all of them, and where "
        "each value comes from."
    )
    defaults = Config()
    for setting in SETTINGS:
        default = setting.written(setting.get(defaults))
        yield from _item(setting.key, setting.explained + (default and f" (default {default})"))
    for heading, rows in (
        ("EXIT STATUS", _STATUS),
        ("ENVIRONMENT", _ENVIRONMENT),
        ("FILES", _FILES),
    ):
        yield f".SH {heading}"
        for name, explained in rows:
            yield from _item(name, explained)
    yield ".SH SEE ALSO"
    yield r".BR mount (8), fusermount3 (1), systemd\-escape (1)"


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path}{name} ")


def _command(path: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=path)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f".SS {_plain(path)} {_plain(usage)}"
    text, _, examples = inspect.cleandoc(command.help or "").partition("\b\nExamples:\n")
    for paragraph in text.strip().split("\n\n"):
        yield ".PP"
        yield _plain(" ".join(paragraph.split()))
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.help:
            record = parameter.get_help_record(context)
            assert record is not None
            yield from _item(*record)
    if examples:
        yield ".PP"
        yield ".nf"
        yield from (_plain(line) for line in inspect.cleandoc(examples).splitlines())
        yield ".fi"


def _table(heading: str, rows: tuple[tuple[str, str], ...]) -> Iterator[str]:
    yield ".PP"
    yield heading
    for name, explained in rows:
        yield from _item(name, explained)


def _item(name: str, explained: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_plain(name)}"
    yield _plain(explained)


def _plain(text: str) -> str:
    """`text` as roff shows it."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("…", "...")
    return "\n".join(rf"\&{line}" if line[:1] in (".", "'") else line for line in text.split("\n"))
