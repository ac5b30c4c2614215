"""The names of the poolings, known before torch modules are built, for configuration."""

from __future__ import annotations

POOLINGS: dict[str, str] = {
    "attention": "the group's own query attends to its tokens",
    "conv": "patch merging: one linear map over the group's tokens",
    "haar": "orthonormal wavelet: the low-pass goes up, details are kept, the inverse is exact",
    "max": "largest value of each channel",
    "mean": "mean of the tokens",
    "select": "the group's first token",
}
