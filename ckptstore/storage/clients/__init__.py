"""One module for each store: each call of a client sends one request, once."""
