// Q2_K: w = d * scale * q - dmin * min, scale and min (a nibble each) for every 16 elements; byte i of half a block (32 bytes,
// 128 elements) holds elements i, i + 32, i + 64, i + 96. A unit takes 16 bytes and two of these four; two units share bytes.
// Planes of a row: quants (64 bytes a block), scales (16 bytes a block), d and dmin (one word a block).

struct Unit {
    quants: vec4<u32>,
    scales: vec4<u32>,
    d: vec2<f32>,
    part: u32, // unit within its block: upper half, upper elements, upper 16 bytes
}

fn load_unit(row: u32, unit: u32, units: u32) -> Unit {
    let block = unit >> 3u;
    let blocks = units >> 3u;
    let quants = weight4[row + 4u * block + 2u * ((unit >> 2u) & 1u) + (unit & 1u)];
    let d = unpack2x16float(weight1[4u * (row + 5u * blocks) + block]);
    return Unit(quants, weight4[row + 4u * blocks + block], d, unit & 7u);
}

fn unit_half(raw: Unit, half: u32) -> Half {
    let quarter = (raw.part & 2u) + half; // of 128 elements
    let index = 2u * quarter + (raw.part & 1u);
    let words = select(raw.scales.xy, raw.scales.zw, raw.part >= 4u);
    let scale_min = select(words.x, words.y, index >= 4u) >> (8u * (index & 3u));
    let d = raw.d * vec2<f32>(vec2<u32>(scale_min & 15u, (scale_min >> 4u) & 15u));
    return Half(bytes_of((raw.quants >> vec4<u32>(2u * quarter)) & vec4<u32>(0x03030303u), 0.0), d.x, -d.y);
}

fn half_column(unit: u32, half: u32) -> u32 {
    return 64u * (unit >> 3u) + 32u * ((unit >> 2u) & 1u) + 16u * ((unit >> 1u) & 1u) + 4u * (unit & 1u) + 8u * half;
}
