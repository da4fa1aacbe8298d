"""Episodes: Minari datasets, readers of other layouts, and clip sampling."""
