"""Which source wins, what each option reaches, and which mistakes are told."""

import ipaddress
import math
from pathlib import Path

import attrs
import pytest

from trifcgi.config import (
    LOOPBACK,
    OPTIONS,
    InheritedSocket,
    Source,
    TcpAddress,
    UnixAddress,
    configure,
)
from trifcgi.errors import ConfigurationError
from trifcgi.limits import Limits, Timeouts

# A value for every option, other than its default: as text, and as it is then.
OTHER = {
    "app": ("shop:app", "shop:app"),
    "interface": ("wsgi", "wsgi"),
    "root": ("/srv", "/srv"),
    "mount": ("/shop", "/shop"),
    "threads": ("7", 7),
    "port": ("9001", 9001),
    "host": ("::1", "::1"),
    "unix": ("/run/a.sock", "/run/a.sock"),
    "unix-mode": ("600", 0o600),
    "fd": ("5", 5),
    "allow": ("10.0.0.7", (ipaddress.ip_network("10.0.0.7"),)),
    "workers": ("auto", 0),
    "admin-port": ("9002", 9002),
    "admin-host": ("::1", "::1"),
    "admin-unix": ("/run/control.sock", "/run/control.sock"),
    "admin-token-file": ("/etc/token", "/etc/token"),
    "max-worker-requests": ("13", 13),
    "max-worker-rss": ("1G", 1 << 30),
    "request-timeout": ("31", 31.0),
    "abort-grace": ("1.5", 1.5),
    "read-timeout": ("32", 32.0),
    "write-timeout": ("33", 33.0),
    "keep-alive": ("34", 34.0),
    "grace": ("35", 35.0),
    "hang-timeout": ("36", 36.0),
    "start-timeout": ("45", 45.0),
    "max-connections": ("11", 11),
    "max-requests": ("12", 12),
    "max-params": ("2M", 2 << 20),
    "max-body": ("3M", 3 << 20),
    "access-log": ("/var/log/a.log", "/var/log/a.log"),
    "log-level": ("debug", "debug"),
    "log-format": ("json", "json"),
    "slow-request": ("37", 37.0),
    "daemon": ("on", True),
    "pid-file": ("/run/a.pid", "/run/a.pid"),
    "user": ("www-data", "www-data"),
    "group": ("adm", "adm"),
}
# What an option cannot do without.
COMPANY = {
    "interface": {"app": "shop:app"},
    "unix-mode": {"unix": "/run/a.sock"},
    "admin-host": {"admin-port": "9001"},
    "admin-token-file": {"admin-port": "9001"},
    "max-worker-requests": {"workers": "2"},
    "max-worker-rss": {"workers": "2"},
}


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "shop.toml"


def test_the_options_are_those_of_this_table() -> None:
    assert set(OPTIONS) == set(OTHER)


def test_without_any_source_there_are_the_documented_defaults() -> None:
    configuration = configure({}, environ={})
    assert configuration.limits() == Limits()
    assert configuration.timeouts() == Timeouts()
    assert configuration.listeners() == [TcpAddress("127.0.0.1", 9000)]
    assert configuration.allow == LOOPBACK
    assert (configuration.interface, configuration.threads) == ("auto", 40)
    assert (configuration.root, configuration.unix_mode) == (".", 0o660)
    assert (configuration.log_level, configuration.log_format) == ("info", "text")
    assert (configuration.app, configuration.mount, configuration.access_log) == (None,) * 3
    assert all(configuration.origin(name).source is Source.DEFAULT for name in OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_can_come_from_every_source(name: str, toml: Path) -> None:
    text, value = OTHER[name]
    option = OPTIONS[name]
    company = COMPANY.get(name, {})
    toml.write_text(f'{name} = "{text}"\n')
    for configuration, source in (
        (configure({name: text, **company}, environ={}), Source.COMMAND_LINE),
        (configure(company, environ={option.variable: text}), Source.ENVIRONMENT),
        (configure(company, config=str(toml), environ={}), Source.FILE),
    ):
        assert getattr(configuration, option.attribute) == value
        assert configuration.origin(name).source is source


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(toml: Path) -> None:
    toml.write_text("port = 1\nthreads = 1\nmax-requests = 1\n")
    environ = {"TRIFCGI_PORT": "2", "TRIFCGI_THREADS": "2"}
    configuration = configure({"port": "3"}, config=str(toml), environ=environ)
    assert (configuration.port, configuration.threads, configuration.max_requests) == (3, 2, 1)
    assert [str(configuration.origin(name)) for name in ("port", "threads", "max-requests")] == [
        "--port",
        "TRIFCGI_THREADS",
        f"max-requests in {toml}",
    ]


def test_the_environment_can_name_the_file_and_the_command_line_another(toml: Path) -> None:
    toml.write_text("threads = 3\n")
    other = toml.with_name("other.toml")
    other.write_text("threads = 4\n")
    environ = {"TRIFCGI_CONFIG": str(toml)}
    assert configure({}, environ=environ).threads == 3
    assert configure({}, config=str(other), environ=environ).threads == 4


def test_relative_paths_start_from_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    configuration = configure({"unix": "s.sock"}, environ={})
    monkeypatch.chdir("/")
    assert configuration.unix == "s.sock"
    assert configuration.absolute("s.sock") == f"{tmp_path}/s.sock"
    assert configuration.absolute("../logs/./a") == f"{tmp_path}/../logs/./a"
    assert configuration.absolute("/run/s.sock") == "/run/s.sock"


def test_an_empty_variable_is_an_unset_one() -> None:
    assert configure({}, environ={"TRIFCGI_PORT": "", "TRIFCGI_CONFIG": ""}).port is None


def test_limits_and_timeouts_are_made_of_the_options() -> None:
    configuration = configure(
        {name: text for name, (text, _) in OTHER.items() if name != "root"}, environ={}
    )
    assert configuration.limits() == Limits(
        max_connections=11, max_requests=12, max_params=2 << 20, max_body=3 << 20
    )
    assert configuration.timeouts() == Timeouts(
        request_timeout=31, abort_grace=1.5, read_timeout=32, write_timeout=33,
        keep_alive=34, grace=35,
    )  # fmt: skip


def test_no_limit_or_timeout_is_out_of_the_users_reach() -> None:
    names = {field.name for kind in (Limits, Timeouts) for field in attrs.fields(kind)}
    assert names <= {option.attribute for option in OPTIONS.values()}


def test_toml_numbers_are_taken_as_they_are(toml: Path) -> None:
    toml.write_text(
        "port = 9002\nrequest-timeout = 30\nread-timeout = 0.5\nabort-grace = inf\n"
        'max-body = 1024\nallow = ["10.0.0.7", "10.1.0.0/16"]\n'
    )
    configuration = configure({}, config=str(toml), environ={})
    assert configuration.port == 9002
    assert configuration.timeouts().request_timeout == 30
    assert configuration.read_timeout == 0.5
    assert configuration.abort_grace == math.inf
    assert configuration.max_body == 1024
    assert [str(network) for network in configuration.allow] == ["10.0.0.7/32", "10.1.0.0/16"]


class TestListeners:
    def test_a_port_alone_is_on_loopback_and_a_host_alone_on_the_usual_port(self) -> None:
        assert configure({"port": "0"}, environ={}).listeners() == [TcpAddress("127.0.0.1", 0)]
        assert configure({"host": "::"}, environ={}).listeners() == [TcpAddress("::", 9000)]

    def test_several_are_served_together(self) -> None:
        given = {"port": "9001", "unix": "/run/a.sock", "fd": "7"}
        assert configure(given, environ={}).listeners() == [
            TcpAddress("127.0.0.1", 9001),
            UnixAddress("/run/a.sock"),
            InheritedSocket(7),
        ]

    def test_inherited_ones_replace_the_default_and_join_the_others(self) -> None:
        nothing, port = configure({}, environ={}), configure({"port": "1"}, environ={})
        assert nothing.listeners([0]) == [InheritedSocket(0)]
        assert port.listeners([0]) == [TcpAddress("127.0.0.1", 1), InheritedSocket(0)]

    def test_one_that_is_named_and_inherited_counts_once(self) -> None:
        configuration = configure({"fd": "3"}, environ={})
        assert configuration.listeners([3, 4]) == [InheritedSocket(3), InheritedSocket(4)]


class TestGraceOfASpawnedProcess:
    def test_it_is_short_since_mod_fcgid_kills_after_4_seconds(self) -> None:
        assert configure({}, environ={}).timeouts(spawned=True).grace == 3

    def test_whoever_sets_it_gets_it(self) -> None:
        for configuration in (
            configure({"grace": "30"}, environ={}),
            configure({}, environ={"TRIFCGI_GRACE": "30"}),
        ):
            assert configuration.timeouts(spawned=True).grace == 30


class TestWebServerAddrs:
    def test_it_says_who_may_connect(self) -> None:
        configuration = configure({}, environ={"FCGI_WEB_SERVER_ADDRS": "10.0.0.7,10.0.0.8"})
        assert [str(network) for network in configuration.allow] == ["10.0.0.7/32", "10.0.0.8/32"]
        assert str(configuration.origin("allow")) == "FCGI_WEB_SERVER_ADDRS"

    def test_it_adds_to_what_is_set(self) -> None:
        configuration = configure(
            {"allow": "10.0.0.7"}, environ={"FCGI_WEB_SERVER_ADDRS": "10.0.0.8"}
        )
        assert [str(network) for network in configuration.allow] == ["10.0.0.7/32", "10.0.0.8/32"]
        assert str(configuration.origin("allow")) == "--allow and FCGI_WEB_SERVER_ADDRS"

    def test_nonsense_in_it_is_a_mistake(self) -> None:
        with pytest.raises(ConfigurationError, match="FCGI_WEB_SERVER_ADDRS='here'"):
            configure({}, environ={"FCGI_WEB_SERVER_ADDRS": "here"})


class TestMistakes:
    """Each is one sentence that names the place."""

    def test_in_a_value(self, toml: Path) -> None:
        toml.write_text("port = true\n")
        rule = "will not do: a port is a whole number from 0 to 65535"
        for sources, sentence in (
            (({"port": "x"}, None, {}), f"--port 'x' {rule}"),
            (({}, None, {"TRIFCGI_PORT": "x"}), f"TRIFCGI_PORT='x' {rule}"),
            (({}, str(toml), {}), f"port in {toml}: True {rule}"),
        ):
            command_line, config, environ = sources
            with pytest.raises(ConfigurationError) as caught:
                configure(command_line, config=config, environ=environ)
            assert str(caught.value) == sentence

    def test_in_a_value_that_another_source_overrides(self) -> None:
        with pytest.raises(ConfigurationError, match="TRIFCGI_PORT='x'"):
            configure({"port": "1"}, environ={"TRIFCGI_PORT": "x"})

    @pytest.mark.parametrize(
        ("key", "hint"),
        [
            ("request_timeout", "; did you mean request-timeout?"),
            ("theads", "; did you mean threads?"),
            ("helpers", ""),
            ("config", ""),
            ("trifcgi", ""),
        ],
    )
    def test_unknown_keys(self, key: str, hint: str, toml: Path) -> None:
        toml.write_text(f"{key} = 1\n")
        with pytest.raises(ConfigurationError) as caught:
            configure({}, config=str(toml), environ={})
        assert str(caught.value) == f"{toml}: {key!r} is not an option{hint}"

    def test_the_variable_of_the_build_may_be_left_in_the_environment(self) -> None:
        configure({}, environ={"TRIFCGI_PURE_PYTHON": "1"})

    @pytest.mark.parametrize(
        ("variable", "hint"),
        [
            ("TRIFCGI_GRAZE", "; did you mean TRIFCGI_GRACE?"),
            ("TRIFCGI_CONFIGS", "; did you mean TRIFCGI_CONFIG?"),
            ("TRIFCGI_HELPERS", ""),
            ("TRIFCGI_HTTP", ""),
        ],
    )
    def test_unknown_variables(self, variable: str, hint: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            configure({}, environ={variable: "1"})
        assert (
            str(caught.value)
            == f"the environment variable {variable} is none that trifcgi knows{hint}"
        )

    def test_variables_of_others_are_none_of_ours(self) -> None:
        configure({}, environ={"PATH": "/bin", "_TRIFCGI_COMPLETE": "x", "MY_TRIFCGI_X": "1"})

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
            configure({}, config=str(tmp_path / "none.toml"), environ={})
        with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
            configure({}, config=str(tmp_path), environ={})

    @pytest.mark.parametrize("content", [b"port 9000", b"port = \xff", b"port = 1\nport = 2"])
    def test_a_file_that_is_not_toml(self, content: bytes, toml: Path) -> None:
        toml.write_bytes(content)
        with pytest.raises(ConfigurationError, match="is not TOML: ") as caught:
            configure({}, config=str(toml), environ={})
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            ({"app": "shop:app", "root": "/srv"}, "--root is where scripts are looked for"),
            ({"interface": "asgi"}, "--interface says what an app is, and none is named"),
            ({"unix-mode": "600"}, "--unix-mode needs a Unix socket: add --unix PATH"),
            ({"unix-mode": "600", "port": "1"}, "--unix-mode needs a Unix socket"),
            ({"admin-token-file": "t"}, "--admin-token-file needs a control server: add"),
            ({"max-worker-rss": "1G"}, "--max-worker-rss is about worker processes: add"),
        ],
    )
    def test_options_that_contradict_each_other(
        self, given: dict[str, str], sentence: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=sentence):
            configure(given, environ={})
