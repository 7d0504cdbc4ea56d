"""A control server, asked over HTTP as a scraper does."""

import http.client
import json
from contextlib import closing
from typing import Any

import attrs
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Control"]

_PATIENCE = 20.0


@attrs.frozen
class Control:
    """The control server at a TCP port of this machine."""

    port: int

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Status and body of an answer."""
        with closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)
        ) as made:
            made.request(method, path, headers=headers or {})
            response = made.getresponse()
            return response.status, response.read().decode()

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            return self.ask("GET", "/health")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path: str) -> Any:
        """The JSON of an answer that has to be well."""
        status, body = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)

    def post(self, path: str) -> Any:
        """The same for a change."""
        status, body = self.ask("POST", path)
        assert status == 200, body
        return json.loads(body)

    def totals(self) -> dict[str, Any]:
        """Of ``/status``."""
        found: dict[str, Any] = self.get("/status")["totals"]
        return found

    def counters(self) -> dict[str, float]:
        """Everything in ``/metrics`` that may only grow, by its name and labels."""
        status, text = self.ask("GET", "/metrics")
        assert status == 200, text
        return {
            f"{sample.name} {sorted(sample.labels.items())}": sample.value
            for family in text_string_to_metric_families(text)
            if family.type in ("counter", "histogram")
            for sample in family.samples
        }
