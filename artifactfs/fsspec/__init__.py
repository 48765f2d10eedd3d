"""The artifacts without a mount, for whatever reads through fsspec: ``artifact://NAME``.

    filesystem   ArtifactFileSystem: names to artifacts, errors to OSError
    files        a file that is read, a file that is written
    shared_client  what all file systems of a process share: the cache, the listing, connections
    listing      what the service lists, as names and folders

pandas, pyarrow, DuckDB, Dask, h5py and others find the class by the protocol's name. It reads
through the same cache and with the same readahead as a mount, and uploads by the same uploader.
"""

from artifactfs.fsspec.filesystem import ArtifactFileSystem

__all__ = ["ArtifactFileSystem"]
