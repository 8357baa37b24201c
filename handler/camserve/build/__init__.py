"""From what a person has on disk to a .mar."""
