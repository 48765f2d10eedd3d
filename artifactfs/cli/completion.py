"""``completion``, and what a shell offers for a word that is half typed.

click writes the scripts for bash, zsh and fish, and asks each parameter's ``shell_complete`` when
one of them calls back. Those stand here. They are asked at every TAB, so they look at what is near
(the mount table, the names of the settings, a listing through a mount that answers at once), never
at the service, and whatever goes wrong there offers nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import wraps

import click
from click.shell_completion import CompletionItem, get_completion_class

from artifactfs import assembly, config
from artifactfs.cli.mount_client import within
from artifactfs.errors import ArtifactfsError

ASK_S = 1.0
MOST_NAMES = 200

Offer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
Words = Callable[[str], Iterator[str]]


def _offering(words: Words, kind: str = "plain") -> Offer:
    """A ``shell_complete`` of those `words` that begin as typed, else of paths if `kind` says."""

    @wraps(words)
    def offer(
        context: click.Context, parameter: click.Parameter, begun: str
    ) -> list[CompletionItem]:
        _ = context, parameter
        try:
            found = sorted({one for one in words(begun) if one.startswith(begun)})[:MOST_NAMES]
        except (ArtifactfsError, OSError):
            found = []
        items = [CompletionItem(one) for one in found]
        return items if items or kind == "plain" else [CompletionItem(begun, type=kind)]

    return offer


def _mounts(_begun: str) -> Iterator[str]:
    return (str(one.mountpoint) for one in assembly.mounts())


def _settings(begun: str) -> Iterator[str]:
    before, comma, _ = begun.rpartition(",")
    return (f"{before}{comma}{setting.key}=" for setting in config.SETTINGS)


def _names(begun: str) -> Iterator[str]:
    """Names of artifacts in the folder that was begun, as the first mount shows them."""
    mounted = assembly.mounts()
    if not mounted:
        return iter(())
    folder = begun.rpartition("/")[0]
    place = mounted[0].mountpoint / "artifacts" / folder

    def look() -> list[str]:
        with os.scandir(place) as entries:
            names = [one.name + "/" * one.is_dir() for one in entries]
        return [f"{folder}/{name}" if folder else name for name in names]

    return iter(within(ASK_S, look, str(place)))


mountpoints = _offering(_mounts, "dir")
settings = _offering(_settings)
artifact_names = _offering(_names)


def one_of(*words: str) -> Offer:
    """These words."""
    return _offering(lambda _: iter(words))


SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes a shell complete the words of artifactfs.

    scripts/install puts it where the shells look for it.

    \b
    Examples:
      source <(artifactfs completion bash)
      artifactfs completion zsh > ~/.local/share/zsh/site-functions/_artifactfs
      artifactfs completion fish > ~/.config/fish/completions/artifactfs.fish
    """
    root = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root.command, {}, "artifactfs", "_ARTIFACTFS_COMPLETE").source())
