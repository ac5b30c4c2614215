"""Retrieval: metrics, embeddings of collections, and an index to search."""
