"""Without a mount: ``ls``, ``get``, ``put``."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import click

from artifactfs import assembly
from artifactfs.cli import completion, options
from artifactfs.cli import output as output_module
from artifactfs.cli.errors import (
    FAILED,
    line_about,
    say,
)
from artifactfs.cli.get_target import GetTarget
from artifactfs.cli.output import ProgressLine
from artifactfs.errors import ArtifactfsError
from artifactfs.model import Artifact


def described(name: str, artifact: Artifact) -> dict[str, Any]:
    """An artifact as ``--json`` shows it."""
    return {
        "name": name,
        "id": artifact.id,
        "sha256": artifact.sha256,
        "size": artifact.size_bytes,
        "filename": artifact.filename,
        "content_type": artifact.content_type,
        "created_at": artifact.created_at.isoformat(),
        "expires_at": artifact.expires_at.isoformat(),
        "status": artifact.status,
        "external_url": artifact.external_url,
        "job_id": artifact.job_id,
        "metadata": dict(artifact.metadata),
    }


@click.command()
@click.argument("names", nargs=-1, shell_complete=completion.artifact_names)
@click.option("-l", "long", is_flag=True, help="Size, date, first digits of the hash, and id too.")
@options.json_option()
@options.service_options()
def ls(names: tuple[str, ...], long: bool, as_json: bool, **flags: Any) -> None:
    """List artifacts, without a mount.

    NAMES are names as the mount shows them, ids or hashes; without them, everything.

    \b
    Examples:
      artifactfs ls
      artifactfs ls -l results/a.csv
      artifactfs ls --json | jq -r '.[].name'
    """
    with assembly.Client(options.config_of(**flags)) as client:
        if names:
            found = [(name, client.find(name)) for name in names]
        else:
            found = sorted(client.names().items())
    if as_json:
        output_module.as_json([described(name, artifact) for name, artifact in found])
    elif long:
        output_module.table(
            ("size", "created", "sha256", "id", "name"),
            (
                (
                    output_module.size(artifact.size_bytes),
                    artifact.created_at.strftime("%Y-%m-%d %H:%M"),
                    (artifact.sha256 or "?")[:12],
                    artifact.id,
                    name,
                )
                for name, artifact in found
            ),
            right=(0,),
        )
    else:
        click.echo("".join(f"{output_module.for_output(name)}\n" for name, _ in found), nl=False)


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Have SIGINT, SIGTERM and SIGHUP set an event, for a tidy end; the second one ends it."""
    cancelled = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        _ = number, frame
        if cancelled.is_set():
            raise KeyboardInterrupt
        cancelled.set()

    before = {
        number: signal.signal(number, stop)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN  # nohup(1), a job in the background
    }
    try:
        yield cancelled
    except (ArtifactfsError, OSError):
        if not cancelled.is_set():
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if cancelled.is_set():
        raise click.Abort


@click.command()
@click.argument(
    "what",
    nargs=-1,
    required=True,
    metavar="NAME|ID|SHA256…",
    shell_complete=completion.artifact_names,
)
@click.option("-o", "output", metavar="PATH", help="A file, a directory, or - for standard output.")
@click.option("-f", "--force", is_flag=True, help="Write over a file that exists.")
@options.service_options()
@options.cache_options()
def get(what: tuple[str, ...], output: str | None, force: bool, **flags: Any) -> None:
    """Download artifacts, without a mount.

    A file appears under its name only when it is whole and its hash is right. One that is replaced
    by -f keeps its mode and owner; its other hard links keep the old content. A symbolic link is
    followed; a FIFO or a device is written into.

    \b
    Examples:
      artifactfs get model.safetensors
      artifactfs get -o data/ results/a.csv results/b.csv
      artifactfs get -o - config.json | jq .
    """
    if output is not None and output != "-":
        is_directory = Path(output).is_dir()
        if len(what) > 1 and not is_directory:
            raise click.UsageError("several files need a directory: -o DIR")
        if output.endswith("/") and not is_directory:
            raise click.UsageError(f"-o {output} is not a directory")
    with interruptible() as cancelled, assembly.Client(options.config_of(**flags)) as client:
        for one in what:
            artifact = client.find(one)
            with ProgressLine(Path(one).name) as bar, contextlib.ExitStack() as closing:
                file: BinaryIO = sys.stdout.buffer
                if output != "-":
                    target = _target(one, artifact, output, force=force)
                    file = closing.enter_context(
                        target.open(force=force, is_stopped=cancelled.is_set)
                    )
                client.get(artifact, file, progress=bar.update, cancelled=cancelled)
                file.flush()


def _target(asked: str, artifact: Artifact, output: str | None, *, force: bool) -> GetTarget:
    if output is not None and not Path(output).is_dir():
        return GetTarget.of(Path(output), force=force)
    # Only the last part: a name from elsewhere must not say which directory is written.
    is_typed = not _is_id_or_hash(asked, artifact)
    last = asked if is_typed else artifact.filename
    name = Path(last.replace("\0", "").replace("\\", "/")).name.strip()
    if name in ("", ".", ".."):
        name = artifact.id.replace("/", "_")
    return GetTarget.of(Path(output or ".") / name, force=force, follow=is_typed)


def _is_id_or_hash(asked: str, artifact: Artifact) -> bool:
    if asked == artifact.filename:
        return False
    digits = asked.lower().removeprefix("sha256:")
    return asked == artifact.id or (artifact.sha256 or "").startswith(digits)


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, readable=False))
@click.option("--name", metavar="N", help="The artifact's name; for one file.")
@click.option("--url", "external", metavar="URL", help="A reference to this URL instead of a file.")
@click.option("-r", "--recursive", is_flag=True, help="Directories too, as dir/file.")
@click.option("--service", "url", metavar="URL", help="The service's base URL.")
@click.option("--token-file", metavar="FILE", help="A file that holds the token.")
@options.json_option()
def put(
    files: tuple[Path, ...],
    name: str | None,
    external: str | None,
    recursive: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Upload files, without a mount, and wait until they are on the service.

    \b
    Examples:
      artifactfs put model.safetensors
      artifactfs put --name results/a.csv out.csv
      artifactfs put -r results/
      artifactfs put --url https://example.org/big.tar --name big.tar
    """
    if external is not None:
        if files or name is None:
            raise click.UsageError("--url goes with --name and without files")
        with assembly.Client(options.config_of(**flags)) as client:
            _uploaded(
                [(name, client.put_external(external, name, sha256=None, size_bytes=None))], as_json
            )
        return
    if not files:
        raise click.UsageError("which files?")
    if name is not None and len(files) > 1:
        raise click.UsageError("--name goes with one file")
    done: list[tuple[str, Artifact]] = []
    failed = False
    with interruptible() as cancelled, assembly.Client(options.config_of(**flags)) as client:
        for path, target in _sources(files, name, recursive=recursive):
            if cancelled.is_set():
                break
            try:
                with ProgressLine(path.name) as bar:
                    artifact = client.put(path, target, progress=bar.update, cancelled=cancelled)
            except (ArtifactfsError, OSError) as error:
                failed = True
                if not cancelled.is_set():
                    say(line_about(path, error))
            else:
                done.append((target, artifact))
    _uploaded(done, as_json)
    if failed:
        raise click.exceptions.Exit(FAILED)


def _sources(
    files: tuple[Path, ...], name: str | None, *, recursive: bool
) -> Iterator[tuple[Path, str]]:
    for path in files:
        if not path.is_dir():
            yield path, name or path.name
        elif not recursive:
            raise click.UsageError(f"{path} is a directory (-r uploads what is in it)")
        else:
            root = name or path.resolve().name
            for inner in sorted(path.rglob("*")):
                if inner.is_file():
                    yield inner, f"{root}/{inner.relative_to(path).as_posix()}"


def _uploaded(done: list[tuple[str, Artifact]], as_json: bool) -> None:
    if as_json:
        output_module.as_json([described(name, artifact) for name, artifact in done])
        return
    for name, artifact in done:
        click.echo(f"{artifact.id}  {output_module.for_output(name)}")
