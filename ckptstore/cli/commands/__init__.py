"""One command a file, each with its arguments and what it prints."""
