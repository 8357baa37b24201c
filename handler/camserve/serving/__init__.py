"""The order of the stages, and one file for each server."""
