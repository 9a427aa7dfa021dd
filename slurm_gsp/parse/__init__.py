"""Pure parsers: bytes or text in, values out; any input gives a value or a ParseError."""


class ParseError(ValueError):
    """The input is not what it should be; the message says what was wrong and where."""
