"""Commands of `wm-gym` that are no more than a view of the library."""
