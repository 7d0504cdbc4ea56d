"""Apache httpd: mod_proxy_fcgi, which sends whole paths, and mod_fcgid, which spawns."""

import os
from collections.abc import Sequence
from pathlib import Path

from tests.real.front_ends import FrontEnd, SetUp, Site
from tests.real.http_client import HOST
from tests.real.processes import PrivateProcess, require

__all__ = ["APACHE"]

_MODULES = Path("/usr/lib/apache2/modules")
_LOADED = ("mpm_event", "authz_core", "alias", "dir", "proxy", "proxy_fcgi", "fcgid")


def _host(site: Site, *directives: str) -> str:
    inside = "\n".join(directives)
    return (
        f"Listen 127.0.0.1:{site.port}\n<VirtualHost 127.0.0.1:{site.port}>\n"
        f"ServerName {HOST}\nDocumentRoot {site.root}\n"
        f'<Location "/">\nRequire all granted\nCGIPassAuth On\n</Location>\n'
        f"{inside}\n</VirtualHost>\n"
    )


def _address(site: Site) -> str:
    return f"fcgi://127.0.0.1:{site.upstream.port}"


def _proxy_pass(site: Site) -> str:
    return _host(site, f'ProxyPass "/app/" "{_address(site)}/"')


def _recommended(site: Site) -> str:
    return _host(site, f'ProxyPass "/app/" "{_address(site)}/" enablereuse=on flushpackets=on')


def _match(site: Site) -> str:
    return _host(site, f'ProxyPassMatch "^/app/(.*)$" "{_address(site)}/srv/www/app/$1"')


def _unix(site: Site) -> str:
    return _host(
        site, f'ProxyPass "/app" "unix:{site.upstream.unix}|fcgi://localhost/srv/www/app"'
    )


def _set_handler(site: Site) -> str:
    return _host(
        site,
        f'<Proxy "{_address(site)}">\nProxySet enablereuse=on flushpackets=on\n</Proxy>',
        f'<Location "/app">\nSetHandler "proxy:{_address(site)}"\n</Location>',
    )


def _fcgid(site: Site) -> str:
    return _host(
        site,
        f'Alias "/app" "{site.launcher}"',
        f'<Directory "{site.launcher.parent}">\nOptions +ExecCGI\nSetHandler fcgid-script\n'
        "</Directory>",
    )


def _access_checker(site: Site) -> str:
    return _host(
        site,
        f'<Directory "{site.root}">\nFcgidAccessChecker {site.launcher}\n'
        "FcgidAccessCheckerAuthoritative On\nRequire all granted\n</Directory>",
    )


def _scripts(site: Site) -> str:
    return _host(
        site, f'<FilesMatch "\\.py$">\nSetHandler "proxy:{_address(site)}"\n</FilesMatch>'
    )


def _as_ordinary_user() -> list[str]:
    """What to put before the command when the tests run as root.

    httpd will not serve as root, and changes to another user by itself, who then could
    neither reach the tests' files nor, with mod_fcgid, run their Python. So it is started
    as that user, with the one capability that gets it past file modes.
    """
    if os.geteuid() != 0:
        return []
    return [
        require("setpriv"),
        "--reuid=www-data",
        "--regid=www-data",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
    ]


def _start(directory: Path, sites: Sequence[Site]) -> PrivateProcess:
    binary = require("apache2")
    error_log = directory / "apache-error.log"
    modules = "".join(f"LoadModule {name}_module {_MODULES}/mod_{name}.so\n" for name in _LOADED)
    configuration = directory / "apache.conf"
    configuration.write_text(
        f"ServerRoot {directory}\nServerName {HOST}\nPidFile {directory}/apache.pid\n"
        f"DefaultRuntimeDir {directory}\nMutex file:{directory} default\n{modules}"
        # With KeepAlive, Apache shows that a reply was cut only when it gives up waiting for
        # the client's next request.
        f"ErrorLog {error_log}\nLogLevel warn\nTimeout 60\nKeepAlive Off\n"
        f"StartServers 1\nServerLimit 2\nThreadsPerChild 32\nMaxRequestWorkers 64\n"
        f"FcgidIPCDir {directory}/fcgid\nFcgidProcessTableFile {directory}/fcgid.shm\n"
        "FcgidMaxRequestLen 104857600\nFcgidOutputBufferSize 0\n"
        + "".join(site.set_up.render(site) for site in sites)
    )
    process = PrivateProcess(
        "apache2",
        [*_as_ordinary_user(), binary, "-D", "FOREGROUND", "-f", str(configuration)],
        log=directory / "apache.out",
        more_logs=[error_log],
    )
    process.wait_listening(("127.0.0.1", site.port) for site in sites)
    return process


APACHE = FrontEnd(
    "apache",
    (
        SetUp("apache-proxypass", _proxy_pass, prefix="/app", mount="/app"),
        SetUp("apache-recommended", _recommended, prefix="/app", mount="/app"),
        SetUp("apache-match", _match, prefix="/app", mount="/app"),
        SetUp("apache-unix", _unix, prefix="/app", mount="/app"),
        SetUp("apache-sethandler", _set_handler, prefix="/app", mount="/app"),
        SetUp("apache-fcgid", _fcgid, prefix="/app", spawned=True),
        SetUp("apache-access-checker", _access_checker, apps=("authorizer",), spawned=True),
        SetUp("apache-scripts", _scripts, apps=("scripts",)),
    ),
    _start,
)
