"""Where an upload's bytes are gathered until it is complete: here, or in a bucket.

``uploads`` knows tickets and answers; a `Shelf` knows URLs to send to, what has come, and how that
becomes a content. `LocalShelf` is the own object store (``objects``, ``parts``), ``bucket_shelf``
an S3 bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from aiohttp import web

from artifactfs.controller.objects import Objects
from artifactfs.controller.parts import Parts
from artifactfs.controller.tickets import (
    Part,
    Ticket,
    Tickets,
)


class Shelf(Protocol):
    """What ``uploads`` needs. `parts` is None where all have been joined already."""

    async def begin(self, ticket: Ticket) -> None: ...
    def urls_expire(self) -> float: ...
    async def direct_url(self, request: web.Request, ticket: Ticket) -> str: ...
    async def part_urls(
        self, request: web.Request, ticket: Ticket, numbers: Sequence[int]
    ) -> list[str]: ...
    async def parts(self, ticket: Ticket) -> list[Part] | None: ...
    def closing(self, ticket: Ticket) -> AbstractAsyncContextManager[None]: ...
    def is_closing(self, upload_id: str) -> bool: ...
    async def digest(self, ticket: Ticket, parts: list[Part] | None) -> str: ...
    async def keep(self, ticket: Ticket, parts: list[Part] | None) -> None: ...
    async def forget(self, upload_id: str) -> None: ...
    async def sweep(self, open_ids: Callable[[], set[str]]) -> None: ...


class LocalShelf:
    """The own object store. Stateless: what has come is in the index and in files."""

    def __init__(self, objects: Objects, parts: Parts, tickets: Tickets) -> None:
        self._objects = objects
        self._parts = parts
        self._tickets = tickets
        self.urls_expire = objects.urls_expire
        self.closing = objects.closing
        self.is_closing = objects.is_closing
        self.forget = parts.forget
        self.sweep = parts.sweep

    async def begin(self, ticket: Ticket) -> None:
        """Nothing has to be there before the first part comes."""

    async def direct_url(self, request: web.Request, ticket: Ticket) -> str:
        """Where a direct upload is PUT."""
        return self._objects.direct_url(request, ticket)

    async def part_urls(
        self, request: web.Request, ticket: Ticket, numbers: Sequence[int]
    ) -> list[str]:
        """Where parts are PUT."""
        return [self._objects.part_url(request, ticket, number) for number in numbers]

    async def parts(self, ticket: Ticket) -> list[Part] | None:
        """What has come."""
        return self._tickets.parts(ticket.id)

    async def digest(self, ticket: Ticket, parts: list[Part] | None) -> str:
        """The SHA-256 of all parts."""
        return await self._parts.digest(ticket, parts or [])

    async def keep(self, ticket: Ticket, parts: list[Part] | None) -> None:
        """Give the parts, joined, their place among the contents."""
        await self._parts.keep(ticket, parts or [])
