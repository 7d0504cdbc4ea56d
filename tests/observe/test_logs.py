"""How log records become lines."""

import io
import json
import logging
import logging.config
import re
from collections.abc import Iterator

import pytest

from trifcgi.observe.logs import (
    JSONFormatter,
    LogHandler,
    TextFormatter,
    keep_logging,
    set_up_logs,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    logger = logging.getLogger("trifcgi")
    before = logger.handlers[:], logger.level, logger.propagate, logging.lastResort
    yield
    logger.handlers[:], level, logger.propagate, logging.lastResort = before
    logger.setLevel(level)
    keep_logging()


def record(message: str, *args: object, **kwargs: object) -> logging.LogRecord:
    fields = {"name": "trifcgi.server", "levelno": logging.INFO, "levelname": "INFO"}
    return logging.makeLogRecord({**fields, "msg": message, "args": args, **kwargs})


def failure() -> dict[str, object]:
    try:
        raise ValueError("no\rgood")
    except ValueError as error:
        return {"exc_info": (ValueError, error, error.__traceback__)}


class TestText:
    def test_a_line_has_time_level_logger_and_message(self) -> None:
        line = TextFormatter().format(record("listening on %s", "127.0.0.1:9000"))
        pattern = (
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO    server: listening on 127.0.0.1:9000"
        )
        assert re.fullmatch(pattern, line)

    def test_the_milliseconds_are_padded(self) -> None:
        line = TextFormatter().format(record("x", created=1.007, msecs=7.0))
        assert ".007 " in line

    def test_what_a_peer_sent_forges_no_line_and_commands_no_terminal(self) -> None:
        hostile = "GET /\n2026-01-01 ERROR forged\r\x1b[2J\x07\x9b1m\u202e\u2028"
        line = TextFormatter().format(record("%s", hostile))
        assert line.count("\n") == 1
        assert "\n    2026-01-01 ERROR forged\\x0d\\x1b[2J\\x07\\x9b1m\\u202e\\u2028" in line

    def test_bytes_that_are_not_utf8_are_spelled(self) -> None:
        line = TextFormatter().format(record("%s", b"caf\xe9".decode("utf-8", "surrogateescape")))
        assert line.endswith("caf\\xe9")
        assert TextFormatter().format(record("\ud800")).endswith("\\ud800")

    def test_a_traceback_follows_indented(self) -> None:
        text = TextFormatter().format(record("the app failed", **failure()))
        first, *others = text.split("\n")
        assert first.endswith("the app failed")
        assert others[0] == "    Traceback (most recent call last):"
        assert others[-1] == "    ValueError: no\\x0dgood"

    def test_colour_is_for_terminals(self) -> None:
        for stream, coloured in ((Terminal(), True), (io.StringIO(), False)):
            set_up_logs("info", "text", stream=stream)
            logging.getLogger("trifcgi.server").error("x")
            assert ("\x1b[31mERROR" in stream.getvalue()) is coloured
            assert ("\x1b" in stream.getvalue()) is coloured


class TestJSON:
    def test_a_line_is_one_object(self) -> None:
        line = JSONFormatter().format(record("request %d", 7, created=0.5, peer="1.2.3.4"))
        assert json.loads(line) == {
            "time": "1970-01-01T00:00:00.500Z",
            "level": "info",
            "logger": "trifcgi.server",
            "message": "request 7",
            "peer": "1.2.3.4",
        }

    def test_hostile_bytes_are_escaped(self) -> None:
        line = JSONFormatter().format(record('"\n\x1b\u2028%s', "\udce9\ud800"))
        assert line.isascii()
        assert line.isprintable()
        assert json.loads(line)["message"] == '"\n\x1b\u2028\\udce9\\ud800'

    def test_an_exception_is_a_field(self) -> None:
        fields = json.loads(JSONFormatter().format(record("failed", **failure())))
        assert fields["message"] == "failed"
        assert fields["exception"].startswith("Traceback (most recent call last):\n")
        assert fields["exception"].endswith("ValueError: no\rgood")

    def test_an_extra_cannot_take_the_place_of_the_message(self) -> None:
        odd = record("real", level="forged", time="forged", values=[1, {2}], ok=True, none=None)
        fields = json.loads(JSONFormatter().format(odd))
        assert (fields["message"], fields["level"]) == ("real", "info")
        assert fields["values"] == "[1, {2}]"
        assert fields["ok"] is True
        assert fields["none"] is None


class TestSetUp:
    def test_the_level_counts(self) -> None:
        stream = io.StringIO()
        set_up_logs("warning", "text", stream=stream)
        logging.getLogger("trifcgi.server").info("quiet")
        logging.getLogger("trifcgi.server").warning("loud")
        assert "quiet" not in stream.getvalue()
        assert "loud" in stream.getvalue()

    def test_a_second_one_replaces_the_first(self) -> None:
        first, second = io.StringIO(), io.StringIO()
        set_up_logs("info", "text", stream=first)
        set_up_logs("info", "json", stream=second)
        logging.getLogger("trifcgi").info("once")
        assert first.getvalue() == ""
        assert json.loads(second.getvalue())["message"] == "once"

    def test_the_root_logger_is_left_to_the_application(self) -> None:
        before = logging.getLogger().handlers[:]
        set_up_logs("info", "text", stream=io.StringIO())
        assert logging.getLogger().handlers == before

    def test_warnings_of_an_application_without_logging_come_in_our_format(self) -> None:
        stream = io.StringIO()
        set_up_logs("info", "json", stream=stream)
        shop = logging.Logger("shop")  # noqa: LOG001 - stands apart from pytest's handlers
        shop.info("quiet")
        shop.warning("stock is low")
        assert json.loads(stream.getvalue())["message"] == "stock is low"

    def test_loggers_that_an_application_disabled_are_enabled_again(self) -> None:
        stream = io.StringIO()
        set_up_logs("info", "text", stream=stream)
        logger = logging.getLogger("trifcgi.server")
        logger.disabled = True  # as dictConfig does to every logger it is not told of
        keep_logging()
        logger.info("still here")
        assert "still here" in stream.getvalue()

    def test_a_stream_that_fails_loses_the_line_only(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Full(io.StringIO):
            def write(self, text: str) -> int:
                raise OSError(28, "No space left on device")

        handler = LogHandler(Full(), TextFormatter())
        handler.handle(record("x"))
        handler.handle(record("y"))
        assert handler.lost == 2
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("form", [TextFormatter, JSONFormatter])
    def test_one_that_can_be_written_again_says_how_many_lines_are_missing(
        self, form: type[logging.Formatter]
    ) -> None:
        class Disk(io.StringIO):
            room = 0

            def write(self, text: str) -> int:
                super().write(text[: self.room])
                if len(text) > self.room:
                    self.room = 0
                    raise OSError(28, "No space left on device")
                return len(text)

        stream = Disk()
        stream.room = 10
        handler = LogHandler(stream, form())
        for _ in range(3):
            handler.handle(record("x"))
        stream.room = 9999
        for text in ("y", "z"):
            handler.handle(record(text))
        torn, missing, *rest = stream.getvalue().splitlines()
        assert len(torn) == 10
        assert "the log can be written again; lines lost: 3" in missing
        assert [text in line for text, line in zip("yz", rest, strict=True)] == [True, True]

    def test_a_mistake_in_a_logging_call_shows_itself(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        handler = LogHandler(io.StringIO(), TextFormatter())
        handler.handle(record("%d", "seven"))
        assert "TypeError" in capsys.readouterr().err
