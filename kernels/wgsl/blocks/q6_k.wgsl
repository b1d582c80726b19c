// Q6_K: w = d * scale * (q - 32), a scale (signed byte) for every 16 elements. Half a block, 128 elements, has 64 bytes ql (low
// nibbles: elements 0..63, high ones: 64..127) and 32 bytes qh (pairs of bits of elements i, i + 32, i + 64, i + 96).
// A unit is 16 bytes of ql. Planes of a row: ql, qh, scales of each block (13 * 16 bytes), then d (f16).

struct Unit {
    quants: vec4<u32>,
    high: vec4<u32>,
    scales: u32, // the byte `part` is that of half 0, of the next word that of half 1
    scales_next: u32,
    part: u32, // which 16 of 64 elements
    d: f32,
}

fn load_unit(row: u32, unit: u32, units: u32) -> Unit {
    let block = unit >> 3u;
    let at = row + 13u * block;
    let upper = (unit >> 2u) & 1u;
    let part = unit & 3u;
    let scales = 4u * (at + 12u) + 2u * upper;
    let d = f16_at(4u * (row + 13u * (units >> 3u)), block);
    return Unit(weight4[at + (unit & 7u)], weight4[at + 8u + 2u * upper + (part & 1u)], weight1[scales],
                weight1[scales + 1u], part, d);
}

fn unit_half(raw: Unit, half: u32) -> Half {
    let low = (raw.quants >> vec4<u32>(4u * half)) & vec4<u32>(0x0f0f0f0fu);
    let high = ((raw.high >> vec4<u32>(2u * (raw.part >> 1u) + 4u * half)) & vec4<u32>(0x03030303u)) << vec4<u32>(4u);
    let word = bitcast<i32>(select(raw.scales, raw.scales_next, half == 1u));
    let scale = (word << (24u - 8u * raw.part)) >> 24u;
    return Half(bytes_of(low | high, 32.0), raw.d * f32(scale), 0.0);
}

fn half_column(unit: u32, half: u32) -> u32 {
    return 64u * (unit >> 3u) + 32u * ((unit >> 2u) & 1u) + 4u * (unit & 3u) + 16u * half;
}
