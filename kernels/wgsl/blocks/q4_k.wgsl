// Q4_K: w = d * scale * q - dmin * min, scale and min (6 bits each) for every 32 elements; byte i of a group of 32 holds
// elements i and i + 32 of 64. A unit is half such a group. Rows stand as in the file: a block is 9 * 16 bytes:
// d, dmin, scales in the first 16, then the quants.

struct Unit {
    quants: vec4<u32>,
    head: vec4<u32>,
    pair: u32, // which of the block's four pairs of 32 elements
}

fn load_unit(row: u32, unit: u32, units: u32) -> Unit {
    let block = row + 9u * (unit >> 3u);
    return Unit(weight4[block + 1u + (unit & 7u)], weight4[block], (unit >> 1u) & 3u);
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
    let d = unpack2x16float(raw.head.x) * scale_min(raw.head, 2u * raw.pair + half);
    return Half(nibbles(raw.quants, half), d.x, -d.y);
}

fn half_column(unit: u32, half: u32) -> u32 {
    return 64u * (unit >> 3u) + 16u * ((unit >> 1u) & 3u) + 4u * (unit & 1u) + 8u * half;
}
