// rope_table.wgsl: table[r][i] = cos and sin of positions[r] * frequency[i]; table (rows, half) of vec2<f32>. Once per batch.
//
// Angles in f32 lose their digits at long contexts, and WGSL promises little of sin and cos. So a frequency comes as a 64-bit
// fraction of a turn per position (turns in kernels.ts): the product modulo a turn is exact in integers, and what is
// left of one eighth of a turn goes through Taylor polynomials, good to the last digits of f32. One thread per pair.

struct Params {
    rows: u32,
    half: u32,
}

@group(0) @binding(0) var<storage, read> positions: array<u32>;
@group(0) @binding(1) var<storage, read> turns: array<vec2<u32>>; // (half,): upper and lower word
@group(0) @binding(2) var<storage, read_write> table: array<vec2<f32>>;
@group(0) @binding(3) var<uniform> p: Params;

fn multiply_high(a: u32, b: u32) -> u32 { // upper word of a * b
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let middle = a1 * b0 + ((a0 * b0) >> 16u);
    let cross = a0 * b1 + (middle & 0xffffu);
    return a1 * b1 + (middle >> 16u) + (cross >> 16u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = linear_workgroup(group, groups) * 64u + lane;
    if (index >= p.rows * p.half) { return; }
    let position = positions[index / p.half];
    let turn = turns[index % p.half];
    let fraction = position * turn.x + multiply_high(position, turn.y); // modulo a turn, in 2^-32 of it
    let quarter = (fraction + 0x20000000u) >> 30u;                      // the nearest quarter turn
    let rest = bitcast<i32>(fraction - (quarter << 30u));               // within an eighth of a turn
    let x = f32(rest) * 1.4629180792671596e-9;                          // 2 pi / 2^32
    let y = x * x;
    let s = x + x * y * (-0.16666667 + y * (0.008333334 + y * (-0.0001984127 + y * 2.7557319e-6)));
    let c = 1.0 + y * (-0.5 + y * (0.041666668 + y * (-0.0013888889 + y * (2.4801587e-5 - y * 2.755732e-7))));
    table[index] = select(select(vec2<f32>(c, s), vec2<f32>(-s, c), quarter == 1u),
                          select(vec2<f32>(-c, -s), vec2<f32>(s, -c), quarter == 3u), quarter >= 2u);
}
