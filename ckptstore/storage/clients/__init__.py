"""One module for each store: a client sends one request a call, once."""
