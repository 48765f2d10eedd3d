"""Jobs and projects: what they produced, and what they are doing now.

| module | what it has |
|---|---|
| `jobs` | which jobs and projects there are |
| `documents` | the service's JSON of each, cached and set out for people |
| `live_logs`, `follow` | logs that grow while they are read, and their streams |
| `log_store` | logs and documents on disk |
| `log_merge` | tails joined to texts, texts of several tasks merged (pure) |
| `watch` | the same for commands, without a mount |
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
