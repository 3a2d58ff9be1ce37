"""Collectives are counted from a program's text, with every iteration of its loops."""

import pytest

from vxlpro_jax.aot.collectives import Collective, collectives

PROGRAM = """\
HloModule jit_step, is_scheduled=true, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner_condition (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%inner (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %reduced = f32[8]{0} all-reduce(%x), channel_id=3, to_apply=%add
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %limit.1 = s32[] constant(7)
  ROOT %lt.1 = pred[] compare(%i, %limit.1), direction=LT
}

%start (p: bf16[2,4]) -> (bf16[2,4], bf16[8,4]) {
  %gathered = bf16[8,4]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=1, dimensions={0}
  ROOT %begun = (bf16[2,4], bf16[8,4], u32[]) custom-call(%gathered)
}

%done (p: bf16[2,4]) -> bf16[8,4] {
  %gathered.1 = bf16[8,4]{1,0} all-gather(%p), channel_id=1, dimensions={0}
  ROOT %ended = bf16[8,4] custom-call(%gathered.1)
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %fusion = (bf16[2,4], bf16[8,4], u32[]) fusion(%p), kind=kCustom, calls=%start
  %fusion.1 = bf16[8,4] fusion(%p), kind=kCustom, calls=%done
  %while.1 = (s32[], f32[8]) while(%t), condition=%inner_condition, body=%inner
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %while.2 = (s32[], f32[8]) while(%t), condition=%condition, body=%body
  %sent = (f32[2]{0}, f32[8]{0}) all-gather-start(%p), channel_id=9, dimensions={0}
  %came = f32[8]{0} all-gather-done(%sent)
  ROOT %moved = f32[8]{0} collective-permute(%came), source_target_pairs={{0,1},{1,0}}
}
"""


def test_collectives_are_counted_by_kind():
    assert collectives(PROGRAM) == {
        "all-gather": Collective(7 + 1, 7 * 64 + 32, (7 * 64 + 32) * 3 // 4, exposed=0),
        "all-reduce": Collective(35, 35 * 32, 35 * 2 * 24, exposed=35 * 2 * 24),
        "collective-permute": Collective(1, 32, 32, exposed=32),
    }


# As XLA for GPUs writes them: separate start and end, several arrays at once, one channel for all.
GPU_PROGRAM = """\
HloModule jit_step, is_scheduled=true, replica_count=1, num_partitions=8

%condition (p: (s32[], f32[8])) -> pred[] {
  ROOT %fusion.1 = pred[] fusion(%i), kind=kLoop, calls=%compare
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %sum-start = f32[8]{0} all-reduce-start(%x), channel_id=1, to_apply=%add
  %sum-done = f32[8]{0} all-reduce-done(%sum-start)
}

ENTRY %main (p.0: bf16[2,4], p.1: f32[8]) -> f32[8] {
  %while.1 = (s32[], f32[8]) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"36"}}
  %gather-start = ((f32[2]{0}, bf16[2,4]{1,0}), (f32[8]{0}, bf16[8,4]{1,0})) all-gather-start(%p.1, %p.0), channel_id=1
  %gather-done = (f32[8]{0}, bf16[8,4]{1,0}) all-gather-done(%gather-start)
  %both-start = (f32[8]{0}, f32[2]{0}) all-reduce-start(%p.1, %p.2), channel_id=1, to_apply=%add
  %both-done = (f32[8]{0}, f32[2]{0}) all-reduce-done(%both-start)
  %part-start = ((f32[8]{0}), f32[2]{0}) reduce-scatter-start(%p.1), channel_id=1, to_apply=%add
  %part-done = f32[2]{0} reduce-scatter-done(%part-start)
  %all-start = ((bf16[8,4]{1,0}), bf16[8,4]{1,0}) all-to-all-start(%p.3), channel_id=1
  ROOT %all-done = bf16[8,4]{1,0} all-to-all-done(%all-start)
}
"""  # noqa: E501


def test_collectives_of_gpus_are_counted_once():
    assert collectives(GPU_PROGRAM) == {
        "all-reduce": Collective(36 + 1, 36 * 32 + 40, 36 * 2 * 28 + 70, exposed=0),
        "all-gather": Collective(1, 32 + 64, 96 * 7 // 8, exposed=0),
        "reduce-scatter": Collective(1, 8, 8 * 7, exposed=0),
        "all-to-all": Collective(1, 64, 64 * 7 // 8, exposed=0),
    }


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("{{0}}", 1),
        ("{}", 8),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 4),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", 8),
        ("mesh['axis_0'=8] {'axis_0':(1)2}", 2),
    ],
)
def test_a_device_sends_what_a_ring_of_its_group_needs(groups, size):
    program = (
        "HloModule x, num_partitions=8\n\nENTRY %main (p: f32[8]) -> f32[64] {\n"
        f"  ROOT %a = f32[64]{{0}} all-gather(%p), channel_id=1, replica_groups={groups}\n}}\n"
    )
    assert collectives(program)["all-gather"].sent == 256 * (size - 1) // size


def test_a_program_without_collectives_has_none():
    assert collectives("ENTRY %main (p: f32[8]) -> f32[8] {\n  ROOT %p = f32[8] p()\n}\n") == {}
    assert collectives("") == {}
