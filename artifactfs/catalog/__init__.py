"""What exists now: artifacts by name, id and hash, as the service listed them last.

``index`` makes immutable snapshots, ``refresh`` decides when the service is asked and who waits for
it, ``listing`` puts both together as the `Catalog` that the tree reads from without a lock.
"""

from artifactfs.catalog.catalog import Catalog
from artifactfs.catalog.snapshot import Snapshot

__all__ = ["Catalog", "Snapshot"]
