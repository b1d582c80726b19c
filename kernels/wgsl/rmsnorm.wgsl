// rmsnorm.wgsl: dst[r][i] = src[r][i] / sqrt(mean(src[r]^2) + eps) * weight[i]. src, dst (rows, width) f32, weight (width,).
//
// One workgroup per row; a thread takes every 256th element, the sums meet in workgroup memory. Two passes over a row that is
// in the cache after the first. With IN_PLACE the row is read from dst (a buffer cannot be bound for reading and writing).
// Few rows leave most of a GPU idle, but the op moves kilobytes: launch time, not bandwidth.

struct Params {
    rows: u32,
    width: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read> src: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> dst: array<f32>;
@group(0) @binding(3) var<uniform> p: Params;

override IN_PLACE: bool = false;
const THREADS = 256u;

var<workgroup> partial: array<f32, 256>;

fn element(at: u32) -> f32 {
    if (IN_PLACE) { return dst[at]; }
    return src[at];
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let row = linear_workgroup(group, groups);
    if (row >= p.rows) { return; }
    let start = row * p.width;
    var squares = 0.0;
    for (var i = lane; i < p.width; i += THREADS) {
        let v = element(start + i);
        squares += v * v;
    }
    partial[lane] = squares;
    for (var step = THREADS / 2u; step > 0u; step >>= 1u) {
        workgroupBarrier();
        if (lane < step) { partial[lane] += partial[lane + step]; }
    }
    workgroupBarrier();
    let scale = 1.0 / sqrt(partial[0] / f32(p.width) + p.eps);
    for (var i = lane; i < p.width; i += THREADS) {
        dst[start + i] = element(start + i) * scale * weight[i];
    }
}
