"""Model files of camserve's own, which an archive carries where a recipe needs them."""
