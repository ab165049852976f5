"""A page that says where it runs."""

import socket

from flask import Flask

app = Flask(__name__)


@app.get("/")
def index() -> str:
    return f"hello from {socket.gethostname()}\n"
