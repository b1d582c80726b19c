"""A short run of the crowd (canaries.py); the long one is `python3 -m realm_build isolation`."""

from __future__ import annotations

from tests.isolation import canaries

REQUESTS = 1500


def test_nothing_of_a_tenant_reaches_another() -> None:
    report = canaries.Crowd(REQUESTS, seed=7).run()
    assert not report.failures, str(report)
    assert report.requests == REQUESTS
    counts = report.counts
    for kind in canaries.KINDS:
        assert counts[kind] > 0 or kind == "loop", str(report)  # loops are rare: each costs a time limit
    assert counts["error none"] > REQUESTS // 2, str(report)
    assert {"error guest-trap", "error limit-exceeded (deadline)"} <= set(counts), str(report)
    assert report.kv_bytes_used > canaries.KV_BYTES * 3 // 4  # pages had to be evicted
