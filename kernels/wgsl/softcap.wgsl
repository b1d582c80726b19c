// softcap.wgsl: dst[i] = factor * tanh(dst[i] / factor). One thread per element. Past 15 tanh is 1, and overflows on some devices.

struct Params {
    count: u32,
    factor: f32,
}

@group(0) @binding(0) var<storage, read_write> dst: array<f32>;
@group(0) @binding(1) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = linear_workgroup(group, groups) * 256u + lane;
    if (index < p.count) { dst[index] = p.factor * tanh(clamp(dst[index] / p.factor, -15.0, 15.0)); }
}
