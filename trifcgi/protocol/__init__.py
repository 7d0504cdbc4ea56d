"""FastCGI 1.0 without I/O: bytes in, events out; both sides of the wire."""
