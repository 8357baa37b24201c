"""Any classifier on disk as a function from pixels to scores."""
