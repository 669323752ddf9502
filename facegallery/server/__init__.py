"""Serve galleries over HTTP: an API under /v1, and a page. It calls the functions that the commands call."""
