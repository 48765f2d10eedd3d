"""The long form of tests that have one: ``ARTIFACTFS_LONG=1 scripts/test tests/drop``."""

from __future__ import annotations

import os

LONG = os.environ.get("ARTIFACTFS_LONG", "") not in ("", "0")
