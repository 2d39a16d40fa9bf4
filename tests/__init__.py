"""The tests of ckptstore, by what they test; `support` holds what they share."""
