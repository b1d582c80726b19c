// bias.wgsl: dst[r][i] += weight[i]. dst (rows, width), weight (width,) f32. One thread per element.

struct Params {
    count: u32, // rows * width
    width: u32,
}

@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(1) var<storage, read_write> dst: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = linear_workgroup(group, groups) * 256u + lane;
    if (index < p.count) { dst[index] += weight[index % p.width]; }
}
