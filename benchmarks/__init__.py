"""Side-by-side runs against the flat control, a dense version of the same model, and named peers."""
