"""The page that shows what a model looked at, for browsers."""
