"""One checkpoint: committed once, seen whole, described, collected."""
