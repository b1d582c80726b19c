// matvec.wgsl: dst (m, n) = src (m, k) @ weight (n, k)^T for few rows m: decoding. Block type: the file of blocks/ before it.
//
// A thread takes every LANES-th unit (32 columns) of ROWS weight rows: it loads 32 numbers of src once and uses them for four
// rows, so that the cache's bandwidth for src stays behind memory's for weights. LANES threads share rows and add up through
// workgroup memory; 64 / LANES such groups fill the workgroup where rows are short. Lanes load neighbouring 16 bytes. The rows of
// src are the fastest index of workgroups: those that run together read the same weights, from memory once.
// Bound by memory reads on any GPU; 4 rows beat 1, 2 and 8 (fewer loads of src than 2, fewer registers than 8).

struct Params {
    m: u32,
    n: u32,          // rows of this part of the weight
    units: u32,      // k / 32
    row_stride: u32, // of the weight, in vec4<u32>
    dst_stride: u32, // rows of the whole weight
    row0: u32,       // where this part's rows go in dst
}

@group(0) @binding(2) var<storage, read> src: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dst: array<f32>;
@group(0) @binding(4) var<uniform> p: Params;

override LANES: u32 = 64u; // a power of two up to 64
const ROWS = 4u;

var<workgroup> partial: array<vec4<f32>, 64>;

// The unit's 32 numbers of src in the order of its two halves, and the sum of each half.
struct Source {
    x: array<vec4<f32>, 8>,
    sums: vec2<f32>,
}

fn sum4(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

fn load_source(row: u32, unit: u32) -> Source {
    var s: Source;
    let low = row + half_column(unit, 0u);
    let high = row + half_column(unit, 1u);
    for (var i = 0u; i < 4u; i++) {
        s.x[i] = src[low + i];
        s.x[i + 4u] = src[high + i];
    }
    s.sums = vec2<f32>(sum4((s.x[0] + s.x[1]) + (s.x[2] + s.x[3])), sum4((s.x[4] + s.x[5]) + (s.x[6] + s.x[7])));
    return s;
}

fn unit_dot(row: u32, unit: u32, s: ptr<function, Source>) -> f32 {
    let raw = load_unit(row, unit, p.units);
    let a = unit_half(raw, 0u);
    let b = unit_half(raw, 1u);
    let low = sum4(a.q[0] * (*s).x[0] + a.q[1] * (*s).x[1] + a.q[2] * (*s).x[2] + a.q[3] * (*s).x[3]);
    let high = sum4(b.q[0] * (*s).x[4] + b.q[1] * (*s).x[5] + b.q[2] * (*s).x[6] + b.q[3] * (*s).x[7]);
    return a.scale * low + b.scale * high + (a.offset * (*s).sums.x + b.offset * (*s).sums.y);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
    let index = linear_workgroup(group, groups);
    let src_row = index % p.m;
    let lane = thread % LANES;
    let first = ((index / p.m) * (64u / LANES) + thread / LANES) * ROWS;
    // Rows past the end are computed as the last one and not written: all threads reach the barriers.
    let rows = min(vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.n - 1u)) * p.row_stride;
    var acc = vec4<f32>(0.0);
    for (var unit = lane; unit < p.units; unit += LANES) {
        var s = load_source(src_row * p.units * 8u, unit);
        acc += vec4<f32>(unit_dot(rows.x, unit, &s), unit_dot(rows.y, unit, &s), unit_dot(rows.z, unit, &s),
                         unit_dot(rows.w, unit, &s));
    }
    partial[thread] = acc;
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        workgroupBarrier();
        if (lane < step) { partial[thread] += partial[thread + step]; }
    }
    workgroupBarrier();
    if (lane < ROWS && first + lane < p.n) {
        dst[src_row * p.dst_stride + p.row0 + first + lane] = partial[thread - lane][lane];
    }
}
