// rope.wgsl: rotates pairs of each head in place: (a, b) -> (a cos - b sin, a sin + b cos), cos and sin from rope_table.wgsl.
// dst (rows, heads * head_dim) f32, table (rows, half). The first 2 * half dims of a head turn: pairs (i, i + half) if neox,
// else (2i, 2i + 1). One thread per pair.

struct Params {
    rows: u32,
    heads: u32,
    head_dim: u32,
    half: u32,
    neox: u32,
}

@group(0) @binding(0) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> dst: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = linear_workgroup(group, groups) * 64u + lane;
    let row = index / (p.heads * p.half);
    if (row >= p.rows) { return; }
    let i = index % p.half;
    let head = (index / p.half) * p.head_dim; // heads of all rows stand behind each other
    let at = head + select(2u * i, i, p.neox == 1u);
    let other = select(at + 1u, at + p.half, p.neox == 1u);
    let turn = table[row * p.half + i];
    let a = dst[at];
    let b = dst[other];
    dst[at] = a * turn.x - b * turn.y;
    dst[other] = a * turn.y + b * turn.x;
}
