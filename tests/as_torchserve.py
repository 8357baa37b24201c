"""Rows, headers and contexts as TorchServe makes them."""

from ts.context import Context, RequestProcessor

REST = {"explain": "False", "url_path": "", "host": "x", "Accept": "*/*"}
FORM = {**REST, "Content-Type": "application/x-www-form-urlencoded"}
EXPLAIN = {**REST, "explain": "True"}


def context_of(headers):
    """Return the context of a batch whose rows have these headers."""
    context = Context("colours", None, {}, 8, None, False, False)
    context.request_ids = {number: f"id-{number}" for number in range(len(headers))}
    context.request_processor = [RequestProcessor(dict(one)) for one in headers]
    return context
