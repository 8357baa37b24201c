"""Measuring models, explanations and traffic offline; never shipped in an archive."""
