"""nginx before the contenders."""

import contextlib
import os
import socket
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from .contenders import HELLO_PHP, Contender, find_program
from .processes import Running

__all__ = ["behind_nginx"]

# fastcgi_params of nginx 1.22 as Debian ships it, so that it need not lie in /etc/nginx.
_PARAMS = {
    "QUERY_STRING": "$query_string",
    "REQUEST_METHOD": "$request_method",
    "CONTENT_TYPE": "$content_type",
    "CONTENT_LENGTH": "$content_length",
    "SCRIPT_NAME": "$fastcgi_script_name",
    "REQUEST_URI": "$request_uri",
    "DOCUMENT_URI": "$document_uri",
    "DOCUMENT_ROOT": "$document_root",
    "SERVER_PROTOCOL": "$server_protocol",
    "REQUEST_SCHEME": "$scheme",
    "GATEWAY_INTERFACE": "CGI/1.1",
    "SERVER_SOFTWARE": "nginx/$nginx_version",
    "REMOTE_ADDR": "$remote_addr",
    "REMOTE_PORT": "$remote_port",
    "REMOTE_USER": "$remote_user",
    "SERVER_ADDR": "$server_addr",
    "SERVER_PORT": "$server_port",
    "SERVER_NAME": "$server_name",
    "REDIRECT_STATUS": "200",
    "SCRIPT_FILENAME": str(HELLO_PHP),
}


def _site(number: int, contender: Contender, sock: Path, port: int) -> str:
    if contender.protocol == "fastcgi":
        params = "".join(f"fastcgi_param {name} '{value}'; " for name, value in _PARAMS.items())
        inside = f"{params}fastcgi_keep_conn on; fastcgi_pass upstream{number};"
    else:
        inside = (
            "proxy_http_version 1.1; proxy_set_header Connection ''; "
            f"proxy_pass http://upstream{number};"
        )
    return (
        f"upstream upstream{number} {{ server unix:{sock}; keepalive 64;"
        " keepalive_requests 1000000000; }\n"
        f"server {{ listen 127.0.0.1:{port}; keepalive_requests 1000000000;"
        f" location / {{ {inside} }} }}\n"
    )


@contextlib.contextmanager
def behind_nginx(
    sockets: Mapping[str, tuple[Contender, Path]], directory: Path, chosen: Collection[int]
) -> Iterator[dict[str, str]]:
    """One nginx before all these contenders.

    Args:
        sockets: the contenders and their sockets, by any names.
        directory: for its files.
        chosen: the cores that it runs on.

    Yields:
        Its addresses, by the same names; none where there is no nginx.
    """
    program = find_program("nginx")
    if program is None or not sockets:
        yield {}
        return
    addresses = {}
    sites = ""
    for number, (name, (contender, sock)) in enumerate(sockets.items()):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        addresses[name] = f"127.0.0.1:{port}"
        sites += _site(number, contender, sock, port)
    temporary = "".join(
        f"{module}_temp_path {directory}/{module};\n"
        for module in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = directory / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    configuration.write_text(
        f"daemon off; {user} worker_processes 1; pid {directory}/nginx.pid;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; default_type text/plain;\n{temporary}{sites}}}\n"
    )
    log = directory / "nginx.log"
    log.touch()
    command = [program, "-e", str(log), "-p", str(directory), "-c", str(configuration)]
    nginx = Running("nginx", command, log, chosen)
    try:
        for address in addresses.values():
            nginx.wait_for(("127.0.0.1", int(address.rpartition(":")[2])))
        yield addresses
    finally:
        nginx.stop()
