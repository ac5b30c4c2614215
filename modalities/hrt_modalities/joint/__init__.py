"""Datasets of several modalities at once, whose samples' values are mappings by the name of the modality's tower."""
