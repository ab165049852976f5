"""Images that come and go: places, which image is meant, taking it in, and sending it out."""
