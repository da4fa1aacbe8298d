"""Ground-truth simulators: each tells and takes its full state and knows when a task is done."""
