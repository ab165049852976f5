"""All benchmarks by one command, their results kept, and the page that is made of them."""
