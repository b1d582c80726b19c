// Q5_K: as Q4_K with a fifth bit: bit j of qh[i] belongs to element i of sub-block j.
// Rows stand as in the file: a block is 11 * 16 bytes: d, dmin, scales; qh (2); quants (8).

struct Unit {
    quants: vec4<u32>,
    high: vec4<u32>,
    head: vec4<u32>,
    pair: u32, // which of the block's four pairs of 32 elements
}

fn load_unit(row: u32, unit: u32, units: u32) -> Unit {
    let block = row + 11u * (unit >> 3u);
    return Unit(weight4[block + 3u + (unit & 7u)], weight4[block + 1u + (unit & 1u)], weight4[block], (unit >> 1u) & 3u);
}

// Scale and minimum of sub-block j of Q4_K and Q5_K, packed into three words.
fn scale_min(head: vec4<u32>, j: u32) -> vec2<f32> {
    let shift = 8u * (j & 3u);
    let a = head.y >> shift;
    let b = head.z >> shift;
    let c = head.w >> shift;
    let low = vec2<u32>(a & 63u, b & 63u);
    let high = vec2<u32>((c & 15u) | ((a >> 2u) & 48u), ((c >> 4u) & 15u) | ((b >> 2u) & 48u));
    return vec2<f32>(select(high, low, j < 4u));
}

fn unit_half(raw: Unit, half: u32) -> Half {
    let j = 2u * raw.pair + half;
    let d = unpack2x16float(raw.head.x) * scale_min(raw.head, j);
    let low = (raw.quants >> vec4<u32>(4u * half)) & vec4<u32>(0x0f0f0f0fu);
    let high = ((raw.high >> vec4<u32>(j)) & vec4<u32>(0x01010101u)) << vec4<u32>(4u);
    return Half(bytes_of(low | high, 0.0), d.x, -d.y);
}

fn half_column(unit: u32, half: u32) -> u32 {
    return 64u * (unit >> 3u) + 16u * ((unit >> 1u) & 3u) + 4u * (unit & 1u) + 8u * half;
}
