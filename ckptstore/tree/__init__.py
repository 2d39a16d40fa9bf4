"""Between Python objects and the flat table of nodes."""
