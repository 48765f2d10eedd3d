"""The native binding: FUSE's protocol spoken directly with the Linux kernel::

binding       the life of one mount, on the main thread
  mount       a mounted descriptor: mount(2), fusermount, or handed in
  session     one connection: puts the parts together, owns the threads
    negotiation   INIT
    reader        the reader thread, and which takes over when it is stuck
    dispatch      messages, and how each finds its handler
    inode_ops, dir_ops, file_ops  the operations
      context     what they share; how one is carried out by a pool
    requests      requests that wait; interrupts and deadlines
    worker_pools  threads for what may wait
    inodes, handles   what the kernel knows, what is open
    passthrough   files that the kernel reads by itself
    notify        names that the kernel must forget
  device      the descriptor
  protocol    numbers, layouts and attributes of the kernel
"""

from artifactfs.fuse.native.binding import NativeBinding

__all__ = ["NativeBinding"]
