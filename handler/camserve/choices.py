"""The words that a request may use, once."""

from __future__ import annotations

EVIDENCE = ("for", "against", "signed")
DETAILS = ("signs", "channels", "timing")
TEXT_FORMATS = {"grid", "boxes"}  # nothing is drawn for these
FORMATS = ("grid", "heatmap", "overlay", "mask", "boxes")
COMPATS = ("none", "pytorch-grad-cam")
# Those whose raw maps are the same there: an eigen map's sign is arbitrary there, others follow other equations.
COMPARABLE = ("gradcam", "hirescam", "layercam", "xgradcam")
PALETTES = ("turbo", "viridis", "jet")
PICTURE_TYPES = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP", "image/*": "JPEG"}
TEXT_TYPES = ("application/json", "application/*", "text/html", "text/*", "*/*")
