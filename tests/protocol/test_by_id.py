"""What a connection keeps by request ID."""

from hypothesis import given
from hypothesis import strategies as st

from trifcgi.protocol.active import ByID


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans())))
def test_it_keeps_what_a_dictionary_would(steps: list[tuple[int, bool]]) -> None:
    kept: ByID[object] = ByID()
    plain: dict[int, object] = {}
    for request_id, there in steps:
        if there and request_id not in plain:
            plain[request_id] = object()
            kept.put(request_id, plain[request_id])
        elif not there and request_id in plain:
            del plain[request_id]
            kept.remove(request_id)
        assert [kept.get(i) for i in range(6)] == [plain.get(i) for i in range(6)]
        assert sorted(map(id, kept.values())) == sorted(map(id, plain.values()))
        assert len(kept) == len(plain)
        assert bool(kept) == bool(plain)


def test_there_is_never_anything_for_the_null_id() -> None:
    assert ByID[object]().get(0) is None
