"""From a tree to a committed checkpoint."""
