"""One file an I/O model: found by its file name, read as a lesson, run in a process of its own."""
