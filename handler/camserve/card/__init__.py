"""A model card of pictures: what classes and channels of a network look for. It never travels in an archive."""
