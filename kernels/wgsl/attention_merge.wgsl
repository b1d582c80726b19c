// attention_merge.wgsl: the sums of attention.wgsl's parts -> dst (rows, heads * head_dim). A part left, for each row and head, head_dim
// sums of exp(score - m) v, the largest score m and the sum s of exp(score - m): with M the largest m,
// dst = sum(exp(m - M) sums) / sum(exp(m - M) s). One workgroup of 64 threads per row and head, a thread per dim; some kilobytes.

struct Params {
    rows: u32,
    heads: u32,
    head_dim: u32,
    splits: u32,
    kv_type: u32,
}

@group(0) @binding(0) var<storage, read> parts: array<f32>;
@group(0) @binding(1) var<storage, read> segments: array<u32>;
@group(0) @binding(2) var<storage, read> row_segment: array<u32>;
@group(0) @binding(3) var<storage, read_write> dst: array<f32>;
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let vector = linear_workgroup(group, groups);
    let row = vector / p.heads;
    if (row >= p.rows || segments[row_segment[row] * 8u + 3u] != p.kv_type) { return; }
    let stride = p.head_dim + 2u;
    let first = vector * p.splits * stride;
    var most = -3.0e38;
    for (var s = 0u; s < p.splits; s++) { most = max(most, parts[first + s * stride + p.head_dim]); }
    for (var dim = lane; dim < p.head_dim; dim += 64u) {
        var sum = 0.0;
        var total = 0.0;
        for (var s = 0u; s < p.splits; s++) {
            let at = first + s * stride;
            let weight = exp(parts[at + p.head_dim] - most);
            sum += weight * parts[at + dim];
            total += weight * parts[at + p.head_dim + 1u];
        }
        dst[vector * p.head_dim + dim] = sum / total;
    }
}
