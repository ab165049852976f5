"""What layerstore says of itself: version, doctor, completion, the shapes of its reports."""
