// gather.wgsl: dst[r] = src[rows_of[r]]. src (any, width), dst (rows, width) f32. One thread per element.

struct Params {
    rows: u32,
    width: u32,
}

@group(0) @binding(0) var<storage, read> src: array<f32>;
@group(0) @binding(1) var<storage, read> rows_of: array<u32>;
@group(0) @binding(2) var<storage, read_write> dst: array<f32>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = linear_workgroup(group, groups) * 256u + lane;
    let row = index / p.width;
    if (row >= p.rows) { return; }
    dst[index] = src[rows_of[row] * p.width + index % p.width];
}
