"""Jobs that come with the command line: each a file for `overlapped run`, shown under examples/ too."""
