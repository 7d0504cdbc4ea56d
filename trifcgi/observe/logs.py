"""The log: how records of the ``trifcgi`` loggers become lines on stderr.

Whatever a peer sent can stand in a message. In text, line breaks in it are followed by
an indent and other control characters are escaped, so that nobody can forge a line or
send a terminal commands; in JSON all of it is escaped anyway.
"""

import datetime as dt
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Final, TextIO

__all__ = ["JSONFormatter", "LogHandler", "TextFormatter", "keep_logging", "set_up_logs"]

_LOGGER: Final = "trifcgi"
_INDENT: Final = "\n    "

_RESET: Final = "\x1b[0m"
_DIM: Final = "\x1b[2m"
_COLOURS: Final = (
    (logging.ERROR, "\x1b[31m"),
    (logging.WARNING, "\x1b[33m"),
    (logging.INFO, "\x1b[32m"),
)

# C0 without tab and newline, DEL, C1, and the characters that turn the direction of text
# or break lines in some viewers.
_CONTROLS: Final = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}


def _escaped(match: "re.Match[str]") -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _encodable(text: str) -> str:
    r"""``text`` with undecodable bytes (surrogateescape) spelled as ``\xNN``."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def _short(name: str) -> str:
    return name.removeprefix(_LOGGER + ".")


class TextFormatter(logging.Formatter):
    """``2026-01-31 12:34:56.789 INFO    server: message``, in local time.

    Args:
        colour: use a terminal's colours.
    """

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        time = self.formatTime(record, "%Y-%m-%d %H:%M:%S") + f".{int(record.msecs):03}"
        level = f"{record.levelname:<7}"
        if self._colour:
            time = f"{_DIM}{time}{_RESET}"
            level = f"{_colour_of(record.levelno)}{level}{_RESET}"
        text = "\n".join(filter(None, (record.getMessage(), *self._details(record))))
        text = _CONTROLS.sub(_escaped, _encodable(text)).replace("\n", _INDENT)
        return f"{time} {level} {_short(record.name)}: {text}"

    def _details(self, record: logging.LogRecord) -> list[str]:
        details = [record.exc_text] if record.exc_text else []
        if record.exc_info and not details:
            details.append(self.formatException(record.exc_info))
        if record.stack_info:
            details.append(self.formatStack(record.stack_info))
        return details


def _colour_of(level: int) -> str:
    return next((colour for least, colour in _COLOURS if level >= least), _DIM)


class JSONFormatter(logging.Formatter):
    """An object a line: ``time`` (UTC, ISO 8601), ``level``, ``logger``, ``message``.

    An exception becomes ``exception``, a stack ``stack``; what the caller gave as
    ``extra`` stands beside them. Only ASCII, so that it is valid JSON whatever bytes a
    peer sent.
    """

    def format(self, record: logging.LogRecord) -> str:
        time = dt.datetime.fromtimestamp(record.created, dt.UTC)
        fields: dict[str, object] = {
            name: value if isinstance(value, (int, float, bool)) or value is None else str(value)
            for name, value in vars(record).items()
            if name not in _STANDARD
        }
        fields |= {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        return json.dumps(
            {
                name: _encodable(value) if isinstance(value, str) else value
                for name, value in fields.items()
            }
        )


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes to a stream; a stream that fails loses the line and nothing else.

    A log on a full disk or a closed pipe must not turn into tracebacks in the middle of
    a request, so what cannot be written is counted. The first line after that says how many there
    were.

    Attributes:
        lost: lines that could not be written.
    """

    def __init__(self, stream: TextIO, formatter: logging.Formatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self.lost = 0
        self._told = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, after one about those that are missing."""
        if self.lost > self._told:
            missing = self._missing()
            try:
                # The last one may have been cut in the middle.
                self.stream.write(f"\n{self.format(missing)}{self.terminator}")
                self.flush()
            except (OSError, ValueError):
                self.lost += 1
                return
            self._told = self.lost
        super().emit(record)

    def _missing(self) -> logging.LogRecord:
        text = "the log can be written again; lines lost: %d"
        number = self.lost - self._told
        record = logging.LogRecord(_LOGGER, logging.WARNING, "", 0, text, (number,), None)
        self.filter(record)  # which may say whose line it is
        return record

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if isinstance(sys.exc_info()[1], (OSError, ValueError)):  # ValueError: closed stream
            self.lost += 1
        else:
            super().handleError(record)  # a mistake in a logging call shows itself


def set_up_logs(level: str, format: str, *, stream: TextIO | None = None) -> None:
    """Send the ``trifcgi`` loggers' records to ``stream``, and nobody else's.

    The application's own logging set-up is left to it. While it has none, its warnings
    and errors come out in the same format: the handler also takes the place of
    ``logging.lastResort``, which any set-up of the application's overrides.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        format: ``text`` or ``json``.
        stream: stderr by default. Text is coloured where it is a terminal.
    """
    stream = sys.stderr if stream is None else stream
    if stream is None:  # the process was started without one
        stream = Path(os.devnull).open("w")  # noqa: SIM115 (for as long as the process lives)
    formatter = JSONFormatter() if format == "json" else TextFormatter(colour=stream.isatty())
    handler = LogHandler(stream, formatter)
    logger = logging.getLogger(_LOGGER)
    for old in logger.handlers[:]:
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False
    others = LogHandler(stream, formatter)
    others.setLevel(logging.WARNING)
    logging.lastResort = others
    keep_logging()


def keep_logging() -> None:
    """Turn the ``trifcgi`` loggers on again after an application's set-up turned them off.

    ``logging.config.dictConfig`` disables every logger it is not told of, unless it is
    told not to. To be called once the application is loaded, and once it has started.
    """
    for name, logger in logging.Logger.manager.loggerDict.items():
        ours = name == _LOGGER or name.startswith(_LOGGER + ".")
        if ours and isinstance(logger, logging.Logger):
            logger.disabled = False
