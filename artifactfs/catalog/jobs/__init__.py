"""Jobs and projects: what they produced, and what they are doing now.

``registry`` is the whole: which there are. ``documents`` is what the service says of each, ``live``
the logs that grow while somebody follows, ``following`` how that is done, ``logs`` and ``shelf``
where it lies on disk. ``tails``, ``weaving`` and ``pretty`` are pure: tails joined to a text, texts
woven into a log, JSON set out for people. ``watching`` and ``reading`` do without a mount.
"""

from artifactfs.catalog.jobs.documents import Document, Page
from artifactfs.catalog.jobs.live import JobLog, ProjectLog
from artifactfs.catalog.jobs.pretty import pretty
from artifactfs.catalog.jobs.reading import (
    follow_log,
    read_log,
    read_result,
)
from artifactfs.catalog.jobs.registry import Jobs, Known
from artifactfs.catalog.jobs.watching import JobWatch, Watched

__all__ = [
    "Document",
    "JobLog",
    "JobWatch",
    "Jobs",
    "Known",
    "Page",
    "ProjectLog",
    "Watched",
    "follow_log",
    "pretty",
    "read_log",
    "read_result",
]
