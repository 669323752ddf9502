"""Face retrieval as a vector database."""

__version__ = "0.1.0"
