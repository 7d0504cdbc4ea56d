"""Where scripts/profile puts samples down."""

import subprocess
import sys

import pytest

from tests.speed.profile import Place, locate, purpose

START = "thread (7): MainThread;main (tests/speed/subject.py:133);run (trio/_core/_run.py:2532)"
LOOP = START + ";unrolled_run (trio/_core/_run.py:2866)"
SERVER = LOOP + ";Turns._work (trifcgi/server/turns.py:137)"
CODEC = "(trifcgi/_codec__mypyc.cpython-311-x86_64-linux-gnu.so)"


@pytest.mark.parametrize(
    ("frames", "place"),
    [
        ("", Place("trifcgi/server", "turns.py", "Turns._work")),
        (";dict_get (dictobject.c:9)", Place("trifcgi/server", "turns.py", "Turns._work")),
        (
            ";sock_send (socketmodule.c:4207);sock_call_ex (socketmodule.c:921);send (libc.so.6)",
            Place("system calls", "send", ""),
        ),
        (";gc_collect_main (gcmodule.c:1)", Place("garbage collection", "", "")),
        (";asgi (tests/speed/subject.py:43)", Place("the app", "", "asgi")),
        (";checkpoint (trio/_core/_run.py:3)", Place("trio", "_core/_run.py", "checkpoint")),
        (";Params.get (trifcgi/request.py:13)", Place("trifcgi/request.py", "", "Params.get")),
        (
            f";CPyDef_pairs___decode_pairs {CODEC};PyDict_SetItem (libpython3.11.so.1.0)",
            Place("trifcgi/protocol", "pairs.py", "decode_pairs"),
        ),
        (
            f";CPyDef_meaning___Meaning____address.localalias {CODEC};CPyDict_GetItem {CODEC}",
            Place("trifcgi/cgi", "meaning.py", "Meaning._address"),
        ),
        (
            f";CPyDef_protocol___connection___Connection___receive_data {CODEC}",
            Place("trifcgi/protocol", "connection.py", "Connection.receive_data"),
        ),
        (";select_epoll_poll (selectmodule.c:1598);epoll_wait (libc.so.6)", None),
        (";PyThread_acquire_lock_timed (libpython3.11.so.1.0);0x7f (libc.so.6)", None),
        (";Line.hold (tests/speed/subject.py:60);recv (libc.so.6)", None),
    ],
)  # fmt: skip
def test_a_sample_counts_where_it_belongs(frames: str, place: Place | None) -> None:
    assert locate(SERVER + frames) == place


@pytest.mark.parametrize(
    "stack",
    [
        START,
        LOOP + ";_find_and_load (<frozen importlib._bootstrap>:1178);encode (trifcgi/a.py:1)",
        "thread (7): MainThread;0x7f1bbe44524a (libc.so.6);gc_collect_main (gcmodule.c:1)",
    ],
)
def test_starting_and_ending_is_not_serving(stack: str) -> None:
    assert locate(stack) is None


@pytest.mark.parametrize(
    "work",
    [
        "Crew._work (trifcgi/apps/crew.py:9)",
        "CPyDef_crew___Crew____work (trifcgi/_codec__mypyc.cpython-311-x86_64-linux-gnu.so)",
    ],
)
def test_threads_serve_too(work: str) -> None:
    thread = f"thread (8): Thread-1;{work}"
    assert locate(thread + ";wsgi (tests/speed/subject.py:1)") == Place("the app", "", "wsgi")


def test_files_say_what_they_are_for() -> None:
    assert purpose("trifcgi/protocol", "records.py") == "Records as bytes (§3.3)"
    assert purpose("trio", "_core/_run.py") == ""


@pytest.mark.parametrize(
    ("argument", "status", "said"),
    [("--help", 0, "microseconds of a small request"), ("cobol", 2, "there is no kind 'cobol'")],
)
def test_the_command_line(argument: str, status: int, said: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.speed.profile", argument],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == status
    assert said in result.stdout + result.stderr
