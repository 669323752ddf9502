"""Talk to a server: its requests and responses, and galleries that are used over HTTP."""
