"""The record as plain data: a schema with a version, valid JSON, and back."""

from __future__ import annotations

import asyncio
import json
import math

import pytest

from overlapped import Rate, flow
from overlapped.report import Report
from overlapped.report.data import SCHEMA, NotARecord, from_dict, to_dict
from overlapped.testing import virtual
from tests.test_report import failure, make_record, make_stage


@virtual
async def test_a_record_comes_back_from_its_json_as_it_was_but_for_items_and_errors():
    async def fetch(item: int) -> str:
        await asyncio.sleep(0.1 + item % 3 / 10)
        if item % 10 == 3:
            raise ValueError(f"no {item}")
        return f"page {item}"

    record = (await flow(range(40)).map(fetch, rate=Rate(100)).arun(on_failure="keep")).record
    text = json.dumps(to_dict(record), allow_nan=False)
    again = from_dict(json.loads(text))
    assert json.dumps(to_dict(again)) == text
    assert str(Report(again)) == str(Report(record))
    assert again.stages[0].times == record.stages[0].times
    assert again.stages[0].took_s(0.9) == pytest.approx(record.stages[0].took_s(0.9), rel=1e-4)


def test_the_schema_is_named_and_infinity_is_none():
    data = to_dict(make_record(stages=(make_stage(pace_per_s=math.inf),)))
    assert data["schema"] == SCHEMA
    assert data["stages"][0]["pace_per_s"] is None
    assert from_dict(data).stages[0].pace_per_s == math.inf


@pytest.mark.parametrize("wrong", [None, [], {}, {"schema": "other/1"}, {"schema": SCHEMA}, "text"])
def test_something_else_is_refused_with_the_reason(wrong):
    with pytest.raises(NotARecord, match="this record|no record"):
        from_dict(wrong)


def test_a_record_of_a_later_schema_is_refused_and_a_later_field_is_not():
    data = to_dict(make_record())
    with pytest.raises(NotARecord, match=r"overlapped\.run/2"):
        from_dict(data | {"schema": "overlapped.run/2"})
    assert from_dict(data | {"brand_new": 1}).items == 400


def test_items_and_errors_come_back_as_their_text():
    record = make_record(failed=1, failures=(failure({"id": 7}, ValueError("no <b>")),))
    again = from_dict(to_dict(record))
    (kept,) = again.failures
    assert repr(kept.item) == "{'id': 7}"
    assert type(kept.error).__name__ == "ValueError"
    assert str(kept.error) == "no <b>"
