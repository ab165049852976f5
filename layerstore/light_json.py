"""JSON without the time that importing ``json`` takes, for commands that run in loops.

``json`` imports ``re`` and compiles six patterns, 3 ms, for what its accelerator then does alone.
Here the accelerator is asked at once. What is wrong with a text is told in the same words, by
``json`` itself; so is everything done where the interpreter has no accelerator.
"""

from __future__ import annotations

from layerstore.light_typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from json import loads as loads

    def dumps(value: object, *, sort_keys: bool = False) -> str:
        """Return a value as JSON in ASCII, as ``json`` does."""
else:
    try:
        from _json import encode_basestring_ascii, make_encoder, make_scanner
    except ImportError:  # not CPython
        from json import dumps, loads
    else:
        _SPACE = " \t\n\r"
        _CONSTANTS = {
            "-Infinity": float("-inf"), "Infinity": float("inf"), "NaN": float("nan"),
        }  # fmt: skip

        class _Usual:
            """What ``json`` asks of its scanner by default."""

            strict = True
            object_hook = object_pairs_hook = None
            parse_float, parse_int = float, int
            parse_constant = _CONSTANTS.__getitem__

        _scan = make_scanner(_Usual)

        def loads(text: str | bytes | bytearray) -> Any:  # noqa: ANN401 -- as json
            """Return what a text says, as ``json`` does.

            Raises:
                ValueError: It is no JSON.
            """
            if isinstance(text, (bytes, bytearray)):
                # As json finds out: only these begin so that is no UTF-8 without a mark.
                if text[:1] in (b"\xef", b"\xff", b"\xfe") or b"\x00" in text[:4]:
                    return _by_json(text)
                text = text.decode("utf-8", "surrogatepass")
            try:
                value, end = _scan(text, len(text) - len(text.lstrip(_SPACE)))
            except (StopIteration, SystemError):
                # The latter where it looks for json's own error, and json is not loaded.
                return _by_json(text)
            return value if not text[end:].strip(_SPACE) else _by_json(text)

        def _by_json(text: str | bytes | bytearray) -> Any:  # noqa: ANN401 -- as json
            import json

            return json.loads(text)

        def _refuse(value: object) -> NoReturn:
            raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")

        def dumps(value: object, *, sort_keys: bool = False) -> str:
            """Return a value as JSON in ASCII, as ``json`` does."""
            encode = make_encoder(
                {}, _refuse, encode_basestring_ascii, None, ": ", ", ", sort_keys, False, True
            )
            if isinstance(value, str):
                return encode_basestring_ascii(value)
            return "".join(encode(value, 0))
