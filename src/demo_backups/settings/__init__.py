"""The settings: their values, their model, and how they are read."""
