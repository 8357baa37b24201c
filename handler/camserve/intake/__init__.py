"""From a caller's bytes and words to pixels and checked options."""
