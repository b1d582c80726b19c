// Q3_K: w = d * (scale - 32) * (q - 4), a scale (6 bits) for every 16 elements; two bits of q stand as in Q2_K, the third is bit
// 4 * (upper half) + quarter of hmask[i]. Planes of a row: quants (64 bytes a block), hmask (32 bytes), scales (12 bytes), d (f16).

struct Unit {
    quants: vec4<u32>,
    high: vec4<u32>,
    scales: vec3<u32>,
    d: f32,
    part: u32, // unit within its block: upper half, upper elements, upper 16 bytes
}

fn load_unit(row: u32, unit: u32, units: u32) -> Unit {
    let block = unit >> 3u;
    let blocks = units >> 3u;
    let quants = weight4[row + 4u * block + 2u * ((unit >> 2u) & 1u) + (unit & 1u)];
    let high = weight4[row + 4u * blocks + 2u * block + (unit & 1u)];
    let planes = 4u * (row + 6u * blocks);
    let at = planes + 3u * block;
    return Unit(quants, high, vec3<u32>(weight1[at], weight1[at + 1u], weight1[at + 2u]), f16_at(planes + 3u * blocks, block),
                unit & 7u);
}

// Scale j: four low bits in a nibble of bytes 0..7, two high bits in bytes 8..11.
fn scale_of(scales: vec3<u32>, j: u32) -> f32 {
    let low = (select(scales.x, scales.y, (j & 4u) != 0u) >> (8u * (j & 3u) + 4u * (j >> 3u))) & 15u;
    let high = (scales.z >> (8u * (j & 3u) + 2u * (j >> 2u))) & 3u;
    return f32(low | (high << 4u)) - 32.0;
}

fn unit_half(raw: Unit, half: u32) -> Half {
    let upper = raw.part >> 2u;
    let quarter = (raw.part & 2u) + half; // of 128 elements
    let low = (raw.quants >> vec4<u32>(2u * quarter)) & vec4<u32>(0x03030303u);
    let high = ((raw.high >> vec4<u32>(4u * upper + quarter)) & vec4<u32>(0x01010101u)) << vec4<u32>(2u);
    return Half(bytes_of(low | high, 4.0), raw.d * scale_of(raw.scales, 8u * upper + 2u * quarter + (raw.part & 1u)), 0.0);
}

fn half_column(unit: u32, half: u32) -> u32 {
    return 64u * (unit >> 3u) + 32u * ((unit >> 2u) & 1u) + 16u * ((unit >> 1u) & 1u) + 4u * (unit & 1u) + 8u * half;
}
