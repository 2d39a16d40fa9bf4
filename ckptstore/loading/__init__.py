"""From a committed checkpoint to verified values."""
