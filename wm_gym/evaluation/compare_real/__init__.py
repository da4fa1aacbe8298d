"""Success of policies in a world model against their success in the simulator."""
