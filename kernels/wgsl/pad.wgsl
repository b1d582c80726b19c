// pad.wgsl: dst (rows, padded) = src (rows, cols), zeros behind. For weights whose columns are no multiple of a unit (float types
// only): their rows are padded, so src must be. One thread per element.

struct Params {
    rows: u32,
    cols: u32,
    padded: u32,
}

@group(0) @binding(0) var<storage, read> src: array<f32>;
@group(0) @binding(1) var<storage, read_write> dst: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = linear_workgroup(group, groups) * 256u + lane;
    let row = index / p.padded;
    let column = index % p.padded;
    if (row >= p.rows) { return; }
    if (column < p.cols) { dst[index] = src[row * p.cols + column]; } else { dst[index] = 0.0; }
}
