"""A web application that shows the notes of a directory."""

import os
from pathlib import Path

from flask import Flask

app = Flask(__name__)
NOTES = Path("/var/lib/notes")


@app.get("/")
def all_notes() -> dict[str, object]:
    """Return every note by its file's name."""
    notes = {path.name: path.read_text() for path in sorted(NOTES.iterdir())}
    return {"version": os.environ["NOTES_VERSION"], "notes": notes}
