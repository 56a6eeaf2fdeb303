"""Several runs seen together: methods on equal terms, and grids of settings."""
