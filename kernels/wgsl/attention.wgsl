// attention.wgsl: dst[r][h] = softmax(scale * q[r][h] . K) V over the positions row r sees, for paged K and V (kv_store.wgsl).
// q, dst (rows, heads * head_dim) f32; query head h reads KV head h / (heads / heads_kv). A row at position x sees (x - window, x],
// or all up to x if window is 0. With softcap, scores become softcap * tanh(score / softcap).
//
// A workgroup of 64 threads takes up to 4 * QUARTER queries of one KV head: block_rows rows with all heads that share it, so that K and
// V are read once for them. It walks the positions in tiles of 32 and the dims in chunks of 64, flash style: with m the largest score
// of a query so far and s the sum of exp(score - m), a tile that raises m first shrinks the sums by exp(m_old - m_new).
// Scores: a thread has one position and half of the queries. Values: four dims of each chunk and a quarter of the queries, in registers.
// Columns of a tile are swizzled against bank conflicts. Long contexts are cut into `splits` parts where rows are few, each a
// workgroup of its own that leaves its sums (attention_merge.wgsl); else one decoding row would keep a few cores busy and no more.
// Loops over dims, positions and queries end where these do, which also keeps compilers from unrolling them; tiles are
// filled as far as they are used. 14 KiB of workgroup memory. Head dims up to 512 (registers: 16 * QUARTER for 64 dims). Sessions lie in segments of 8 words: row0,
// rows, pos0, kv type, first page, pages, unused x 2; rows of segments of another kv type are left alone.

struct Params {
    rows: u32,
    heads: u32,
    heads_kv: u32,
    head_dim: u32,
    window: u32,
    kv_type: u32,
    scale: f32,
    softcap: f32,
    block_rows: u32,
    splits: u32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k_pool: array<u32>;
@group(0) @binding(2) var<storage, read> v_pool: array<u32>;
@group(0) @binding(3) var<storage, read> page_table: array<u32>;
@group(0) @binding(4) var<storage, read> segments: array<u32>;
@group(0) @binding(5) var<storage, read> row_segment: array<u32>;
@group(0) @binding(6) var<storage, read_write> dst: array<f32>; // with splits: head_dim sums, m and s of each part
@group(0) @binding(7) var<uniform> p: Params;

override KV_F32: bool = false;
override QUARTER: u32 = 4u; // a quarter of the queries: 1 or 4
override CHUNKS: u32 = 8u;  // of 64 dims in a head
const THREADS = 64u;
const TILE = 32u;
const LOWEST = -3.0e38;

var<workgroup> tile_q: array<vec4<f32>, 64u * QUARTER>;  // (queries, 16 fours)
var<workgroup> tile_kv: array<vec4<f32>, 512>;           // (positions, 16 fours)
var<workgroup> scores: array<f32, 128u * QUARTER>;       // (queries, positions)
var<workgroup> largest: array<f32, 4u * QUARTER>;
var<workgroup> shrinks: array<f32, 4u * QUARTER>;

// The queries of a workgroup: rows [row0, row_end) of one segment times `count` heads from `head0` on.
struct Queries {
    row0: u32,
    row_end: u32,
    head0: u32,
    count: u32,
    position0: u32, // of row0
    page0: u32,
    head_kv: u32,
}

fn row_of(g: Queries, query: u32) -> u32 {
    return g.row0 + query / g.count;
}

fn is_query(g: Queries, query: u32) -> bool {
    return row_of(g, query) < g.row_end;
}

fn last_seen(g: Queries, query: u32) -> u32 {
    return g.position0 + query / g.count;
}

fn first_seen(last: u32) -> u32 {
    return select(0u, last + 1u - p.window, p.window != 0u && last >= p.window);
}

fn vector_of(g: Queries, query: u32) -> u32 { // index of a query's vector in q
    return row_of(g, query) * p.heads + g.head0 + query % g.count;
}

fn load_queries(g: Queries, chunk: u32, thread: u32) {
    let queries = (g.row_end - g.row0) * g.count;
    for (var i = thread; i < 16u * queries; i += THREADS) {
        let dim = 64u * chunk + 4u * (i % 16u);
        let at = vector_of(g, i / 16u) * p.head_dim + dim;
        let four = vec4<f32>(q[at], q[at + 1u], q[at + 2u], q[at + 3u]);
        tile_q[i] = select(four, vec4<f32>(0.0), vec4<u32>(dim, dim + 1u, dim + 2u, dim + 3u) >= vec4<u32>(p.head_dim));
    }
}

fn k_pair(at: u32) -> vec2<f32> {
    if (KV_F32) { return vec2<f32>(bitcast<f32>(k_pool[2u * at]), bitcast<f32>(k_pool[2u * at + 1u])); }
    return unpack2x16float(k_pool[at]);
}

fn v_pair(at: u32) -> vec2<f32> {
    if (KV_F32) { return vec2<f32>(bitcast<f32>(v_pool[2u * at]), bitcast<f32>(v_pool[2u * at + 1u])); }
    return unpack2x16float(v_pool[at]);
}

// 64 dims of K or V at `used` positions; zeros behind the head.
fn load_tile(g: Queries, values: bool, tile: u32, used: u32, chunk: u32, thread: u32) {
    let pairs = (p.head_dim + 1u) / 2u;
    for (var i = thread; i < 16u * used; i += THREADS) {
        let position = tile + i / 16u;
        let pair = 32u * chunk + 2u * (i % 16u);
        var four = vec4<f32>(0.0);
        if (pair < pairs) {
            let slot = (page_table[g.page0 + position / 16u] * p.heads_kv + g.head_kv) * 16u + position % 16u;
            let at = slot * pairs + pair;
            let other = min(at + 1u, slot * pairs + pairs - 1u);
            if (values) { four = vec4<f32>(v_pair(at), v_pair(other)); } else { four = vec4<f32>(k_pair(at), k_pair(other)); }
            if (pair + 1u == pairs) { four = vec4<f32>(four.xy, 0.0, 0.0); }
        }
        tile_kv[swizzled(i / 16u, i % 16u)] = four;
    }
}

fn score_at(query: u32, position: u32) -> u32 {
    return query * TILE + (position + query) % TILE;
}

fn swizzled(position: u32, four: u32) -> u32 {
    return position * 16u + (four ^ (position & 15u));
}

fn capped(score: f32) -> f32 {
    if (p.softcap == 0.0) { return score; }
    return p.softcap * tanh(clamp(score / p.softcap, -15.0, 15.0)); // past 15 tanh is 1, and overflows on some devices
}

// All queries of the group over the positions [start, end), the part with this number.
fn attend(g: Queries, start: u32, end: u32, part: u32, thread: u32) {
    let lane = thread % TILE;
    let upper = (thread / TILE) * 2u * QUARTER;   // first query of this thread's scores
    let four = thread % 16u;
    let quarter = (thread / 16u) * QUARTER;       // first query of its values
    var acc: array<vec4<f32>, 32>;                // (chunks, queries)
    var totals: array<f32, 4>;
    if (thread < 4u * QUARTER) { largest[thread] = LOWEST; }
    workgroupBarrier();
    for (var tile = start; tile < end; tile += TILE) {
        let used = min(TILE, end - tile);
        var own = array<f32, 8>(); // explicitly: Dawn does not set a variable in a loop to zero again
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            workgroupBarrier();
            load_queries(g, chunk, thread);
            load_tile(g, false, tile, used, chunk, thread);
            workgroupBarrier();
            let fours = min(16u, (p.head_dim - 64u * chunk + 3u) / 4u);
            for (var d = 0u; d < fours; d++) {
                let k = tile_kv[swizzled(lane, d)];
                for (var i = 0u; i < 2u * QUARTER; i++) { own[i] += dot(k, tile_q[(upper + i) * 16u + d]); }
            }
        }
        let position = tile + lane;
        for (var i = 0u; i < 2u * QUARTER; i++) {
            let last = last_seen(g, upper + i);
            let seen = position >= first_seen(last) && position <= last && position < end;
            own[i] = select(LOWEST, capped(own[i] * p.scale), seen);
            scores[score_at(upper + i, lane)] = own[i];
        }
        workgroupBarrier();
        if (thread < 4u * QUARTER) {
            var most = largest[thread];
            for (var i = 0u; i < used; i++) { most = max(most, scores[score_at(thread, i)]); }
            shrinks[thread] = exp(largest[thread] - most);
            largest[thread] = most;
        }
        workgroupBarrier();
        for (var i = 0u; i < 2u * QUARTER; i++) {
            let weight = select(0.0, exp(own[i] - largest[upper + i]), own[i] > LOWEST);
            scores[score_at(upper + i, lane)] = weight;
        }
        for (var i = 0u; i < QUARTER; i++) {
            let shrink = shrinks[quarter + i];
            totals[i] *= shrink;
            for (var chunk = 0u; chunk < CHUNKS; chunk++) { acc[chunk * QUARTER + i] *= shrink; }
        }
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            workgroupBarrier();
            load_tile(g, true, tile, used, chunk, thread);
            workgroupBarrier();
            for (var j = 0u; j < used; j++) {
                let v = tile_kv[swizzled(j, four)];
                for (var i = 0u; i < QUARTER; i++) {
                    let weight = scores[score_at(quarter + i, j)];
                    acc[chunk * QUARTER + i] += weight * v;
                    if (chunk == 0u) { totals[i] += weight; }
                }
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < QUARTER; i++) {
        if (!is_query(g, quarter + i)) { continue; }
        let vector = vector_of(g, quarter + i);
        let stride = select(p.head_dim, p.head_dim + 2u, p.splits > 1u);
        let at = select(vector, vector * p.splits + part, p.splits > 1u) * stride;
        let factor = select(1.0 / totals[i], 1.0, p.splits > 1u);
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            for (var j = 0u; j < 4u; j++) {
                let dim = 64u * chunk + 4u * four + j;
                if (dim < p.head_dim) { dst[at + dim] = acc[chunk * QUARTER + i][j] * factor; }
            }
        }
        if (p.splits > 1u && four == 0u) {
            dst[at + p.head_dim] = largest[quarter + i];
            dst[at + p.head_dim + 1u] = totals[i];
        }
    }
    workgroupBarrier(); // `largest` is set anew by the next group
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
    let shared_heads = p.heads / p.heads_kv;
    let head_tiles = (shared_heads + 4u * QUARTER - 1u) / (4u * QUARTER);
    var index = linear_workgroup(group, groups);
    let part = index % p.splits;
    index /= p.splits;
    let head0 = (index % head_tiles) * 4u * QUARTER; // of those that share a KV head
    index /= head_tiles;
    let head_kv = index % p.heads_kv;
    let block = (index / p.heads_kv) * p.block_rows;
    let block_end = min(block + p.block_rows, p.rows);
    for (var row = block; row < block_end;) { // rows of one segment at a time
        let segment = row_segment[row] * 8u;
        let row_end = min(block_end, segments[segment] + segments[segment + 1u]);
        if (segments[segment + 3u] == p.kv_type) {
            let position0 = segments[segment + 2u] + row - segments[segment];
            let heads = min(shared_heads - head0, 4u * QUARTER);
            let g = Queries(row, row_end, head_kv * shared_heads + head0, heads, position0, segments[segment + 4u], head_kv);
            let first = first_seen(position0) / TILE * TILE;
            let end = position0 + row_end - row;
            let length = ((end - first + p.splits - 1u) / p.splits + TILE - 1u) / TILE * TILE;
            attend(g, first + part * length, min(end, first + (part + 1u) * length), part, thread);
        }
        row = max(row_end, row + 1u); // a record that does not hold its row must not stop the GPU
    }
}
