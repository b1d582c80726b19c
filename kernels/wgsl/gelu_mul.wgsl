// gelu_mul.wgsl: dst[i] = gelu(dst[i]) * src[i], gelu(x) = x / 2 * (1 + tanh(sqrt(2 / pi) * x * (1 + 0.044715 x^2))).
// One thread per element.

struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read> src: array<f32>;
@group(0) @binding(1) var<storage, read_write> dst: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

// Past 15 tanh is 1, and overflows on some devices.
fn combined(x: f32, y: f32) -> f32 {
    let inner = 0.7978845608 * x * (1.0 + 0.044715 * x * x);
    return 0.5 * x * (1.0 + tanh(clamp(inner, -15.0, 15.0))) * y;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = linear_workgroup(group, groups) * 256u + lane;
    if (index < p.count) { dst[index] = combined(dst[index], src[index]); }
}
