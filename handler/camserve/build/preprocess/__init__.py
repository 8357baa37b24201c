"""The input of a network, as people write it down."""
