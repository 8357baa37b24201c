"""The words that a request may use, once; the first of each is the default."""

from __future__ import annotations

EVIDENCE = ("for", "against", "signed")
DRAWN_FORMATS = ("heatmap", "overlay", "mask")
FORMATS = ("grid", *DRAWN_FORMATS, "boxes")
PALETTES = ("turbo", "viridis", "jet")
TORCHSERVE = "torchserve"  # of COMPATS: the answer of TorchServe's image_classifier, which has no maps
COMPATS = ("none", "pytorch-grad-cam", TORCHSERVE)
# Those whose raw maps are the same there: an eigen map's sign is arbitrary there, others follow other equations.
COMPARABLE = ("gradcam", "hirescam", "layercam", "xgradcam")
# The methods that weigh each channel once: of these, maps of chosen channels can be made.
WEIGHING = ("gradcam", "gradcam+", "gradcam-", "xgradcam", "gradcam++", "cam", "ablationcam", "scorecam")
DETAILS = ("signs", "channels", "timing")

CONTENT_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}  # of the pictures of an answer
JSON_TYPE = "application/json"
PICTURE_TYPES = {**{media: kind for kind, media in CONTENT_TYPES.items()}, "image/*": "JPEG"}  # of an Accept header
TEXT_TYPES = (JSON_TYPE, "application/*", "text/html", "text/*", "*/*")  # answered with JSON
