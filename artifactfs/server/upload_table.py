"""Uploads that have been begun, as they stand in the index.

A ticket is leave to bring one content in one or more parts: a direct upload is one of one part. Its
parts are rows too, written when their bytes are on the disk and before their ETag is answered, so
that what was answered is there after a crash. A ticket lives until it expires, completed or not:
who completes twice is answered twice.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from artifactfs.server.artifact_table import new_id
from artifactfs.server.database import (
    AnyDatabase,
    Change,
    DatabaseBackend,
)
from artifactfs.server.responses import not_found

MOST_PARTS = 10_000

_COLUMNS = "id, artifact_id, account, sha256, size, filename, part_size, expires, completed"


@dataclass(frozen=True, slots=True)
class UploadRow:
    """One upload, `completed` or not. Sizes in bytes; all parts but the last have `part_size`."""

    id: str
    artifact_id: str
    account: str
    sha256: str
    size: int
    filename: bytes
    part_size: int
    expires: float
    completed: int

    @property
    def part_count(self) -> int:
        """How many parts it has; an empty content has one."""
        return max(1, -(-self.size // self.part_size))

    def size_of(self, number: int) -> int:
        """How large part `number`, counted from 1, is."""
        return min(self.part_size, self.size - self.offset_of(number))

    def offset_of(self, number: int) -> int:
        """Where part `number` begins."""
        return (number - 1) * self.part_size


@dataclass(frozen=True, slots=True)
class PartRow:
    """A part that has come. `place` is the file that holds it, see ``upload_files``."""

    number: int
    size: int
    etag: str
    place: str


class UploadTable:
    """The uploads of all accounts."""

    def __init__(self, index: AnyDatabase, lifetime_s: float) -> None:
        self._index = index
        self._lifetime_s = lifetime_s

    async def begin(
        self, account: str, sha256: str, size: int, filename: bytes, part_size: int | None
    ) -> UploadRow:
        """A new upload; `part_size` None is a direct one."""
        artifact_id = new_id()
        upload_id = artifact_id if part_size is None else "mpu_" + secrets.token_hex(12)
        part_size = max(part_size or size, -(-size // MOST_PARTS), 1)
        ticket = UploadRow(
            id=upload_id,
            artifact_id=artifact_id,
            account=account,
            sha256=sha256,
            size=size,
            filename=filename,
            part_size=part_size,
            expires=time.time() + self._lifetime_s,
            completed=0,
        )
        await self._index.execute(
            f"INSERT INTO uploads ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
            ticket.id,
            artifact_id,
            account,
            sha256,
            size,
            filename,
            part_size,
            ticket.expires,
        )
        return ticket

    def find(self, upload_id: str) -> UploadRow:
        """An upload by its id. Raises `Refusal` 404 if it is unknown or has expired."""
        row = self._index.one(f"SELECT {_COLUMNS} FROM uploads WHERE id = ?", upload_id)
        if row is None or row[7] <= time.time():
            raise not_found(f"the upload {upload_id}", "begin a new upload")
        return UploadRow(*row)

    def parts(self, upload_id: str) -> list[PartRow]:
        """What has come, in order."""
        rows = self._index.few(
            "SELECT number, size, etag, place FROM parts WHERE upload_id = ? ORDER BY number",
            upload_id,
        )
        return [PartRow(*row) for row in rows]

    def part(self, upload_id: str, number: int) -> PartRow | None:
        """One part, if it has come."""
        row = self._index.one(
            "SELECT number, size, etag, place FROM parts WHERE upload_id = ? AND number = ?",
            upload_id,
            number,
        )
        return PartRow(*row) if row else None

    async def note(self, ticket: UploadRow, part: PartRow) -> bool:
        """Note that a part is on the disk; False if the upload has ended meanwhile."""

        def change(database: DatabaseBackend) -> bool:
            changed = database.execute(
                "INSERT INTO parts SELECT id, ?, ?, ?, ? FROM uploads"
                " WHERE id = ? AND completed = 0 ON CONFLICT (upload_id, number) DO UPDATE"
                " SET size = excluded.size, etag = excluded.etag, place = excluded.place",
                (part.number, part.size, part.etag, part.place, ticket.id),
            )
            return bool(changed.rowcount)

        return await self._index.write(change)

    def completion(self, ticket: UploadRow) -> Change[None]:
        """What completing an upload changes, together with listing the artifact."""

        def change(database: DatabaseBackend) -> None:
            database.execute("UPDATE uploads SET completed = 1 WHERE id = ?", (ticket.id,))
            database.execute("DELETE FROM parts WHERE upload_id = ?", (ticket.id,))

        return change

    async def forget(self, upload_id: str) -> None:
        """Forget an upload and its parts."""

        def change(database: DatabaseBackend) -> None:
            database.execute("DELETE FROM uploads WHERE id = ?", (upload_id,))
            database.execute("DELETE FROM parts WHERE upload_id = ?", (upload_id,))

        await self._index.write(change)

    def expired(self) -> list[str]:
        """Uploads whose time is over."""
        rows = self._index.few("SELECT id FROM uploads WHERE expires <= ?", time.time())
        return [upload_id for (upload_id,) in rows]

    def open_ids(self) -> set[str]:
        """Every upload that has files."""
        return {row[0] for row in self._index.few("SELECT id FROM uploads WHERE completed = 0")}
