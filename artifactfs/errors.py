"""The errors, each with its errno and its remedy.

    ArtifactfsError                      EIO
    ├── ConfigError                      EINVAL        a setting or a flag is wrong
    ├── RemoteError                      EIO           the service said no, or nothing
    │   ├── TokenMissing                 EACCES
    │   ├── TokenRejected                EACCES        401
    │   ├── NotAllowed                   EACCES        403
    │   ├── CreditsShort                 EDQUOT        402
    │   ├── Gone                         ENOENT        404, 410
    │   ├── Conflict                     EBUSY         409
    │   ├── TooLarge                     EFBIG         413
    │   ├── Refused                      EINVAL        422 and other final answers
    │   ├── Unsupported                  ENOTSUP       404, 405, 501 of a call that is optional
    │   ├── StorageFull                  ENOSPC        507
    │   ├── Unreachable                  EHOSTUNREACH  no connection, or 5xx, after all retries
    │   ├── TimedOut                     ETIMEDOUT     no answer in time, after all retries
    │   ├── Cancelled                    EINTR         we gave it up ourselves
    │   └── BadAnswer                    EIO           an answer without what it must have
    │       └── ContentChanged       EIO           another version under the same id: never mixed
    ├── CacheError                       EIO
    │   ├── ContentMismatch              EIO           bytes that are not what their hash says
    │   └── ContentGone                  ESTALE        an open file whose artifact has expired
    ├── DropError                        EIO
    │   ├── SpoolFull                    ENOSPC
    │   ├── SpoolBusy                    EBUSY         another process holds the spool
    │   └── NotUploaded                  EIO           an upload that has failed for good
    └── MountError                       EIO           mounting or unmounting did not work

A message says in one line what happened and to which artifact, file or URL; `remedy` says in one
line what the reader can do. `errno_of` is the only translation of an exception to an errno: what
reaches the kernel is decided here and nowhere else.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class ArtifactfsError(Exception):
    """Base of every error this project raises on purpose."""

    errno: ClassVar[int] = errno.EIO
    default_remedy: ClassVar[str] = ""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = self.default_remedy if remedy is None else remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class ConfigError(ArtifactfsError):
    """A setting, an option or an argument is unknown or has a wrong value."""

    errno = errno.EINVAL


class RemoteError(ArtifactfsError):
    """The service refused a request, or could not be asked."""


class TokenMissing(RemoteError):
    """No token was found anywhere."""

    errno = errno.EACCES
    default_remedy = "set ARTIFACTFS_TOKEN or ARTIFACTFS_TOKEN_FILE, or pass --token-file"


class TokenRejected(RemoteError):
    """401, also after the token was read again."""

    errno = errno.EACCES
    default_remedy = "check the token; `artifactfs doctor` shows where it was read from"


class NotAllowed(RemoteError):
    """403: the account or its role may not do this."""

    errno = errno.EACCES
    default_remedy = "ask for an account or a role that may do this"


class CreditsShort(RemoteError):
    """402: the account's credits do not suffice."""

    errno = errno.EDQUOT
    default_remedy = "add credits to the account, then `artifactfs retry`"


class Gone(RemoteError):
    """404 or 410: the artifact, job or upload does not exist any more."""

    errno = errno.ENOENT


class Conflict(RemoteError):
    """409: someone else is completing the same upload."""

    errno = errno.EBUSY


class TooLarge(RemoteError):
    """413: too large for this way of uploading."""

    errno = errno.EFBIG


class Refused(RemoteError):
    """422 or another final answer, in the service's own words.

    `code` is the service's error code (``sha256_mismatch``), or "" where it gave none.
    """

    errno = errno.EINVAL

    def __init__(self, message: str, *, remedy: str | None = None, code: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


class Unsupported(RemoteError):
    """The service does not know an optional call."""

    errno = errno.ENOTSUP


class StorageFull(RemoteError):
    """507: the service has no room left."""

    errno = errno.ENOSPC
    default_remedy = "the service is out of storage: try again later, or ask its operator"


class Unreachable(RemoteError):
    """No connection to the service, or only failures of its own, after all retries."""

    errno = errno.EHOSTUNREACH
    default_remedy = "check the URL and the network; `artifactfs doctor` helps"


class TimedOut(RemoteError):
    """The service did not answer in time, after all retries."""

    errno = errno.ETIMEDOUT
    default_remedy = "check the network; `artifactfs doctor` helps"


class Cancelled(RemoteError):
    """Given up from this side: the reader was interrupted or the mount is ending."""

    errno = errno.EINTR


class BadAnswer(RemoteError):
    """The service's answer lacks what it must have; the message names the field."""

    default_remedy = "the service answers differently than documented; please report this"


class ContentChanged(BadAnswer):
    """What an id means has changed, by the service's fault: two versions are never mixed."""

    remedy = "close it and open it again to read what is there now"


class CacheError(ArtifactfsError):
    """The cache could not give the bytes."""


class ContentMismatch(CacheError):
    """The bytes do not have the artifact's SHA-256, also when fetched again."""

    default_remedy = "the service delivers other bytes than it lists; report it to its operator"


class ContentGone(CacheError):
    """An open file's artifact has expired, and not all of its bytes are cached."""

    errno = errno.ESTALE


class DropError(ArtifactfsError):
    """The outbox could not do what was asked."""


class SpoolFull(DropError):
    """The spool's disk or its own limit is exhausted; what was closed before is safe."""

    errno = errno.ENOSPC
    default_remedy = "free disk space or raise spool.max_size"


class SpoolBusy(DropError):
    """Another process works on this spool."""

    errno = errno.EBUSY


class NotUploaded(DropError):
    """An upload has failed for good; the entry stays in drop/ with its error."""

    default_remedy = "see `artifactfs status`, then `artifactfs retry`"


class MountError(ArtifactfsError):
    """Mounting or unmounting did not work."""


def errno_of(error: BaseException) -> int:
    """The errno for the kernel, always positive.

    Our own errors carry theirs. An `OSError` keeps its errno if it has a real one: `requests`
    raises some whose errno is None. Everything unforeseen is EIO, never success.
    """
    if isinstance(error, ArtifactfsError):
        return error.errno
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return error.errno if error.errno in errno.errorcode else errno.EIO
    if isinstance(error, TimeoutError):
        return errno.ETIMEDOUT
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    return errno.EIO
