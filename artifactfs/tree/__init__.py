"""What a user sees: directories, files and their attributes, without FUSE and without HTTP.

``node`` is the whole of what ``kernel`` needs to know; the other modules fill it with life.
"""
