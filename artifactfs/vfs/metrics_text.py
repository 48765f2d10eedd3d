"""``metrics.prom``: numbers for Prometheus, as OpenMetrics 1.0 has them.

Names follow Prometheus's conventions: base units (bytes, seconds) as the suffix, ``_total`` at the
end of what only grows and nowhere else. HELP and TYPE carry a family's name without ``_total``, the
sample has it whole, and the text ends with ``# EOF``. A textfile collector, which expects the older
text format, reads the same names and values from it and takes the end for a comment. `control` asks
the rooms for the numbers; what they are called stands here and nowhere else, so that a field that
is renamed inside does not rename what somebody's dashboard shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from artifactfs import __version__

GAUGE, COUNTER = "gauge", "counter"

CACHE: Mapping[str, tuple[str, str, str]] = {
    "cached_bytes": ("cached_bytes", GAUGE, "Disk space that cached contents take."),
    "size_bytes": ("limit_bytes", GAUGE, "Disk space that cached contents may take."),
    "space_free_bytes": ("free_bytes", GAUGE, "Disk space that is left to cached contents."),
    "open_contents": ("open_contents", GAUGE, "Contents that are open."),
    "hits": ("hits_total", COUNTER, "Reads that were answered from what is cached."),
    "misses": ("misses_total", COUNTER, "Reads that had to wait for the service."),
    "read_bytes": ("read_bytes_total", COUNTER, "Bytes that the driver handed to readers."),
    "fetched_bytes": ("fetched_bytes_total", COUNTER, "Bytes that came from the service."),
    "evicted_bytes": ("evicted_bytes_total", COUNTER, "Bytes removed to make room."),
    "verified_bytes": ("verified_bytes_total", COUNTER, "Bytes of contents with the right hash."),
    "mismatches": ("mismatches_total", COUNTER, "Contents that did not have their hash."),
    "refetched_grains": ("refetched_grains_total", COUNTER, "Cached grains that had gone bad."),
    "uncached_grains": ("uncached_grains_total", COUNTER, "Grains that the disk did not take."),
}


KERNEL: Mapping[str, str] = {
    "open_files": "Files that programs have open.",
    "passthrough_open": "Files among them that the kernel reads past the driver.",
    "inodes": "Inodes that the kernel knows.",
    "waiting": "Requests that wait for an answer.",
}


def text(
    listing: Mapping[str, Any],
    uploads: Mapping[str, Any],
    cache: Mapping[str, Any],
    binding: Mapping[str, Any],
) -> str:
    """All of it, of what ``status.json`` says at this moment."""
    return "".join(_samples(listing, uploads, cache, binding)) + "# EOF\n"


def _samples(
    listing: Mapping[str, Any],
    uploads: Mapping[str, Any],
    cache: Mapping[str, Any],
    binding: Mapping[str, Any],
) -> Iterator[str]:
    yield _sample("build_info", GAUGE, "The running version.", f'{{version="{__version__}"}}', 1)
    yield _sample("up", GAUGE, "1 while the mount answers.", "", 1)
    yield _sample("listing_artifacts", GAUGE, "Listed artifacts.", "", listing["artifacts"])
    yield _sample(
        "listing_stale", GAUGE, "1 while the service does not answer.", "", int(listing["stale"])
    )
    if listing["age_s"] is not None:
        yield _sample("listing_age_seconds", GAUGE, "Age of the listing.", "", listing["age_s"])
    for name, explained in (
        ("pending_files", "Files in drop/ that wait or are being uploaded."),
        ("pending_bytes", "Bytes of these files."),
        ("failed", "Files in drop/ that could not be uploaded."),
        ("interrupted", "Files in drop/ whose writer was killed."),
    ):
        label = name if name.startswith("pending") else f"{name}_files"
        yield _sample(f"uploads_{label}", GAUGE, explained, "", uploads[name])
    for field, (name, kind, explained) in CACHE.items():
        if field in cache:
            yield _sample(f"cache_{name}", kind, explained, "", cache[field])
    for name, explained in KERNEL.items():
        if isinstance(binding.get(name), int):
            yield _sample(f"kernel_{name}", GAUGE, explained, "", binding[name])


def _sample(name: str, kind: str, explained: str, labels: str, value: float) -> str:
    name = f"artifactfs_{name}"
    family = name.removesuffix("_total")
    return f"# HELP {family} {explained}\n# TYPE {family} {kind}\n{name}{labels} {value}\n"
