"""Jobs and projects: what they produced, and what they are doing now.

``registry`` is the whole: which there are. ``documents`` is what the service says of each, ``live``
the logs that grow while somebody follows, ``following`` how that is done, ``logs`` and ``shelf``
where it lies on disk. ``tails``, ``weaving`` and ``pretty`` are pure: tails joined to a text, texts
woven into a log, JSON set out for people. ``watching`` and ``reading`` do without a mount.
"""

from artifactfs.jobs.documents import (
    Document,
    DocumentPage,
    pretty,
)
from artifactfs.jobs.jobs import JobRegistry, KnownJob
from artifactfs.jobs.live_logs import JobLog, ProjectLog
from artifactfs.jobs.watch import (
    JobWatch,
    WatchedJob,
    follow_log,
    read_log,
    read_result,
)

__all__ = [
    "Document",
    "DocumentPage",
    "JobLog",
    "JobRegistry",
    "JobWatch",
    "KnownJob",
    "ProjectLog",
    "WatchedJob",
    "follow_log",
    "pretty",
    "read_log",
    "read_result",
]
