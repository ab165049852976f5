"""Fit a line through measurements and write its coefficients."""

import json
import sys

import numpy
import pandas

data = pandas.read_csv(sys.argv[1])
slope, offset = numpy.polyfit(data["temperature"], data["sales"], 1)
rest = data["sales"] - (slope * data["temperature"] + offset)
model = {"slope": round(slope, 3), "offset": round(offset, 3), "error": round(rest.std(), 3)}
with open(sys.argv[2], "w") as file:
    json.dump(model, file, sort_keys=True)
print(f"trained on {len(data)} rows: {model}")
