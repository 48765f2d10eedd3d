"""The service as a whole: what ``assembly`` builds and the other rooms are given parts of."""

from __future__ import annotations

from datetime import datetime

from artifactfs.clock import SYSTEM_CLOCK, Clock
from artifactfs.config import HttpConfig
from artifactfs.remote.artifacts_api import ArtifactsApi
from artifactfs.remote.downloader import Downloader
from artifactfs.remote.external_guard import AddressGuard
from artifactfs.remote.jobs_api import JobsApi
from artifactfs.remote.session import HttpSession, service_url
from artifactfs.remote.uploads_api import UploadsApi
from artifactfs.token import TokenSource


class Service:
    """One service under one token: `artifacts_fast` lists, `downloads` reads, `uploads` sends.

    `jobs` tells of jobs and projects.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        http: HttpConfig,
        *,
        external_allow_private: bool = False,
        pool_size: int = 32,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        guard = AddressGuard(service_url(url), allow_private=external_allow_private)
        self._session = HttpSession(
            url, token, http, check_peer=guard.check_peer, pool_size=pool_size, clock=clock
        )
        self.url = url
        self.origin = self._session.origin
        self.artifacts = ArtifactsApi(self._session)
        self.jobs = JobsApi(self._session)
        self.uploads = UploadsApi(self._session)
        self.downloads = Downloader(self._session, self.artifacts, guard)

    def check(self) -> datetime | None:
        """See that the service answers and takes the token; within about ten seconds.

        Returns the service's clock if it said.
        """
        return self.artifacts.probe()

    def close(self) -> None:
        """Cut off what is in flight; later calls raise `Cancelled`."""
        self._session.close()
