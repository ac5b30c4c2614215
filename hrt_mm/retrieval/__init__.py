"""Retrieval: embedding collections of files, and searching an index of them."""
