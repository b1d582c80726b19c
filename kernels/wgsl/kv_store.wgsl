// kv_store.wgsl: writes K and V rows into their pools. k, v (rows, heads * head_dim) f32; a pool is (pages, heads, 16, vector),
// a vector being head_dim numbers rounded up to an even count: pairs of halves in a word, or f32.
//
// slots[r] = page * 16 + position % 16; ids past the pool (such as 0xffffffff) are skipped: rows of another pool.
// One thread per pair of dims, so that no two threads share a word. Numbers past the halves' range become the largest half:
// an infinity would turn a whole session into NaN.

struct Params {
    rows: u32,
    heads: u32,
    head_dim: u32,
    capacity: u32, // pages * 16
}

@group(0) @binding(0) var<storage, read> k: array<f32>;
@group(0) @binding(1) var<storage, read> v: array<f32>;
@group(0) @binding(2) var<storage, read> slots: array<u32>;
@group(0) @binding(3) var<storage, read_write> k_pool: array<u32>;
@group(0) @binding(4) var<storage, read_write> v_pool: array<u32>;
@group(0) @binding(5) var<uniform> p: Params;

override KV_F32: bool = false;

fn half_pair(pair: vec2<f32>) -> u32 {
    return pack2x16float(clamp(pair, vec2<f32>(-65504.0), vec2<f32>(65504.0)));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = linear_workgroup(group, groups) * 64u + lane;
    let pairs = (p.head_dim + 1u) / 2u;
    let row = index / (p.heads * pairs);
    if (row >= p.rows) { return; }
    let slot = slots[row];
    if (slot >= p.capacity) { return; }
    let pair = index % pairs;
    let head = (index / pairs) % p.heads;
    let source = (index / pairs) * p.head_dim + 2u * pair;
    let has_second = 2u * pair + 1u < p.head_dim;
    let k2 = vec2<f32>(k[source], select(0.0, k[source + 1u], has_second));
    let v2 = vec2<f32>(v[source], select(0.0, v[source + 1u], has_second));
    let to = (((slot / 16u) * p.heads + head) * 16u + slot % 16u) * pairs + pair;
    if (KV_F32) {
        k_pool[2u * to] = bitcast<u32>(k2.x);
        k_pool[2u * to + 1u] = bitcast<u32>(k2.y);
        v_pool[2u * to] = bitcast<u32>(v2.x);
        v_pool[2u * to + 1u] = bitcast<u32>(v2.y);
    } else {
        k_pool[to] = half_pair(k2);
        v_pool[to] = half_pair(v2);
    }
}
