"""Print the words it was given, longest first."""

import sys

print(*sorted(sys.argv[1:], key=len, reverse=True), sep="\n")
