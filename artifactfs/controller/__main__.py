"""``python -m artifactfs.controller``: the service by itself, as tests and the demo start it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from artifactfs.controller.app import Behaviour
from artifactfs.controller.serving import Options, serve
from artifactfs.errors import ArtifactfsError


def main() -> int:
    """Read the words and serve."""
    parser = argparse.ArgumentParser(prog="artifactfs.controller", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--token-file", type=Path, help="default: made, and kept in DATA/token")
    parser.add_argument("--part-size", type=int, default=64 << 20, help="bytes")
    parser.add_argument("--retention", type=float, default=7 * 86_400.0, help="seconds")
    parser.add_argument("--url-lifetime", type=float, default=3600.0, help="seconds")
    parser.add_argument("--upload-lifetime", type=float, default=86_400.0, help="seconds")
    parser.add_argument("--redirect-downloads", action="store_true")
    parser.add_argument("--download-base", help="a URL that serves DATA/blobs")
    words = parser.parse_args()
    behaviour = Behaviour(
        part_size_bytes=words.part_size,
        retention_s=words.retention,
        url_lifetime_s=words.url_lifetime,
        upload_lifetime_s=words.upload_lifetime,
        redirect_downloads=words.redirect_downloads,
        download_base=words.download_base,
    )
    token = words.token_file.read_text().strip() if words.token_file else None
    try:
        serve(Options(words.data, words.host, words.port, token, behaviour))
    except ArtifactfsError as error:
        print(f"artifactfs: {error}", file=sys.stderr)  # noqa: T201 - a program of its own
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
