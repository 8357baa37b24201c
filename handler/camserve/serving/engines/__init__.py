"""One file for each server: its rows in, its rows out."""
