"""The commands about images that are in the store: images, history, tag, inspect, pin, rm."""
