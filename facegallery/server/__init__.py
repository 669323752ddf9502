"""The gallery over HTTP: an API under /v1, and a page for people. Holds no logic of its own: it calls what the commands call."""
