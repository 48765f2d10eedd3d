"""Artifacts as they stand in the index.

Each row carries the JSON object that the list shows, made once: a page of ten thousand is a join of
strings. The list's order is the order of making, newest first, and its cursor the number of the
last one shown, so that what is made meanwhile neither shifts nor repeats anything.

Of two artifacts the one that was listed later has the later `created_at`, always: clients show the
newest of a name (``index.next_created_us``).

An artifact that has expired is not listed; it answers 410 for as long again as it lived, then 404.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from artifactfs.server.database import (
    AnyDatabase,
    Change,
    DatabaseBackend,
    next_created_us,
)
from artifactfs.server.responses import (
    Refusal,
    iso,
    not_found,
    text_of,
)

_COLUMNS = "number, id, account, sha256, size, filename, expires, external_url, document"


def new_id() -> str:
    """An opaque artifact id."""
    return "art_" + secrets.token_hex(10)


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    """One artifact. `document` is its JSON; `sha256` and `size` may be None for a reference."""

    number: int
    id: str
    account: str
    sha256: str | None
    size: int | None
    filename: bytes
    expires: float
    external_url: str | None
    document: bytes

    def check_alive(self) -> None:
        """Raise `Refusal` 410 if it has expired."""
        if self.expires <= time.time():
            raise Refusal(410, "expired", f"the artifact {self.id} has expired")

    @property
    def name(self) -> str:
        """The file name as text."""
        return text_of(self.filename)


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """An artifact that is about to be listed.

    `created` is in seconds since the epoch, None for the moment of listing. `listed`, where given,
    is shown in the list instead of the contract's object, valid or not.
    """

    account: str
    filename: bytes
    sha256: str | None
    size: int | None
    lifetime_s: float
    id: str
    created: float | None = None
    external_url: str | None = None
    job_id: str | None = None
    listed: bytes | None = None

    def document(self, created: float) -> bytes:
        """The artifact object of the contract."""
        shown: dict[str, Any] = {
            "id": self.id,
            "sha256": self.sha256,
            "size": self.size,
            "filename": text_of(self.filename),
            "content_type": "application/octet-stream",
            "created_at": iso(created),
            "expires_at": iso(created + self.lifetime_s),
            "status": "ready",
            "external_url": self.external_url,
            "job_id": self.job_id,
        }
        return json.dumps(shown).encode()

    def insert(self, database: DatabaseBackend, created: float) -> None:
        """List it, as created then."""
        database.execute(
            "INSERT INTO artifacts (id, account, sha256, size, filename, expires, external_url,"
            " document) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.id,
                self.account,
                self.sha256,
                self.size,
                self.filename,
                created + self.lifetime_s,
                self.external_url,
                self.document(created) if self.listed is None else self.listed,
            ),
        )


def insert_all(database: DatabaseBackend, drafts: Sequence[NewArtifact]) -> None:
    """List artifacts, each later than all before it if it is one of now."""
    count = sum(draft.created is None for draft in drafts)
    created_us = next_created_us(database, count) if count else 0
    for draft in drafts:
        if draft.created is None:
            draft.insert(database, created_us / 1e6)
            created_us += 1
        else:
            draft.insert(database, draft.created)


class ArtifactTable:
    """The artifacts of all accounts."""

    def __init__(self, index: AnyDatabase, retention_s: float) -> None:
        self._index = index
        self._retention_s = retention_s

    def draft(
        self,
        account: str,
        filename: bytes,
        sha256: str | None,
        size: int | None,
        *,
        artifact_id: str | None = None,
        external_url: str | None = None,
    ) -> NewArtifact:
        """An artifact of now; without a file name it is named by its id."""
        artifact_id = artifact_id or new_id()
        return NewArtifact(
            account=account,
            filename=filename or artifact_id.encode(),
            sha256=sha256,
            size=size,
            lifetime_s=self._retention_s,
            id=artifact_id,
            external_url=external_url,
        )

    async def add(self, draft: NewArtifact, *also: Change[Any]) -> ArtifactRow:
        """List an artifact; `also` is changed with it or not at all."""

        def change(database: DatabaseBackend) -> None:
            insert_all(database, [draft])
            for one in also:
                one(database)

        await self._index.write(change)
        return self.named(draft.id)

    async def add_all(self, drafts: Sequence[NewArtifact], seeds: dict[str, bytes]) -> None:
        """List many at once, with their small contents (`_dev`)."""

        def change(database: DatabaseBackend) -> None:
            database.executemany(
                "INSERT INTO seeds VALUES (?, ?) ON CONFLICT DO NOTHING", seeds.items()
            )
            insert_all(database, drafts)

        await self._index.write(change)

    def seed(self, sha256: str) -> bytes | None:
        """A content that `add_all` was given."""
        row = self._index.one("SELECT content FROM seeds WHERE sha256 = ?", sha256)
        return None if row is None else bytes(row[0])

    def named(self, artifact_id: str) -> ArtifactRow:
        """An artifact by its id, expired or not. Raises `Refusal` 404."""
        found = self._index.one(f"SELECT {_COLUMNS} FROM artifacts WHERE id = ?", artifact_id)
        if found is None:
            raise not_found(f"the artifact {artifact_id}", "it may have expired; list again")
        return ArtifactRow(*found)

    def with_content(self, account: str, sha256: str) -> ArtifactRow | None:
        """The account's newest artifact that has this content."""
        found = self._index.one(
            f"SELECT {_COLUMNS} FROM artifacts WHERE sha256 = ? AND account = ? AND expires > ?"
            " AND external_url IS NULL ORDER BY number DESC LIMIT 1",
            sha256,
            account,
            time.time(),
        )
        return ArtifactRow(*found) if found else None

    async def page(self, account: str, cursor: int | None, limit: int) -> bytes:
        """One page of the list, as JSON."""
        found = await self._index.many(
            "SELECT document, number FROM artifacts WHERE account = ? AND number < ?"
            " AND expires > ? ORDER BY number DESC LIMIT ?",
            account,
            1 << 62 if cursor is None else cursor,
            time.time(),
            limit + 1,
        )
        shown = found[:limit]
        following = b'"%d"' % shown[-1][1] if len(found) > limit else b"null"
        entries = b",".join([document for document, _ in shown])
        return b'{"artifacts":[%b],"next_cursor":%b}' % (entries, following)

    async def change_expiry(self, record: ArtifactRow, expires: float) -> None:
        """Have an artifact expire at another time (`_dev`)."""
        try:
            document = json.loads(record.document)
            document["expires_at"] = iso(expires)
            listed = json.dumps(document).encode()
        except (ValueError, TypeError):
            listed = record.document
        await self._index.execute(
            "UPDATE artifacts SET expires = ?, document = ? WHERE id = ?",
            expires,
            listed,
            record.id,
        )

    def expired(self) -> list[str]:
        """Contents of artifacts that have expired and were not cleaned; not all at once."""
        rows = self._index.few(
            "SELECT sha256 FROM artifacts WHERE cleaned = 0 AND expires <= ?"
            " AND sha256 IS NOT NULL AND external_url IS NULL LIMIT 1000",
            time.time(),
        )
        return list({sha256 for (sha256,) in rows})

    def is_wanted(self, sha256: str) -> bool:
        """Whether a living artifact of whatever account has this content."""
        row = self._index.one(
            "SELECT 1 FROM artifacts WHERE sha256 = ? AND external_url IS NULL AND expires > ?",
            sha256,
            time.time(),
        )
        return row is not None

    async def clean(self, contents: list[str]) -> None:
        """Note that these contents were looked at, and forget what expired long ago."""
        now = time.time()

        def change(database: DatabaseBackend) -> None:
            for sha256 in contents:
                database.execute(
                    "DELETE FROM seeds WHERE sha256 = ? AND NOT EXISTS (SELECT 1 FROM artifacts"
                    " WHERE sha256 = ? AND external_url IS NULL AND expires > ?)",
                    (sha256, sha256, now),
                )
                database.execute(
                    "UPDATE artifacts SET cleaned = 1 WHERE sha256 = ? AND cleaned = 0"
                    " AND expires <= ?",
                    (sha256, now),
                )
            database.execute(
                "UPDATE artifacts SET cleaned = 1 WHERE cleaned = 0 AND expires <= ?"
                " AND (sha256 IS NULL OR external_url IS NOT NULL)",
                (now,),
            )
            database.execute(
                "DELETE FROM artifacts WHERE cleaned = 1 AND expires <= ?",
                (now - self._retention_s,),
            )

        await self._index.write(change)
