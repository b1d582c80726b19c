// attention.wgsl: dst[r][h] = softmax(scale * q[r][h] . K) V over the positions row r sees, for paged K and V (kv_store.wgsl).
// q, dst (rows, heads * head_dim) f32; query head h reads KV head h / (heads / heads_kv). A row at position x sees (x - window, x],
// or all up to x if window is 0. With softcap, scores become softcap * tanh(score / softcap).
//
// One workgroup of 64 threads per row and head walks the positions in tiles of 64, flash style: with m the largest score so far
// and s the sum of exp(score - m), a tile that raises m first shrinks the sums by exp(m_old - m_new). Scores: a thread per
// position. Values: a thread per pair of dims (up to 4 pairs), so that a row of V is read by neighbours.
// Head dims up to 512. Sessions lie in segments (8 words: row0, rows, pos0, kv type, first page, pages, unused x 2); rows of
// segments of another kv type are left alone.

struct Params {
    rows: u32,
    heads: u32,
    heads_kv: u32,
    head_dim: u32,
    window: u32,
    kv_type: u32,
    scale: f32,
    softcap: f32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k_pool: array<u32>;
@group(0) @binding(2) var<storage, read> v_pool: array<u32>;
@group(0) @binding(3) var<storage, read> page_table: array<u32>;
@group(0) @binding(4) var<storage, read> segments: array<u32>;
@group(0) @binding(5) var<storage, read> row_segment: array<u32>;
@group(0) @binding(6) var<storage, read_write> dst: array<f32>;
@group(0) @binding(7) var<uniform> p: Params;

override KV_F32: bool = false;
const THREADS = 64u;
const LOWEST = -3.0e38;

var<workgroup> query: array<vec2<f32>, 256>;
var<workgroup> scores: array<f32, 64>;

fn k_pair(at: u32) -> vec2<f32> {
    if (KV_F32) { return vec2<f32>(bitcast<f32>(k_pool[2u * at]), bitcast<f32>(k_pool[2u * at + 1u])); }
    return unpack2x16float(k_pool[at]);
}

fn v_pair(at: u32) -> vec2<f32> {
    if (KV_F32) { return vec2<f32>(bitcast<f32>(v_pool[2u * at]), bitcast<f32>(v_pool[2u * at + 1u])); }
    return unpack2x16float(v_pool[at]);
}

// Where the vector of a position starts in the pools, in pairs.
fn vector_at(page0: u32, position: u32, head_kv: u32, pairs: u32) -> u32 {
    return ((page_table[page0 + position / 16u] * p.heads_kv + head_kv) * 16u + position % 16u) * pairs;
}

fn score(at: u32, pairs: u32) -> f32 {
    var sum = vec2<f32>(0.0);
    for (var i = 0u; i < pairs; i++) { sum += query[i] * k_pair(at + i); }
    let scaled = (sum.x + sum.y) * p.scale;
    if (p.softcap == 0.0) { return scaled; }
    return p.softcap * tanh(clamp(scaled / p.softcap, -15.0, 15.0)); // past 15 tanh is 1, and overflows on some devices
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = linear_workgroup(group, groups);
    let row = index / p.heads;
    if (row >= p.rows) { return; }
    let segment = row_segment[row] * 8u;
    if (segments[segment + 3u] != p.kv_type) { return; }
    let head = index % p.heads;
    let head_kv = head / (p.heads / p.heads_kv);
    let last = segments[segment + 2u] + row - segments[segment];
    let page0 = segments[segment + 4u];
    let first = select(0u, last + 1u - p.window, p.window != 0u && last >= p.window);
    let pairs = (p.head_dim + 1u) / 2u;
    let start = (row * p.heads + head) * p.head_dim;
    for (var i = lane; i < pairs; i += THREADS) {
        query[i] = vec2<f32>(q[start + 2u * i], select(0.0, q[start + 2u * i + 1u], 2u * i + 1u < p.head_dim));
    }
    var acc: array<vec2<f32>, 4>;
    var most = LOWEST;
    var total = 0.0;
    for (var tile = first; tile <= last; tile += THREADS) {
        workgroupBarrier();
        let position = tile + lane;
        var own = LOWEST;
        if (position <= last) { own = score(vector_at(page0, position, head_kv, pairs), pairs); }
        scores[lane] = own;
        workgroupBarrier();
        let before = most;
        for (var i = 0u; i < THREADS; i++) { most = max(most, scores[i]); }
        let shrink = exp(before - most);
        workgroupBarrier();
        scores[lane] = select(0.0, exp(own - most), position <= last);
        workgroupBarrier();
        total *= shrink;
        for (var j = 0u; j < 4u; j++) { acc[j] *= shrink; }
        for (var i = 0u; i < min(THREADS, last + 1u - tile); i++) {
            let weight = scores[i];
            total += weight;
            let at = vector_at(page0, tile + i, head_kv, pairs);
            for (var j = 0u; j * THREADS + lane < pairs; j++) { acc[j] += weight * v_pair(at + j * THREADS + lane); }
        }
    }
    for (var j = 0u; j * THREADS + lane < pairs; j++) {
        let i = 2u * (j * THREADS + lane);
        dst[start + i] = acc[j].x / total;
        if (i + 1u < p.head_dim) { dst[start + i + 1u] = acc[j].y / total; }
    }
}
