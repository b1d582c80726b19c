// embed.wgsl: dst[r] = the row tokens[r] of a weight, dequantized. dst (rows, cols) f32.
//
// One thread for half a unit, 16 elements. A weight may be split over several bindings: a dispatch writes the rows it holds.
// Ids past the whole weight give zeros (written by the first part), so nothing of an earlier step stays behind.
// Reads rows * cols weights, no more than a decode step's smallest op: no tuning.

struct Params {
    rows: u32,       // of dst
    cols: u32,
    units: u32,      // per weight row
    row_stride: u32, // of the weight, in vec4<u32>
    row0: u32,       // first weight row of this part
    part_rows: u32,
    total_rows: u32,
}

@group(0) @binding(2) var<storage, read> tokens: array<u32>;
@group(0) @binding(3) var<storage, read_write> dst: array<f32>;
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = linear_workgroup(group, groups) * 64u + lane;
    let halves = 2u * p.units;
    let r = index / halves;
    if (r >= p.rows) { return; }
    let unit = (index % halves) >> 1u;
    let half = index & 1u;
    let token = tokens[r];
    let missing = token >= p.total_rows && p.row0 == 0u;
    if (!missing && (token < p.row0 || token - p.row0 >= p.part_rows)) { return; }
    var values = unit_half(load_unit((token - p.row0) * p.row_stride, unit, p.units), half);
    let column = 4u * half_column(unit, half);
    for (var i = 0u; i < 16u; i++) {
        let w = select(values.q[i >> 2u][i & 3u] * values.scale + values.offset, 0.0, missing);
        if (column + i < p.cols) { dst[r * p.cols + column + i] = w; }
    }
}
