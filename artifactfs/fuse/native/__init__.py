"""The native binding: FUSE's protocol spoken directly with the Linux kernel::

binding       the life of one mount, on the main thread
  mounting    a mounted descriptor: mount(2), fusermount, or handed in
  session     one connection: puts the parts together, owns the threads
    negotiation   INIT
    crew          the reading thread, and who takes over when it is stuck
    channel       messages, and how each finds its handler
    names, directories, files    the operations
      work        what they share; how one is carried out by a pool
    calls         requests that wait; interrupts and deadlines
      patience    whether a signal means that the caller wants to stop
    pools         threads for what may wait
    inodes, handles   what the kernel knows, what is open
    stat          attributes in the kernel's layouts
    passthrough   files that the kernel reads by itself
    notify        names that the kernel must forget
  device      the descriptor
  wire        numbers and layouts
"""

from artifactfs.fuse.native.binding import NativeBinding

__all__ = ["NativeBinding"]
