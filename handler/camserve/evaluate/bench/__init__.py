"""What an explanation costs, measured so that anyone can measure it again; never shipped in an archive."""
