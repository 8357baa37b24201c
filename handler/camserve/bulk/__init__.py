"""Many pictures: where they lie, what is asked about them, and what is kept of the answers."""
