"""What maps are worth on labelled photos: measures, floors beside them, and intervals."""
