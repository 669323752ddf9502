"""The routes under /v1: each reads its question, asks what the commands ask, and answers."""
