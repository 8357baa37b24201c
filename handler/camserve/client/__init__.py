"""Asking a server from Python: typed answers, tokens, waiting where it is busy. Nothing here needs torch."""
