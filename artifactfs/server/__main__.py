"""``python -m artifactfs.server``: the service by itself, as tests and the demo start it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from artifactfs.errors import ArtifactfsError, ConfigError
from artifactfs.server.config import ServerConfig
from artifactfs.server.runner import serve


def main() -> int:
    """Read the words and serve."""
    words = vars(_parser().parse_args())
    chosen = {field.name for field in fields(ServerConfig)}
    behaviour = ServerConfig(**{key: value for key, value in words.items() if key in chosen})
    try:
        serve(
            words["host"],
            words["port"],
            words["data"],
            token=_token(words["token_file"]),
            behaviour=behaviour,
            until_input_ends=words["until_input_ends"],
        )
    except ArtifactfsError as error:
        print(f"artifactfs: {error}", file=sys.stderr)  # noqa: T201 - a program of its own
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    usual = ServerConfig()
    parser = argparse.ArgumentParser(prog="artifactfs.server", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="the directory where everything is kept")
    add("--host", default="127.0.0.1")
    add("--port", type=_number, default=0, help="0: any free one")
    add("--token-file", type=Path, help="the token; without it one is made and kept in DATA/token")
    add(
        "--part-size",
        dest="part_size_bytes",
        metavar="BYTES",
        type=_positive,
        default=usual.part_size_bytes,
        help="of multipart uploads",
    )
    for name, help_text in (
        ("retention", "how long artifacts live"),
        ("url-lifetime", "how long presigned URLs are good"),
        ("upload-lifetime", "how long an upload may take"),
        ("heartbeat", "between comments in a stream where nothing happens"),
    ):
        key = name.replace("-", "_") + "_s"
        add(
            f"--{name}",
            dest=key,
            metavar="SECONDS",
            type=_seconds,
            default=getattr(usual, key),
            help=help_text,
        )
    add(
        "--redirect-downloads",
        action="store_true",
        help="answer downloads by a presigned URL of the object store",
    )
    add(
        "--download-base",
        metavar="URL",
        help="answer downloads by URL/<ab>/<sha256>, another server's URL of DATA/blobs",
    )
    add("--objects-port", type=_number, help="a port, and so an origin, for the object store")
    add("--public-url", metavar="URL", help="what the service's own URLs begin with")
    add("--no-sync", dest="sync", action="store_false", help="do not wait for the disk")
    add("--store", metavar="URL", help="keep contents in a bucket: s3://BUCKET[/PREFIX]")
    add("--endpoint-url", metavar="URL", help="where the bucket is, if not at Amazon's own")
    add("--index", metavar="URL", help="share an index: postgresql://HOST/DATABASE")
    add("--until-input-ends", action="store_true", help="end when standard input does")
    return parser


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token file {path} cannot be read: {error}") from error
    if not token:
        raise ConfigError(f"the token file {path} is empty")
    return token


def _number(text: str) -> int:
    number = int(text)
    if not 0 <= number < 65_536:
        raise ValueError
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e9:
        raise ValueError
    return seconds


if __name__ == "__main__":
    sys.exit(main())
