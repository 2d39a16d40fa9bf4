"""One framework each: how its types become nodes and leaves."""
