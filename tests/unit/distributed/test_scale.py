"""The plan of a large cluster, on a small one: `make show-scale` prints the large one."""

from __future__ import annotations

import pytest

from benchmarks import scale
from benchmarks.scale import Mesh

LAYERS, HOSTS = 2, 16


@pytest.mark.ci
def test_the_plan_of_a_cluster_is_made_by_the_code_of_a_save_and_of_a_load() -> None:
    for name, mesh in scale.layouts(HOSTS, 4, LAYERS).items():
        facts = scale.measure(mesh, LAYERS, scale.stage)
        planned, handed, merged, read = (facts[stage] for stage in scale.STAGES)
        assert planned["leaves"] == (36 if "stacked" in name else 3 * (9 * LAYERS + 3))
        assert handed["most"] <= 1.1 * handed["least"], name
        assert HOSTS * handed["least"] <= planned["total"] <= HOSTS * handed["most"]
        assert HOSTS <= merged["files"] <= 8192 + HOSTS
        assert read["read"] == read["needed"], f"{name}: the same devices read no byte too many"
        # Neighbours are read together, and small arrays of all stand in few files.
        assert read["gets"] <= 1.2 * read["needed"] / (8 << 20) + 2 * read["files"], name
        asked = facts["requests"]
        assert asked["save"]["put"] > handed["puts"] >= planned["total"] / (8 << 20)
        assert asked["restore"]["get"] > HOSTS * read["gets"]
        assert scale.dollars(asked["save"]) > scale.dollars(asked["restore"]) > 0
        tables = scale.lines(name, facts)
        assert [len(row) for row in tables] == [len(head) for head in scale.HEADS_OF_TABLES]


@pytest.mark.process
def test_each_stage_runs_in_a_process_of_its_own() -> None:
    facts = scale.measure(Mesh(2, 2), 1)
    assert facts["read"]["read"] == facts["read"]["needed"] > 0
    assert all(facts[stage]["memory"] > 0 for stage in scale.STAGES)


def test_the_requests_of_an_object_are_counted_as_it_is_sent() -> None:
    assert [scale.puts(nbytes << 20) for nbytes in (1, 8, 9, 128)] == [1, 1, 4, 18]
    waits = scale.looks((0.05, 5.0)), scale.looks((0.05, 2.0)), scale.looks((60.0, 60.0))
    assert waits == (24, 42, 2)
