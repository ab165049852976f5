#!/opt/venv/bin/python
"""Print what the model expects at a temperature."""

import json
import sys

import numpy

with open("/srv/model.json") as file:
    model = json.load(file)
expected = numpy.polyval([model["slope"], model["offset"]], float(sys.argv[1]))
print(f"at {sys.argv[1]} degrees: {expected:.0f} sales")
