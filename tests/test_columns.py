"""Lists that come as columns are the JSON of their objects."""

from datetime import UTC, datetime, timedelta

import orjson
from hypothesis import given
from hypothesis import strategies as st

from rest_shim import columns

SECONDS = st.integers(0, 10**11)
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text('",\\\n:{}[]')
ROWS = st.lists(st.tuples(TEXT, st.integers(-(2**63), 2**63 - 1), st.booleans(), SECONDS), max_size=5)


@given(ROWS, TEXT, TEXT)
def test_each_object_has_its_values_and_those_that_all_have(
    rows: list[tuple[str, int, bool, int]], first: str, last: str
) -> None:
    keys, sizes, flags, seconds = ([row[number] for row in rows] for number in range(4))
    told = {
        "first": first, "key": keys, "size": sizes, "flag": flags, "at_us": [1_000_000 * each for each in seconds],
        "last": last,
    }  # fmt: skip
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert orjson.loads(orjson.dumps({"data": columns.objects(told)})) == {"data": [
        {"first": first, "key": key, "size": size, "flag": flag,
         "at": (epoch + timedelta(seconds=at)).isoformat().replace("+00:00", "Z"), "last": last}
        for key, size, flag, at in rows
    ]}  # fmt: skip
