"""What exists now: artifacts by name, id and hash, as the service listed them last.

`snapshot` makes immutable snapshots, `refresher` decides when the service is asked and who waits
for it, `catalog` has the `Catalog`, which readers use without a lock.
"""

from artifactfs.catalog.catalog import Catalog
from artifactfs.catalog.snapshot import Snapshot

__all__ = ["Catalog", "Snapshot"]
