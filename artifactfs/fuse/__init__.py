"""FUSE: the only room that knows it.

binding, bindings   what a way into the kernel is, and which one is taken
fusepy_binding      the portable one: the life of one mount over libfuse 2
  fusepy_library    fusepy's class, mended
  operations        the operations by path, on the tree's nodes
  open_files        handles by number, and what open paths mean
native/             the other one: speaks ``/dev/fuse`` itself
replies             every exception becomes an errno and one log line
mounting            checks before a mount; the front door to the next two
  mount_table       what is mounted
  unmounting        unmount, detach, abort
"""
