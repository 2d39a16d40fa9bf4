"""From a Python class to its stored row, and back to the class of today."""
