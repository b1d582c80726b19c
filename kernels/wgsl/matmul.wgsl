// matmul.wgsl: dst (m, n) = src (m, k) @ weight (n, k)^T for many rows m: prefill and large batches. Block type: the file of
// blocks/ before it.
//
// A workgroup computes a tile of 8 * TM rows of src by 64 rows of the weight, 32 columns at a time: it dequantizes 64 units into
// workgroup memory, once for all rows of src, beside the same columns of src. Each of 128 threads keeps TM x 4 sums in
// registers and walks the 32 columns in fours: for TM = 8, 12 wide loads feed 128 multiply-adds. Fours of columns are swizzled
// (column ^ row % 8), which spreads a column over all banks without padding: the two tiles take exactly the 16 KiB every device
// has. Rows of src are the fastest index of workgroups, so that those running together share a stripe of the weight.
// TM is 8, or less for fewer rows. Sums are f32 whatever the device has: half-precision tiles would overflow on outlier
// activations. Bound by multiply-adds of the shader cores (matrix units are out of WGSL's reach).

struct Params {
    m: u32,
    n: u32,          // rows of this part of the weight
    units: u32,      // k / 32
    row_stride: u32, // of the weight, in vec4<u32>
    dst_stride: u32, // rows of the whole weight
    row0: u32,       // where this part's rows go in dst
    fours: u32,      // 8, unknown to the compiler: a loop that it does not unroll compiles several times faster
}

@group(0) @binding(2) var<storage, read> src: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dst: array<f32>;
@group(0) @binding(4) var<uniform> p: Params;

override TM: u32 = 8u; // rows of src per thread: 1, 2, 4 or 8
const TILE_N = 64u;
const THREADS = 128u;

var<workgroup> tile_src: array<vec4<f32>, 64u * TM>; // (8 * TM, 8 fours)
var<workgroup> tile_weight: array<vec4<f32>, 512>;   // (64, 8 fours)

fn swizzled(row: u32, four: u32) -> u32 {
    return row * 8u + (four ^ (row & 7u));
}

fn load_weight_tile(n0: u32, unit: u32, thread: u32) {
    let row = thread >> 1u;
    let half = thread & 1u;
    // Rows past the end repeat the last one; their sums are not written.
    let values = unit_half(load_unit(min(n0 + row, p.n - 1u) * p.row_stride, unit, p.units), half);
    for (var i = 0u; i < 4u; i++) {
        tile_weight[swizzled(row, 4u * half + i)] = values.q[i] * values.scale + values.offset;
    }
}

fn load_source_tile(m0: u32, unit: u32, thread: u32) {
    for (var i = thread; i < 64u * TM; i += THREADS) {
        let row = i >> 3u;
        let four = i & 7u;
        let column = half_column(unit, four >> 2u) + (four & 3u);
        tile_src[swizzled(row, four)] = src[min(m0 + row, p.m - 1u) * p.units * 8u + column];
    }
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
    let m_tiles = (p.m + 8u * TM - 1u) / (8u * TM);
    let index = linear_workgroup(group, groups);
    let m0 = (index % m_tiles) * 8u * TM;
    let n0 = (index / m_tiles) * TILE_N;
    if (n0 >= p.n) { return; } // the last line of a folded dispatch
    let tn = thread % 16u; // sums of weight rows tn, tn + 16, tn + 32, tn + 48
    let tm = thread / 16u; // and of src rows tm, tm + 8, ...
    var acc: array<vec4<f32>, 8>;
    for (var unit = 0u; unit < p.units; unit++) {
        load_weight_tile(n0, unit, thread);
        load_source_tile(m0, unit, thread);
        workgroupBarrier();
        for (var four = 0u; four < p.fours; four++) {
            let at = swizzled(tn, four); // rows 8 apart are swizzled alike
            let w0 = tile_weight[at];
            let w1 = tile_weight[at + 128u];
            let w2 = tile_weight[at + 256u];
            let w3 = tile_weight[at + 384u];
            let x_at = swizzled(tm, four);
            for (var i = 0u; i < TM; i++) {
                let x = tile_src[x_at + 64u * i];
                acc[i] += vec4<f32>(dot(w0, x), dot(w1, x), dot(w2, x), dot(w3, x));
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < TM; i++) {
        let m = m0 + tm + 8u * i;
        if (m >= p.m) { break; }
        for (var j = 0u; j < 4u; j++) {
            let n = n0 + tn + 16u * j;
            if (n < p.n) { dst[m * p.dst_stride + p.row0 + n] = acc[i][j]; }
        }
    }
}
